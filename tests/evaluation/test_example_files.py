"""Example files of users: the formats that are read, and the line, byte or column that an error names."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import examples_of, run, save_encoder, write_examples
from sequence_encoder.training.adaptation.arguments import TaskDataArguments
from sequence_encoder.training.adaptation.examples.loading import load_examples
from sequence_encoder.training.adaptation.tasks import TASKS

Read = Callable[..., tuple[list[dict[str, Any]], Any]]
GERMAN = "text,label\nschön,gut\nöde,schlecht\n"
EXPECTED = [{"text": "schön", "label": "gut"}, {"text": "öde", "label": "schlecht"}]


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return `read(content, name, task, **options)`, which writes a file and returns its training rows and the task."""
    monkeypatch.chdir(tmp_path)

    def give(
        content: str | bytes, name: str = "train.csv", task: str = "classification", **options: Any
    ) -> tuple[list[dict[str, Any]], Any]:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        data = TaskDataArguments(train_file=name, **options)
        reader = TASKS[task](data)
        return list(reader.read(load_examples(data))["train"]), reader

    return give


def error_of(read: Read, *arguments: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "name", "options"),
    [
        (GERMAN, "train.csv", {}),
        (GERMAN, "TRAIN.CSV", {}),
        (GERMAN.encode("utf-8-sig"), "train.csv", {}),
        (GERMAN.encode("utf-8-sig"), "train.csv", {"encoding": "UTF8"}),
        (GERMAN.encode("utf-16"), "train.csv", {}),
        (GERMAN.encode("latin-1"), "train.csv", {"encoding": "latin-1"}),
        (GERMAN.replace(",", "\t"), "train.tsv", {}),
        (GERMAN.replace(",", ";"), "train.csv", {"delimiter": ";"}),
        (GERMAN.replace(",", "\t"), "train.csv", {"delimiter": r"\t"}),
        (GERMAN.replace("\n", "\r\n\r\n"), "train.csv", {}),
        (GERMAN.replace("text,label", " text, label "), "train.csv", {}),
        (gzip.compress(GERMAN.encode(), mtime=0), "train.csv.gz", {}),
        (json.dumps(EXPECTED), "train.json", {}),
        (json.dumps(EXPECTED, ensure_ascii=False).encode("utf-16"), "train.json", {}),
        ("\n\n".join(json.dumps(row, ensure_ascii=False) for row in EXPECTED).encode("utf-8-sig"), "train.jsonl", {}),
    ],
)
def test_all_supported_formats_give_the_same_rows(
    read: Read, content: str | bytes, name: str, options: dict[str, Any]
) -> None:
    assert read(content, name, **options)[0] == EXPECTED


@pytest.mark.parametrize(
    ("content", "name", "task", "message"),
    [
        # The second text spans two lines, and the third line of the file is empty.
        (
            'text,label\na,0.5\n\n"b\nc",1\nd,nan\ne,2\n',
            "train.csv",
            "regression",
            "a number in every row; line 6 of train.csv has 'nan'.",
        ),
        (
            "text,label\na,0\nb,x\nc,y\n",
            "train.csv",
            "regression",
            "line 3 of train.csv has 'x', line 4 of ",
        ),
        ('{"text":"a","label":1}\n\n{"text":"b","label":NaN}\n', "a.jsonl", "regression", "line 3 of a.jsonl has nan."),
        (
            '[{"text":"a","text_pair":"b","label":1},{"text":"b","text_pair":"b"}]',
            "a.json",
            "ranking",
            "item 2 of a.json has None.",
        ),
        ("text,text_pair,label\na,b,1\nb,c,\n", "train.csv", "ranking", "line 3 of train.csv has ''."),
        ("text,text_pair,label\na,b,1\nb,c,   \n", "train.csv", "ranking", "line 3 of train.csv has '   '."),
        ("text,text_pair,label\na,b,0\nc,d,2\n", "train.csv", "ranking", "0 to 1; line 3 of train.csv has '2'."),
        (
            "text,label\n" + "a" * 200_000 + ",1\nb," + "c" * 999 + "\n",
            "a.csv",
            "regression",
            "... (1,001 characters).",
        ),
        (
            '{"text":"a","label":1}\n{"text":5,"label":2}\n{"text":true,"label":1}\n',
            "a.jsonl",
            "classification",
            "a text in every row; line 2 of a.jsonl has 5, line 3 of a.jsonl has True.",
        ),
    ],
)
def test_the_offending_row_is_named_by_its_line_number(
    read: Read, content: str, name: str, task: str, message: str
) -> None:
    assert message in error_of(read, content, name, task)


@pytest.mark.parametrize(("task", "first", "second"), [("classification", "x", "y"), ("regression", "1", "2")])
def test_training_examples_without_a_label_yet_are_left_out(
    read: Read, capsys: pytest.CaptureFixture[str], task: str, first: str, second: str
) -> None:
    content = f"text,label\na,{first}\nb,\nc,{second}\nd,  \n"
    assert [row["text"] for row in read(content, task=task)[0]] == ["a", "c"]
    assert (
        "2 of the 4 training examples have no label yet (--label_column label), and are left" in capsys.readouterr().out
    )
    rows = [{"text": "a", "label": first}, {"text": "b"}, {"text": "c", "label": second}]
    rows += [{"text": "d", "label": empty} for empty in ("", " ")]
    assert [row["text"] for row in read(json.dumps(rows), "train.json", task)[0]] == ["a", "c"]
    assert "label is empty in all training examples" in error_of(read, "text,label\na,\nb,\n", task=task)
    Path("held-out.csv").write_text(content)
    assert "line 3 of held-out.csv has ''" in error_of(read, content, task=task, validation_file="held-out.csv")


def test_parquet_rows_are_counted_from_one(read: Read, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"text": "a", "text_pair": "b", "label": label} for label in (1.0, None)]
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    assert "row 2 of a.parquet has " in error_of(read, content, "a.parquet", "ranking")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            GERMAN.replace(",", ";"),
            "a.csv",
            "a.csv has the single column 'text;label', which looks like several",
        ),
        (GERMAN.replace(",", "\t"), "a.csv", r"Pass --delimiter '\t'"),
        (GERMAN, "a.tsv", "Pass --delimiter ','"),
        (
            GERMAN.encode("latin-1"),
            "a.csv",
            "a.csv is not utf-8: byte 14 (line 2) is 0xf6. Pass its encoding",
        ),
        (GERMAN.encode("utf-8") + b"\xff,a\n", "a.csv", "a.csv is not utf-8: byte 36 (line 4) is 0xff."),
        ('{"text": "ö"}'.encode("latin-1"), "a.jsonl", "a.jsonl is not utf-8: byte 10 (line 1) is 0xf6."),
        ("text,label,label\na,b,c\n", "a.csv", "a.csv has several columns named label; rename or remove"),
        ("text,label\na,b\nc,d,e\n", "a.csv", "line 3 of a.csv has 3 cells, but the header has 2."),
        ("text,label\na,b\nc\n", "a.csv", "line 3 of a.csv has 1 cells, but the header has 2."),
        ('text,label\na,b\n"c" he said,d\n', "a.csv", "the row that starts on line 3 of a.csv is not valid CSV"),
        ('text,label\na,b\n"c,d\ne,f\n', "a.csv", "the row that starts on line 3 of a.csv is not valid CSV"),
        ("", "a.csv", "--train_file a.csv is empty."),
        ("\n \n", "a.csv", "a.csv has no header: its first line must name the columns."),
        ("text,label\n", "a.csv", "--train_file a.csv has no examples."),
        ("[]", "a.json", "--train_file a.json has no examples."),
        ('{\n"text": ["a"]\n}', "a.json", "It must contain an object on each line, or one list of objects."),
        ('{"text": ["a"], "label": ["b"]}', "a.json", "line 1 of a.json has ['a']."),
        ('["a", "b"]', "a.json", "item 1 of a.json must be an object with the column names as keys, got 'a'."),
        ('{"text": "a"}\n{"text": b}\n', "a.jsonl", "line 2 of a.jsonl is not valid JSON"),
        ("Text,Labels\na,b\n", "a.csv", "choose one of Text, Labels. Did you mean Text?"),
        ("text,lable\na,b\n", "a.csv", "choose one of text, lable. Did you mean lable?"),
        (b"\x1f\x8bno", "a.csv.gz", "a.csv.gz cannot be read: "),
    ],
)
def test_an_invalid_file_is_rejected_with_a_remedy(read: Read, content: str | bytes, name: str, message: str) -> None:
    assert message in error_of(read, content, name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "klingon"}, "--encoding must be an encoding such as utf-8"),
        ({"encoding": "ascii"}, "train.csv is not ascii: byte 14 (line 2) is 0xc3. Pass its encoding, such as --enc"),
        ({"encoding": "utf-16"}, "train.csv is not utf-16: "),
        ({"delimiter": "||"}, "--delimiter must be one character, such as ';' or '\\t', got '||'."),
    ],
)
def test_a_wrong_encoding_or_delimiter_is_named(read: Read, options: dict[str, Any], message: str) -> None:
    assert message in error_of(read, GERMAN, **options)


def test_a_path_without_examples_is_named(read: Read) -> None:
    Path("folder").mkdir()
    Path("folder/notes.md").touch()
    for source, message in (
        ("folder", "found no files ending in .txt, .json"),
        ("nowhere", "there is no such file. Use --dataset_name for a dataset on the Hub."),
        ("", "--validation_file must name a file or a folder, got an empty name."),
    ):
        assert message in error_of(read, GERMAN, validation_file=source)


def test_files_may_write_a_label_differently(read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    Path("valid.csv").write_text("text,label\na,1\nb,0\n")
    _, task = read("text,label\na,1.0\nb,0.0\n", validation_file="valid.csv")
    assert task.labels == ["0", "1"]
    shown = capsys.readouterr().out
    assert "the label 1 is '1.0' in the train examples and '1' in the validation examples." in shown
    _, task = read('{"text":"a","label":1}\n{"text":"b","label":0}\n', "train.jsonl", validation_file="valid.csv")
    assert (task.labels, capsys.readouterr().out) == (["0", "1"], "")


@pytest.mark.parametrize(
    ("labels", "first", "second"),
    [
        ([1, "x", "1"], "1", "'1'"),
        ([1, 2, 1.0], "1", "1.0"),
        (["1.0", 2, "1"], "'1.0'", "'1'"),
        ([True, "x", "True"], "True", "'True'"),
        (["x", "y", "x "], "'x'", "'x '"),
    ],
)
def test_labels_that_would_become_one_are_refused(read: Read, labels: list[Any], first: str, second: str) -> None:
    lines = "".join(json.dumps({"text": "a", "label": label}) + "\n" for label in labels)
    message = f"--label_column label: line 1 of train.jsonl has {first} and line 3 of train.jsonl has {second}, which"
    assert message in error_of(read, lines, "train.jsonl")
    if all(isinstance(label, str) for label in labels):
        rows = "text,label\n" + "".join(f"a,{label}\n" for label in labels)
        assert f"line 2 of train.csv has {first} and line 4 of train.csv has {second}" in error_of(read, rows)


def test_labels_that_differ_in_case_are_printed(read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    _, task = read("text,label\na,pos\nb,Pos\nc,pos\n")
    assert task.labels == ["Pos", "pos"]
    assert "Pos and pos differ only in case; they remain different labels." in capsys.readouterr().out


def test_an_unused_column_of_mixed_types_is_ignored(read: Read, capsys: pytest.CaptureFixture[str]) -> None:
    content = '{"text":"a","label":1,"more":[1]}\n{"text":"b","label":2,"more":"x"}\n'
    assert read(content, "train.jsonl")[0] == [{"text": "a", "label": 1}, {"text": "b", "label": 2}]
    assert "the column more is ignored, because its values have different types" in capsys.readouterr().out


def test_test_texts_that_occur_in_training_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_examples(tmp_path, "ner", {"train": 30, "validation": 8, "test": 8})
    Path(files["test_file"]).write_text("".join(json.dumps(row) + "\n" for row in examples_of("ner", 30, 0)[:3]))
    with pytest.raises(UsageError, match="no-encoder"):
        run("ner", tmp_path / "no-encoder", tmp_path / "out", **files)
    assert "3 of the 3 test examples have the same text as a training example" in capsys.readouterr().out


def test_an_unsupported_encoder_is_rejected_with_a_hint_to_adapter_tuning(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    save_encoder(tmp_path / "ours")
    GPT2Model(GPT2Config(vocab_size=90, n_embd=24, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    # Like the tokenizer of GPT-2, it has no padding token.
    tokenizer.pad_token, tokenizer.eos_token = None, tokenizer.sep_token
    tokenizer.save_pretrained(tmp_path / "gpt2")
    files = write_examples(tmp_path, "classification", {"train": 30, "validation": 8})
    with pytest.raises(
        UsageError, match=r"GPT2Model cannot be .* --tuning adapter works with an encoder of any family"
    ):
        run("classification", tmp_path / "gpt2", tmp_path / "out", **files)
    results = run("classification", tmp_path / "gpt2", tmp_path / "out", tuning="adapter", num_train_epochs=1, **files)
    assert results.trained == 3 * 24 + 3
