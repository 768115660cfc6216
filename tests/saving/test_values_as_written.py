"""Commands read ids, texts and other columns as they are written, in every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sequence_encoder.command_line import UsageError
from sequence_encoder.data.corpus import CorpusArguments, load_corpus
from sequence_encoder.inference.corpora.folder import OutputFolder
from sequence_encoder.tests.fixtures.adaptation_runs import save_encoder
from sequence_encoder.tests.fixtures.corpus_runs import embed, table_of

pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")

# Texts that readers of CSV and JSON turn into numbers, dates or nothing.
TEXTS = [
    *("NA", "N/A", "null", "None", "nan", "", " ", "007", "1e5", "1_000", "TRUE", "2020-01-01", "2020-01-01T10:00:00"),
    *(
        "1234567890123456789",
        "1.10",
        "-0",
        " a ",
        'say "a, b"',
        "two\r\nlines",
        "e\u0301",
        "\u200f\u05e9\u05dc\u05d5\u05dd",
        "😀",
        "a\x0bb",
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "tiny", cls_token_id=2, sep_token_id=3)


def csv_of(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    quoted = [['"' + str(cell).replace('"', '""') + '"' for cell in line] for line in cells]
    return "".join(delimiter.join(line) + "\n" for line in quoted)


def write(folder: Path, ending: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of an ending."""
    file = folder / f"rows{ending}"
    if ending in (".csv", ".tsv"):
        file.write_text(csv_of(rows, "\t" if ending == ".tsv" else ","), encoding="utf-8", newline="")
    elif ending == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), file)
    elif ending == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def copied(model: Path, file: Path, output: Path, column: str = "value", **options: Any) -> list[Any]:
    """Return a column of what `embed` writes."""
    embed(model, file, output, columns=[column], **options)
    return list(table_of(output).column(column.partition(":")[0]).to_pylist())


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_ids_columns_and_texts_are_unchanged(model: Path, tmp_path: Path, ending: str) -> None:
    rows = [{"text": text, "id": text, "value": text} for text in TEXTS]
    counts = embed(model, write(tmp_path, ending, rows), tmp_path / "out", id_column="id", columns=["text", "value"])
    table = table_of(tmp_path / "out")
    for name in ("id", "text", "value"):
        assert table.column(name).to_pylist() == TEXTS
    assert (counts.bad, table.column("embedding").null_count) == ({}, 0)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json"])
def test_texts_to_train_on_are_unchanged(tmp_path: Path, ending: str, streaming: bool) -> None:
    file = write(tmp_path, ending, [{"text": text} for text in TEXTS])
    train, _ = load_corpus(CorpusArguments(corpus=str(file), streaming=streaming), tmp_path, 0)
    assert [row["text"] for row in train] == TEXTS


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2**53 + 1, None], [1, 2**53 + 1, None]),
        ([1, "1", True], ["1", '"1"', "true"]),
        ([2**53 + 1, 0.5], ["9007199254740993", "0.5"]),
        ([2**64, 1], ["18446744073709551616", "1"]),
        ([1.5, True], ["1.5", "true"]),
        ([[1], ["1"]], ["[1]", '["1"]']),
        ([1, 2.5], [1.0, 2.5]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2}]),
    ],
)
def test_different_json_values_remain_different(
    model: Path, tmp_path: Path, values: list[Any], expected: list[Any]
) -> None:
    file = write(tmp_path, ".jsonl", [{"text": "the cat", "value": value} for value in values])
    assert copied(model, file, tmp_path / "out") == expected


def test_another_type_in_a_later_row_is_an_error_that_names_the_line(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path, ".jsonl", [{"text": "a", "value": value} for value in [1] * 300 + [1.5]])
    with pytest.raises(UsageError, match=r"line 301 of .*rows\.jsonl has 1\.5 in the column value, .* the type int64"):
        embed(model, file, tmp_path / "out", columns=["value"])
    assert copied(model, file, tmp_path / "floats", "value:float")[-2:] == [1.0, 1.5]


@pytest.mark.parametrize("value", [5, True, ["the cat"], {"a": "the cat"}])
def test_a_later_row_without_a_text_is_a_bad_row(model: Path, tmp_path: Path, value: Any) -> None:
    file = write(tmp_path, ".jsonl", [{"text": text} for text in ['say "a"'] * 300 + [value, "the cat"]])
    counts = embed(model, file, tmp_path / "out", columns=["text"], shard_rows=1000)
    table = table_of(tmp_path / "out")
    assert (counts.bad, table.column("embedding").null_count) == ({"not a text": 1}, 1)
    assert table.column("text").to_pylist()[299:] == ['say "a"', None, "the cat"]


def test_later_rows_may_have_numbers_as_texts(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path, ".jsonl", [{"text": "a", "value": value} for value in [1] * 300 + ["12", None, 3]])
    assert copied(model, file, tmp_path / "out", "value:int", shard_rows=1000)[299:] == [1, 12, None, 3]
    with pytest.raises(UsageError, match=r"line 301 of .*rows\.jsonl has '12' in the column value"):
        embed(model, file, tmp_path / "ids", id_column="value", columns=["value:int"], shard_rows=1000)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_columns_can_be_copied_as_numbers(model: Path, tmp_path: Path, ending: str) -> None:
    values = ["2020", " -7 ", "", "1234567890123456789"]
    file = write(tmp_path, ending, [{"text": "the cat", "value": value} for value in values])
    numbers = [2020, -7, None, 1234567890123456789]
    assert copied(model, file, tmp_path / "out", "value:int") == numbers
    embed(model, file, tmp_path / "ids", id_column="value:int")
    assert table_of(tmp_path / "ids").column("id").to_pylist() == numbers
    assert copied(model, write(tmp_path, ending, [{"text": "a", "value": "1e3"}]), tmp_path / "f", "value:float") == [
        1e3
    ]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("x", "int"),
        ("1.5", "int"),
        ("1_000", "int"),
        ("\u0663", "int"),
        ("NA", "float"),
        ("nan", "float"),
        ("9" * 20, "int"),
    ],
)
def test_a_value_that_is_no_number_is_named_with_its_line(model: Path, tmp_path: Path, value: str, kind: str) -> None:
    file = write(tmp_path, ".csv", [{"text": "a", "value": "1"}, {"text": "a", "value": value}])
    with pytest.raises(UsageError, match=rf"line 3 of .*rows\.csv has '{value}' in the column value, .*value:{kind}"):
        embed(model, file, tmp_path / "out", columns=[f"value:{kind}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("text,n\na,1\nb\n", "a.csv", "line 3 of .*a.csv has 1 cells, but the header has 2"),
        ("text,n\na,1\nb,1,2\n", "a.csv", "line 3 of .*a.csv has 3 cells, but the header has 2"),
        ('text,n\n"a" b,1\n', "a.csv", "the row that starts on line 2 of .*a.csv is not valid CSV"),
        (
            '{"text": "a", "text": "b"}\n',
            "a.jsonl",
            "line 1 of .*a.jsonl is not valid JSON: .* several values for text",
        ),
        ('{"text": "\\ud83d"}\n', "a.jsonl", r"line 1 of .*a.jsonl has '\\ud83d' in the column text, half of a char"),
        ('[{"text": "a"}, {"text": }]', "a.json", "item 2 of .*a.json is not valid JSON"),
        ('[{"text": "a"}', "a.json", "item 2 of .*a.json is not valid JSON"),
        ('[{"text": "a"}] x', "a.json", "there is something after the end of the list"),
        ("[]", "a.json", "a.json is empty"),
        ("text\n", "a.csv", "a.csv is empty"),
    ],
)
def test_rows_that_cannot_be_read_are_named(model: Path, tmp_path: Path, content: str, name: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        embed(model, tmp_path / name, tmp_path / "out")


def test_files_may_have_other_columns_but_not_lack_one(model: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.csv").write_text("text,value\nthe cat,1\n")
    (tmp_path / "files" / "b.csv").write_text("more,value,text\nx,02,a dog\n")
    assert copied(model, tmp_path / "files", tmp_path / "out") == ["1", "02"]
    (tmp_path / "files" / "c.csv").write_text("text\nthe owl\n")
    with pytest.raises(UsageError, match=r"--columns value is not a column of .*c\.csv; choose one of text"):
        embed(model, tmp_path / "files", tmp_path / "more", columns=["value"])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"text": "a", "value": 1}, r"--columns value has the type int64 in .*b\.parquet, but string in .*a\.parquet"),
        ({"text": "a"}, r"--columns value is not a column of .*b\.parquet; choose one of text"),
        ({"text": 1, "value": "1"}, r"--text_column text has the type int64 in .*b\.parquet, but string"),
    ],
)
def test_parquet_files_of_different_types_are_refused(
    model: Path, tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    filled = {"text": "the cat", "value": "1"}
    for name, row in (("0", dict.fromkeys(filled)), ("a", filled), ("b", second)):
        write(tmp_path, ".parquet", [row]).rename(tmp_path / f"{name}.parquet")
    with pytest.raises(UsageError, match=message):
        embed(model, tmp_path / "*.parquet", tmp_path / "out", columns=["value"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((None, "null"), (5, "int64")),
        ((0.5, "float32"), (0.1, "float64")),
        ((1, "int32"), (2**40, "int64")),
        (("the cat", "string"), ("a dog", "large_string")),
    ],
)
def test_parquet_files_may_store_the_same_kind_of_values_in_types_of_other_sizes(
    model: Path, tmp_path: Path, first: tuple[Any, str], second: tuple[Any, str]
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for name, (value, kind) in (("a", first), ("b", second)):
        column = pa.array([value], pa.type_for_alias(kind))
        parquet.write_table(pa.table({"text": pa.array(["the cat"]), "value": column}), tmp_path / f"{name}.parquet")
    assert copied(model, tmp_path / "*.parquet", tmp_path / "out") == [first[0], second[0]]


def test_columns_of_parquet_files_that_are_not_read_may_have_any_type_and_name(model: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    mapped = pa.array([[("the", 1)]], pa.map_(pa.string(), pa.int64()))
    columns = [pa.array(["the cat"]), pa.array([7]), mapped, pa.array([1]), pa.array([2])]
    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.table(columns, names=["text", "value", "counts", "twice", "twice"]), file)
    assert copied(model, file, tmp_path / "out") == [7]
    texts, _ = load_corpus(CorpusArguments(corpus=str(file), eval_documents=0), tmp_path, 0)
    assert list(texts["text"]) == ["the cat"]
    with pytest.raises(UsageError, match=r"--columns twice is the name of several columns of .*rows\.parquet"):
        embed(model, file, tmp_path / "more", columns=["twice"])


def test_a_folder_of_a_version_that_guessed_types_is_not_continued(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path, ".csv", [{"text": "the cat", "value": "007"}])
    embed(model, file, tmp_path / "out", columns=["value"])
    settings = OutputFolder(tmp_path / "out", "embed").settings_file
    before = json.loads(settings.read_text())
    settings.write_text(json.dumps({name: value for name, value in before.items() if name != "reading of columns"}))
    with pytest.raises(UsageError, match="written by an earlier version, which guessed the types of columns"):
        embed(model, file, tmp_path / "out", columns=["value"])
