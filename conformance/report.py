"""The report of a run, which compares our models with BERT and ModernBERT and decides whether the run failed."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath

import pytest
from accepted_skips import ACCEPTED_SKIPS
from subjects import COUNTERPARTS

OUTCOMES = ("passed", "skipped", "failed")
REFERENCES = set(COUNTERPARTS.values())


class Report:
    """A plugin that prints a table, and fails the run if our model skips a test that its counterpart does not skip.

    Failures of the counterparts are counted, but do not fail the run.
    """

    def __init__(self) -> None:
        # The worst outcome of a test and its subtests, by suite, subject and test.
        self.outcomes: dict[tuple[str, str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record an outcome."""
        path, *classes, test = report.nodeid.split("::")
        key = (PurePosixPath(path).stem.removeprefix("test_"), "::".join(classes), test)
        self.outcomes[key] = max(self.outcomes.get(key, "passed"), report.outcome, key=OUTCOMES.index)

    def own_skips(self) -> dict[str, list[str]]:
        """Return, for each test, our subjects that skip it while their counterpart does not."""
        skipped = defaultdict(list)
        for (suite, subject, test), outcome in sorted(self.outcomes.items()):
            shared = self.outcomes.get((suite, COUNTERPARTS.get(subject, subject), test)) == "skipped"
            if outcome == "skipped" and not shared:
                skipped[test].append(subject)
        return skipped

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Decide whether the run failed."""
        failed = {subject for (_, subject, _), outcome in self.outcomes.items() if outcome == "failed"}
        if session.exitstatus == pytest.ExitCode.TESTS_FAILED and failed and failed <= REFERENCES:
            session.exitstatus = pytest.ExitCode.OK
        if session.exitstatus == pytest.ExitCode.OK and self.own_skips().keys() - ACCEPTED_SKIPS.keys():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, and the skips that only our models have."""
        counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * len(OUTCOMES))
        for (suite, subject, _), outcome in self.outcomes.items():
            counts[suite, subject][OUTCOMES.index(outcome)] += 1
        suites = sorted({suite for suite, _ in counts})
        subjects = [
            name for name in [*COUNTERPARTS, *sorted(REFERENCES)] if any(name == subject for _, subject in counts)
        ]
        terminalreporter.section("passed / skipped / failed")
        terminalreporter.line("".join(f"{column:>18}" for column in ("", *suites)))
        for name in subjects:
            cells = [" / ".join(map(str, counts[suite, name])) if (suite, name) in counts else "" for suite in suites]
            terminalreporter.line("".join(f"{cell:>18}" for cell in (name, *cells)))
        for (suite, subject, test), outcome in sorted(self.outcomes.items()):
            if outcome == "failed" and subject in REFERENCES:
                terminalreporter.line(f"{suite}, {test} fails for {subject}, which does not count")
        for test, skipping in self.own_skips().items():
            reason = ACCEPTED_SKIPS.get(test, "not accepted")
            terminalreporter.line(f"{test} is skipped for {', '.join(skipping)} but not for the counterpart: {reason}")
