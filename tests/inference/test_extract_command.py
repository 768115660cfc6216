"""The command `extract` writes the entities that the method `extract` finds, one row each."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sequence_encoder import convert, extract_corpus
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.conversion.source import Source
from sequence_encoder.tests.fixtures.adaptation_runs import save_encoder
from sequence_encoder.tests.fixtures.corpus_runs import (
    LONG,
    NULL,
    arguments_of,
    assert_same_shards,
    options_of,
    rows_of,
    shards_in,
    table_of,
    write_rows,
)
from sequence_encoder.tests.fixtures.gliner_folders import LABELS, save_gliner

pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")
# One text needs several windows, and the texts of a whole shard have no words.
ROWS = [{**row, "text": " " if 8 <= number < 16 else row["text"]} for number, row in enumerate(rows_of())]
ROWS[1]["text"] = "a cat, a red-dog is of berlin and " * 8
GOOD = [number for number in range(len(ROWS)) if number not in (NULL, LONG)]
SPAN = ["start", "end", "text", "label", "score"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "gliner"
    save_gliner(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("corpus") / "rows.parquet", ROWS)


def expected_rows(model: Path, labels: Any, **options: Any) -> list[tuple[Any, ...]]:
    """Return the id and the fields of each span that the method finds."""
    extractor: Any = convert(model)
    tokenizer = Source(model).tokenizer_for(extractor)
    found = extractor.extract([ROWS[number]["text"] for number in GOOD], labels, tokenizer, **options)
    return [
        (number, *(span[name] for name in SPAN)) for number, spans in zip(GOOD, found, strict=True) for span in spans
    ]


def median_of(model: Path, labels: Any) -> float:
    """Return the median of the scores of all spans."""
    every = expected_rows(model, labels, threshold=0, nested=True, multi_label=True)
    return float(statistics.median(row[-1] for row in every))


def as_tuples(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(pytest.approx(row[name], abs=1e-6) if name == "score" else row[name] for name in ("id", *SPAN))
            for row in table.to_pylist()]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "options"),
    [(LABELS, {}), ({"cat": "a red dog", "b": "software"}, {"nested": True, "multi_label": True})],
    ids=["labels", "descriptions"],
)
def test_entities_are_those_of_the_method(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: Any, options: dict[str, Any]
) -> None:
    options = {"threshold": median_of(model, labels), **options}
    expected = expected_rows(model, labels, **options)
    given = {"label_descriptions" if isinstance(labels, dict) else "labels": labels}
    counts = extract_corpus(**options_of(model, corpus, tmp_path / "out", columns=["key"], **given, **options))
    table = table_of(tmp_path / "out")
    assert len(expected) > 20
    assert as_tuples(table) == expected
    assert table.column("key").to_pylist() == [f"k{number}" for number, *_ in expected]
    assert counts.bad == {"null": 1, "too long": 1}
    assert (counts.rows, counts.entities) == (len(ROWS), len(expected))
    said = capsys.readouterr().out
    assert f"The entities of 30 rows of {counts.tokens:,} tokens are in {tmp_path / 'out'}, {len(expected)} in " in said
    facts = json.loads(table.schema.metadata[b"sequence_encoder"])
    assert facts["labels"] == list(labels)


def test_a_run_continues_with_the_shards_that_are_missing(model: Path, corpus: Path, tmp_path: Path) -> None:
    described = tmp_path / "labels.json"
    described.write_text('{"cat": "a cat", "dog": "red dog"}')
    options = {"label_descriptions": described, "threshold": 0}
    main(["extract", *arguments_of(model, corpus, tmp_path / "out", **options)])
    main(["extract", *arguments_of(model, corpus, tmp_path / "again", **options)])
    assert len(shards_in(tmp_path / "again")) == 4
    for file in shards_in(tmp_path / "again")[1:3]:
        file.unlink()
    main(["extract", *arguments_of(model, corpus, tmp_path / "again", **options)])
    assert_same_shards(tmp_path / "again", tmp_path / "out")
    described.write_text('{"cat": "a cat"}')
    with pytest.raises(SystemExit, match=r"other settings: label_descriptions was .*'red dog'"):
        main(["extract", *arguments_of(model, corpus, tmp_path / "again", **options)])


def test_labels_and_models_that_do_not_fit_are_refused(model: Path, corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(UsageError, match=r"--labels: labels take \d+ tokens, and the model reads at most 9"):
        extract_corpus(**options_of(model, corpus, output, labels=LABELS, max_length=9))
    with pytest.raises(UsageError, match="--columns text: extract itself writes a column of that name"):
        extract_corpus(**options_of(model, corpus, output, labels="cat", columns="text"))
    # An encoder alone has no such head.
    encoder = save_encoder(tmp_path / "encoder")
    with pytest.raises(UsageError, match=r"without a head for span extraction, which a GLiNER has\. Use this one with"):
        extract_corpus(**options_of(encoder, corpus, output, labels="cat"))
    assert not output.exists()
