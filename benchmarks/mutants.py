"""Break the package in thirty places, one at a time, and check that the tests find each of them.

    python benchmarks/mutants.py
    python benchmarks/mutants.py --only sliding-window rollback

A refactoring that moves modules and tests must leave the tests as strong as they were. Each mutant is a snippet that
occurs once in the sources, so that it is found in whatever module it lives. The tracked files are copied to a temporary
folder, and the checkout stays as it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "sequence_encoder"
_NO_SOURCES = ("tests", "benchmarks", "docs", "examples", "conformance")
_PASSED, _FAILED = 0, 1  # exit statuses of pytest


@dataclass(frozen=True)
class Mutant:
    """A place to break.

    Attributes:
        name: What the option `--only` takes.
        old: A fragment of a line that occurs once in the sources.
        new: What replaces it.
        tests: Files of tests by their names, optionally followed by ` -k ` and an expression.
    """

    name: str
    old: str
    new: str
    tests: str

    @property
    def files(self) -> list[str]:
        """The names of the files of tests."""
        return self.tests.partition(" -k ")[0].split()

    @property
    def expression(self) -> str:
        """The expression that selects tests in them; it is empty if all are selected."""
        return self.tests.partition(" -k ")[2]


# fmt: off
MUTANTS = (
    # Modeling
    Mutant("packed-lengths", tests="test_padding_free.py -k packed_and_padded_paths",
           old="pad(lengths.cumsum(0), (1, 0))",
           new="pad(lengths.flip(0).cumsum(0), (1, 0))"),
    Mutant("sliding-window", tests="test_attention_backends.py -k every_backend",
           old="(query - key).abs() <= window",
           new="(query - key).abs() < window"),
    Mutant("rotary-sign", tests="test_conversion.py -k equals_the_original_there and biases-mean",
           old="torch.cat([-sin, sin], dim=-1)",
           new="torch.cat([sin, -sin], dim=-1)"),
    Mutant("disentangled-turn", tests="test_disentangled.py -k training_has_the_outputs",
           old="turned = moving(products, key).mT",
           new="turned = moving(products, key)"),
    Mutant("mean-over-padding", tests="test_conversion.py -k equals_the_original_there and biases-mean",
           old="is None else token_mask.sum(dim=1, keepdim=True).clamp(min=1)",
           new="is None else token_mask.shape[1]"),
    Mutant("label-weights", tests="test_label_weights.py -k weighted_sum",
           old="one if weights is None else weights, local_count",
           new="one, local_count"),
    Mutant("labelled-positions", tests="test_heads.py -k projecting_only_labelled",
           old="needed = (labels.long() != IGNORED).view(shape)",
           new="needed = (labels.long() != IGNORED).view(shape).roll(1, 1)"),
    Mutant("eight-bit-scale", tests="test_quantization.py -k formula",
           old="self.weight * self.weight_scale[:, None] / self.input_scale",
           new="self.weight * self.weight_scale[:, None]"),
    Mutant("temperature", tests="test_adaptive_scaling.py -k temperatures_are_found",
           old="return logits / adaptive_temperatures(",
           new="return logits * adaptive_temperatures("),
    Mutant("conformal-quantile", tests="test_calibration.py -k as_often_as_asked",
           old="(1 - coverage) * (self.texts + 1) - 1",
           new="coverage * (self.texts + 1) - 1"),
    Mutant("banned-tokens", tests="test_generation_constraints.py -k allowed_tokens_hold",
           old="index_fill_(1, self._banned.to(scores.device), -torch.inf)",
           new="index_fill_(1, self._banned.to(scores.device), 0)"),
    Mutant("window-overlap", tests="test_span_extraction.py -k windows_that_lose_no_span",
           old="max(length // 4, min(fields.max_width, length // 2))",
           new="0"),
    # Command line, saving, tokenizer and data
    Mutant("unknown-option", tests="test_mistakes.py -k ends_in_one_line",
           old='word = name.lstrip("-")',
           new='continue; word = name.lstrip("-")'),
    Mutant("auto-map", tests="test_code_bundle.py -k maps_every_auto_class",
           old='if kind == "AutoConfig" or name in offered else LEFT_OUT',
           new="if name else LEFT_OUT"),
    Mutant("rollback", tests="test_saving.py -k rolled_back",
           old="(old / name).replace(folder / name)",
           new="(old / name).exists()"),
    Mutant("truncation", tests="test_static_encoder.py -k read_whole",
           old="[row[: self.max_length] for row in rows]",
           new="[row[-self.max_length :] for row in rows]"),
    Mutant("byte-order-mark", tests="test_corpus.py -k decoded",
           old='return "utf-8-sig" if "utf-8-sig" in kinds else "utf-8"',
           new='return "utf-8"'),
    Mutant("token-budget", tests="test_token_batches.py -k within_the_budget",
           old="            tokens = lengths[index]",
           new="            tokens = 0"),
    # Conversion and inference
    Mutant("bert-values", tests="test_conversion.py -k equals_the_original_there",
           old='*(f"{_ATTENTION}.{part}" for part in ("query", "key", "value")),',
           new='*(f"{_ATTENTION}.{part}" for part in ("query", "value", "key")),'),
    Mutant("answer-end", tests="test_pipelines.py -k found_anywhere_in_a_long_context",
           old="span = (opening[0], closing[1])",
           new="span = (opening[0], closing[0])"),
    Mutant("shards-that-exist", tests="test_embed_command.py -k only_missing_shards",
           old="is_mine(shard) and shard not in done, ranges",
           new="is_mine(shard), ranges"),
    # Evaluation
    Mutant("f1", tests="test_evaluation_measures.py -k scikit_learn",
           old="2 * hits / np.maximum(found + true, 1)",
           new="hits / np.maximum(found + true, 1)"),
    Mutant("explanation-sign", tests="test_explanation.py -k gradients_are_those",
           old="share * ((end - start).float()",
           new="share * ((start - end).float()"),
    Mutant("label-errors-order", tests="test_label_errors.py -k planted",
           old='np.argsort(-wrong, kind="stable")',
           new='np.argsort(wrong, kind="stable")'),
    # Training
    Mutant("complete-checkpoints", tests="test_interruptions.py -k only_complete_checkpoints",
           old="if (path / MARKER).exists()), None)",
           new="if path.exists()), None)"),
    Mutant("distillation-loss", tests="test_distill.py -k learn_its_answers",
           old="return divergence * _TEMPERATURE**2",
           new="return -divergence * _TEMPERATURE**2"),
    Mutant("best-weights", tests="test_adaptation.py -k reports_and_saves",
           old="score >= self.best:",
           new="score <= self.best:"),
    # Search and serving
    Mutant("search-order", tests="test_search.py -k hits_are_the_nearest",
           old="np.lexsort((rows, -scores))",
           new="np.lexsort((rows, scores))"),
    Mutant("reranking-order", tests="test_search.py -k reranks_by_cosine",
           old="(replace(hit, score=score) for hit, score in scored), key=lambda hit: -hit.score",
           new="(replace(hit, score=score) for hit, score in scored), key=lambda hit: hit.score"),
    Mutant("body-limit", tests="test_serving.py -k large_bodies",
           old='left -= len(message.get("body", b""))',
           new="left -= 0"),
)
# fmt: on


def sources_of(copy: Path) -> dict[Path, str]:
    """Return the text of each module of the package, without tests, benchmarks and documentation."""
    files = (file for file in copy.rglob("*.py") if file.relative_to(copy).parts[0] not in _NO_SOURCES)
    return {file: file.read_text(encoding="utf-8") for file in files}


def write(file: Path, text: str) -> None:
    """Write a module and remove its bytecode, which Python would use again after two writes in one second."""
    file.write_text(text, encoding="utf-8")
    Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)


def run_tests(mutants: list[Mutant], copy: Path) -> subprocess.CompletedProcess[str]:
    """Run the tests of some mutants in one process of pytest, until the first failure."""
    names = sorted({name for mutant in mutants for name in mutant.files})
    files = [str(file) for name in names for file in (copy / "tests").rglob(name)]
    chosen = {f"({name} and ({mutant.expression or 'test'}))" for mutant in mutants for name in mutant.files}
    options = ["-x", "-p", "no:cacheprovider", *files, "-k", " or ".join(sorted(chosen))]
    environment = {**os.environ, "PYTHONPATH": str(copy.parent)}
    command = [sys.executable, "-m", "pytest", *options]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


def result_of(mutant: Mutant, sources: dict[Path, str], copy: Path) -> str:
    """Apply a mutant, run its tests, restore the source, and say what came of it."""
    places = [file for file, text in sources.items() if mutant.old in text]
    times = sum(text.count(mutant.old) for text in sources.values())
    if times != 1:
        return f"NOT APPLIED (the snippet occurs {times} times)"
    file = places[0]
    write(file, sources[file].replace(mutant.old, mutant.new))
    try:
        status = run_tests([mutant], copy).returncode
    finally:
        write(file, sources[file])
    where = file.relative_to(copy).as_posix()
    if status == _FAILED:
        return f"found ({where})"
    return f"NOT FOUND ({where})" if status == _PASSED else f"NOT RUN (pytest ended with {status})"


def main() -> None:
    """Run the chosen mutants, and exit with 1 unless the tests find all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[mutant.name for mutant in MUTANTS], help="names of mutants")
    only = parser.parse_args().only
    mutants = [mutant for mutant in MUTANTS if only is None or mutant.name in only]
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / PACKAGE
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, tracked.split("\0")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
        shutil.copyfile(copy / "sequence_encoder_cli.py", copy.parent / "sequence_encoder_cli.py")
        unmutated = run_tests(mutants, copy)
        if unmutated.returncode != _PASSED:
            sys.exit(f"The tests do not pass without a mutant:\n{unmutated.stdout[-4000:]}{unmutated.stderr[-2000:]}")
        sources = sources_of(copy)
        found = 0
        for mutant in mutants:
            started = time.perf_counter()
            result = result_of(mutant, sources, copy)
            found += result.startswith("found")
            print(f"{mutant.name}: {result}, {time.perf_counter() - started:.0f} s", flush=True)
    print(f"{found} of {len(mutants)} mutants found")
    sys.exit(found != len(mutants))


if __name__ == "__main__":
    main()
