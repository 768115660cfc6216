"""The report of an evaluation: a table for the console, JSON for programs, and a page for people."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import shlex
import string
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from ..command_line.counts import counted
from ..hub.card.calibration_section import NOUNS
from ..saving.staged_files import staged
from ..saving.whole_folders import check_writable
from . import charts
from .charts import Series, shortened
from .findings import FileEvaluation, Findings
from .label_errors import FILE, LabelErrors, as_csv
from .shift.label_correction import LEVEL

JSON, PAGE = "evaluation.json", "report.html"
# The metric of each task that the table shows.
MAIN_METRICS = {"classification": "accuracy", "multi-label": "f1", "ner": "f1", "qa": "f1"}
_RIGHT = {
    "classification": "accuracy",
    "multi-label": "share of right labels",
    "ner": "share of right tags",
    "qa": "share of exact answers",
}
# More characters of a text would hide the others.
_SHOWN = 500
# A sentence names the shares of no more labels.
_NAMED = 4
# The page shows no more labels that look wrong. The file has all of them.
_DOUBTED = 50
_ESTIMATES = {
    "thresholds_and_transport": "thresholds and transport",
    "thresholded_confidence": "thresholded confidence",
    "transport": "transport",
    "confidence_difference": "difference of confidences",
    "confidence": "mean confidence",
    "agreement": "agreement of models",
}


def as_json(evaluation: Findings) -> str:
    """Return everything that was found out. A number that is not finite becomes null."""
    return json.dumps(_finite(dataclasses.asdict(evaluation)), indent=1, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_text(evaluation: Findings) -> str:
    """Return what the console shows: a table with a line for each file, and then what helps."""
    advice = [
        f"{each.name}: {advised} Run:\n  {remedy(evaluation, each)}"
        for each in evaluation.files
        if (advised := advice_on(evaluation, each))
    ]
    cascades = [f"{each.name}: {each.cascade.in_words(evaluation.then)}" for each in evaluation.files if each.cascade]
    doubts = [f"{each.name}: {doubted}" for each in evaluation.files if (doubted := doubts_on(each))]
    return "\n\n".join((as_table(evaluation), *advice, *cascades, *doubts))


def doubts_on(each: FileEvaluation) -> str:
    """Say how many labels of a file look wrong; empty if none does."""
    found = each.label_errors
    return f"{found} The report has {FILE}." if found is not None and found.found else ""


def as_table(evaluation: Findings) -> str:
    """Return a table for the console, with a line for each file."""
    head, *lines = table_of(evaluation)
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in (head, *lines)
    )


def table_of(evaluation: Findings) -> list[list[str]]:
    """Return the cells of the table, whose first line is the head. Columns without any value are left out."""
    main, right = MAIN_METRICS[evaluation.task], _RIGHT[evaluation.task]
    columns: dict[str, list[str]] = {"file": [each.name for each in evaluation.files]}
    columns["texts"] = [f"{each.texts:,}" for each in evaluation.files]
    columns[f"{main} (95 %)"] = [str(each.metrics.get(main, "")) for each in evaluation.files]
    if main != right:
        columns[right] = [_number(each.right.value if each.right else None) for each in evaluation.files]
    columns["estimated"] = [_number(each.estimate) for each in evaluation.files]
    columns["matched"] = [_number(each.matching.after if each.matching else None) for each in evaluation.files]
    for name, metric in (("ECE", "expected_calibration_error"), ("Brier", "brier_score")):
        columns[name] = [
            _number(each.metrics[metric].value if metric in each.metrics else None) for each in evaluation.files
        ]
    columns["AURC"] = [_number(each.risk_coverage_area) for each in evaluation.files]
    columns["sets: coverage, size"] = [_first_sets(each) for each in evaluation.files]
    columns["unfamiliar"] = [_number(each.unfamiliarity_auroc) for each in evaluation.files]
    columns["inputs: AUROC, p"] = [
        f"{each.input_shift.auroc:.3f}, {p_value(each.input_shift.p_value)}" if each.input_shift else ""
        for each in evaluation.files
    ]
    columns["labels: p, fit"] = [
        f"{p_value(each.label_shift.p_value)}, {p_value(each.label_shift.fit)}" if each.label_shift else ""
        for each in evaluation.files
    ]
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    return [list(kept), *map(list, zip(*kept.values(), strict=True))]


def advice_on(evaluation: Findings, each: FileEvaluation) -> str:
    """Say in a sentence or two what would help in a file; empty if nothing is known to."""
    if (matching := each.matching) is None:
        return ""
    shares = ", ".join(f"{label} {share:.3g}" for label, share in zip(evaluation.labels, matching.shares, strict=True))
    named = f" ({shares})" if len(matching.shares) <= _NAMED else ""
    if matching.after is None:
        too_high = (
            f", and the estimate of {each.estimate:.3f}, which relies on the model's confidences, is too high"
            if each.estimate is not None and each.estimate > matching.before
            else ""
        )
        return (
            f"The model predicts other shares of the labels than at home. If the shares at home{named} are right here "
            f"too, at least {1 - matching.before:.1%} of its answers are wrong{too_high}. To find out, count the "
            "labels of 50 texts, and match their shares instead."
        )
    source = "at home" if matching.of_home else "in this file"
    return (
        f"Matching the labels to their shares {source}{named} raises the accuracy from {matching.before:.3f} to "
        f"{matching.after:.3f}."
    )


def remedy(evaluation: Findings, each: FileEvaluation) -> str:
    """Return the command that follows the advice, or for an evaluation in Python, the call."""
    assert each.matching is not None
    # Four digits, so that the sum of many shares is still 1.
    shares = {label: f"{share:.4g}" for label, share in zip(evaluation.labels, each.matching.shares, strict=True)}
    if not evaluation.command:
        pairs = ", ".join(f"{label!r}: {share}" for label, share in shares.items())
        return f"match_label_shares(model, tokenizer, texts, {{{pairs}}})"
    target = f"{Path(evaluation.model).name}-for-{each.name.replace('/', '-')}"
    given = (
        []
        if each.matching.of_home and each.labelled
        else ["--label_shares", *(f"{label}={share}" for label, share in shares.items())]
    )
    more = ["--overwrite", "--match", each.name, *given, "--matched_dir", target]
    return f"{evaluation.command} {shlex.join(more)}"


def _first_sets(each: FileEvaluation) -> str:
    if not each.sets:
        return ""
    coverage, found = next(iter(each.sets.items()))
    covered = f"{found['coverage']:.3f}" if "coverage" in found else "?"
    return f"{float(coverage):.0%} → {covered}, {found['size']:.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def p_value(value: float) -> str:
    """Return a p-value with three digits."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def save_report(evaluation: Findings, folder: Any, overwrite: bool = False) -> None:
    """Write the report into a folder; see `Evaluation.save`."""
    folder = Path(folder)
    check_folder(folder, overwrite)
    texts = {JSON: as_json(evaluation), PAGE: as_page(evaluation)}
    home = evaluation.files[0]
    if home.label_errors is not None and home.label_errors.found:
        # A spreadsheet only takes it for UTF-8 with a byte order mark.
        texts[FILE] = "\ufeff" + as_csv(home.label_errors)
    with staged(folder, lambda name, new: name == FILE and name not in new) as written:
        for name, text in texts.items():
            (written / name).write_text(text, encoding="utf-8")


def check_folder(folder: Path, overwrite: bool) -> None:
    """Check that a report may be written into a folder.

    Raises:
        FileExistsError: If it may not.
        OSError: If it cannot.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another --output_dir.")
    check_writable(folder / JSON)
    if not overwrite and (there := [name for name in (JSON, PAGE, FILE) if (folder / name).exists()]):
        raise FileExistsError(
            f"{folder} has {' and '.join(there)}; choose another --output_dir, or replace the report with --overwrite."
        )


def as_page(evaluation: Findings) -> str:
    """Return the page, which needs neither a server nor the network. All texts of users are escaped."""
    page = (package_files(__package__) / PAGE).read_text(encoding="utf-8")
    colors = charts.colors_of([each.name for each in evaluation.files])
    sections = "\n".join(_section(evaluation, each, colors) for each in evaluation.files)
    curves = {each.name: each.risk_coverage for each in evaluation.files if each.risk_coverage}
    compared = [
        (each.name, each.right.value, each.estimate)
        for each in evaluation.files
        if each.right is not None and each.estimate is not None
    ]
    cascades = {each.name: each.cascade for each in evaluation.files if each.cascade}
    figures = [
        _figure(
            "Accuracy and speed",
            f"The accuracy if {evaluation.then} reads some texts, over the speed beside it alone. Circles show "
            "the threshold that the first file chooses.",
            charts.cascades(cascades, colors),
        )
        if cascades
        else "",
        _figure(
            "Risk and coverage", "The share of errors among the most confident answers.", charts.curves(curves, colors)
        )
        if curves
        else "",
        _figure(
            "Estimated and true",
            f"The {_RIGHT[evaluation.task]}, estimated without labels and counted with them.",
            charts.pairs(compared, colors),
        )
        if compared
        else "",
    ]
    return string.Template(page).substitute(
        title=_safe(f"{evaluation.model}: evaluation"),
        model=_safe(evaluation.model),
        task=_safe(evaluation.task),
        version=_safe(evaluation.version),
        seed=evaluation.seed,
        table=_table(table_of(evaluation)),
        figures=_grid(figures),
        sections=sections,
    )


def _section(evaluation: Findings, each: FileEvaluation, colors: Mapping[str, str]) -> str:
    """Return what the page says about one file."""
    home, color = evaluation.files[0].name, colors[each.name]
    parts = [
        f'<h2><span style="background:{color}"></span>{_safe(each.name)}</h2>',
        f"<p>{_safe(in_words(evaluation, each, each.name == home))}</p>",
    ]
    if advised := advice_on(evaluation, each):
        parts.append(f"<p><b>{_safe(advised)}</b></p><pre>{_safe(remedy(evaluation, each))}</pre>")
    if each.cascade:
        parts.append(f"<p>{_safe(each.cascade.in_words(evaluation.then))}</p>")
    figures = []
    if each.reliability:
        error = each.metrics["expected_calibration_error"].value
        figures.append(
            _figure(
                "Reliability", f"Expected calibration error {error:.3f}.", charts.reliability(each.reliability, color)
            )
        )
    if each.label_shift is not None:
        estimated = [share.value for share in each.label_shift.shares]
        bars = [Series("home", colors[home], each.label_shift.home), Series("estimated", color, estimated, 0.5)]
        if each.label_shares is not None:
            bars.append(Series("true", color, each.label_shares))
        figures.append(_figure("Shares of the labels", "", charts.bars(evaluation.labels, bars)))
    parts.append(_grid(figures))
    tables = []
    if each.metrics:
        tables.append(_table([["metric", "value (95 %)"], *([name, str(each.metrics[name])] for name in each.metrics)]))
    if each.estimates:
        rows = [[_ESTIMATES[name], _number(each.estimates[name])] for name in _ESTIMATES if name in each.estimates]
        if each.right is not None:
            rows.append(["true", str(each.right)])
        tables.append(_table([[f"{_RIGHT[evaluation.task]} without labels", "value"], *rows]))
    if each.corrected_accuracy is not None and each.matched_accuracy is not None:
        rows = [
            ["for the estimated shares of the labels", _number(each.corrected_accuracy)],
            ["to give labels as often as at home", _number(each.matched_accuracy)],
        ]
        if each.matching is not None and not each.matching.of_home:
            rows.append(["to give labels as often as they occur in the file", _number(each.matching.after)])
        tables.append(_table([["accuracy with a corrected bias", "value"], *rows]))
    if each.sets:
        rows = [
            [f"{float(coverage):.0%}", _number(found.get("coverage")), f"{found['size']:.2f}"]
            for coverage, found in each.sets.items()
        ]
        tables.append(_table([[f"sets of {NOUNS.get(evaluation.task, 'labels')}", "coverage", "mean size"], *rows]))
    parts.append(_grid(tables))
    if (shift := each.input_shift) is not None:
        parts += [
            _texts("The texts that are the most unlike home", shift.texts),
            _texts("The texts at home that are the most unlike these", shift.home_texts),
            f"<p><b>Words of <bdi>{_safe(each.name)}</bdi>:</b> {_words(shift.words)}. "
            f"<b>Words of home:</b> {_words(shift.home_words)}.</p>",
        ]
    if each.label_errors is not None and each.label_errors.found:
        parts.append(_label_errors(each.label_errors))
    return f"<section>{''.join(parts)}</section>"


def _label_errors(errors: LabelErrors) -> str:
    """Return the table of the labels that look wrong."""
    rows = [["text", "label", "more likely", "probability that the label is wrong"]]
    rows += [
        [shortened(each.text, _SHOWN), each.label, each.suggested, f"{each.wrong:.2f}"]
        for each in errors.found[:_DOUBTED]
    ]
    more = f" Only the first {_DOUBTED} are shown." if len(errors.found) > _DOUBTED else ""
    said = f"{errors} About {errors.share:.1%} of all labels are wrong, if errors are random.{more}"
    return f"<details><summary>Labels that look wrong</summary><p>{_safe(said)}</p>{_table(rows)}</details>"


def in_words(evaluation: Findings, each: FileEvaluation, is_home: bool) -> str:
    """Say in sentences whether a file has shifted."""
    said = [f"{counted(each.texts, 'text')}{'' if each.labelled else ' without labels'}."]
    if is_home:
        said.append("The other files are compared with this one.")
    if (shift := each.input_shift) is not None:
        told = f"a classifier of their vectors tells them from home with an AUROC of {shift.auroc:.3f}"
        verdict = "The texts have shifted" if shift.p_value < LEVEL else "No shift of the texts was found"
        said.append(f"{verdict}: {told} (p {_equals(shift.p_value)}).")
    if (labels := each.label_shift) is not None:
        if labels.p_value >= LEVEL:
            said.append(f"No shift of the labels was found (p {_equals(labels.p_value)}).")
        elif labels.fit >= LEVEL:
            said.append(
                f"The shares of the labels seem to have shifted (p {_equals(labels.p_value)}), and that alone could "
                f"explain the scores of the model (p {_equals(labels.fit)})."
            )
        else:
            said.append(
                f"The model gives the labels in other shares than at home (p {_equals(labels.p_value)}), but a shift "
                f"of the labels alone does not explain its scores (p {_equals(labels.fit)}): do not trust the "
                "estimated shares."
            )
    if each.estimate is not None:
        true = f"; with labels, it is {each.right}" if each.right is not None else ""
        low, high = min(each.estimates.values()), max(each.estimates.values())
        said.append(
            f"The {_RIGHT[evaluation.task]}, estimated without labels, is {each.estimate:.3f} (all estimates: "
            f"{low:.3f} to {high:.3f}){true}."
        )
    return " ".join(said)


def _equals(value: float) -> str:
    return p_value(value) if value < 0.001 else f"= {p_value(value)}"


def _safe(text: str) -> str:
    return html.escape(str(text), quote=True)


def _figure(title: str, caption: str, picture: str) -> str:
    return f"<figure><figcaption><b>{_safe(title)}.</b> {_safe(caption)}</figcaption>{picture}</figure>"


def _grid(figures: Iterable[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    # Word joiners keep an interval on one line, and a space that does not break keeps a percentage there.
    rows = [[cell.replace("–", "\u2060–\u2060").replace(" %", "\u00a0%") for cell in row] for row in rows]  # noqa: RUF001 (a dash)
    head = "".join(f"<th>{_safe(cell)}</th>" for cell in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{_safe(cell)}</td>' for cell in row)}</tr>" for row in rows[1:])
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _texts(title: str, texts: Iterable[tuple[str, float]]) -> str:
    items = "".join(
        f"<li><bdi>{_safe(shortened(text, _SHOWN))}</bdi> <small>{value:.2f}</small></li>" for text, value in texts
    )
    return f"<details><summary>{_safe(title)}</summary><ol>{items}</ol></details>"


def _words(words: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"<bdi>{_safe(word)}</bdi> <small>{value:.1f}</small>" for word, value in words) or "none"
