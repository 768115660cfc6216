"""Reading and holding out texts from files of all formats. Errors name the files that cannot be read."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sequence_encoder.command_line import UsageError
from sequence_encoder.data import documentation
from sequence_encoder.data.corpus import CorpusArguments, load_corpus, texts_of
from sequence_encoder.data.corpus_files import find_files
from sequence_encoder.data.dataset_loading import commit_of

TEXTS = [f"Text {number}, with a comma and a ü." for number in range(12)]
Write = Callable[[Path, list[Any]], None]

streamed_or_not = pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])


def write_lines(path: Path, texts: list[Any], column: str = "text") -> None:
    path.write_text("".join(json.dumps({"number": 1, column: text}) + "\n" for text in texts), encoding="utf-8")


def write_csv(path: Path, texts: list[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("number", "text"), *((1, text) for text in texts)])


def write_parquet(path: Path, texts: list[Any]) -> None:
    pq.write_table(pa.table({"number": [1] * len(texts), "text": pa.array(texts, pa.string())}), path)


def write_text(path: Path, texts: list[Any]) -> None:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def compressed(write: Write, compress: Callable[[bytes], bytes]) -> Write:
    def write_compressed(path: Path, texts: list[Any]) -> None:
        write(path, texts)
        path.write_bytes(compress(path.read_bytes()))

    return write_compressed


KINDS: dict[str, Write] = {
    ".txt": write_text,
    ".jsonl": write_lines,
    ".json": lambda path, texts: path.write_text(json.dumps([{"text": text} for text in texts])) and None,
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".jsonl.gz": compressed(write_lines, gzip.compress),
    ".txt.xz": compressed(write_text, lzma.compress),
    ".csv.bz2": compressed(write_csv, bz2.compress),
}
every_kind = pytest.mark.parametrize("ending", KINDS)


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache / "downloads")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    return folder


def load(path: Path | str, scratch: Path | None = None, **options: Any) -> tuple[list[Any], list[Any] | None]:
    """Return the training texts and the held-out texts in their order."""
    arguments = CorpusArguments(corpus=str(path), **options)
    parts = load_corpus(arguments, scratch or Path(path), seed=0)
    train, held_out = (None if part is None else [item["text"] for item in part] for part in parts)
    assert train is not None
    return train, held_out


@streamed_or_not
@every_kind
def test_a_file_of_any_format_is_read_in_order(folder: Path, ending: str, streaming: bool) -> None:
    KINDS[ending](folder / f"texts{ending}", TEXTS)
    assert load(folder / f"texts{ending}", streaming=streaming) == (TEXTS, None)


@streamed_or_not
@every_kind
def test_a_folder_is_read_recursively_and_other_files_are_ignored(folder: Path, ending: str, streaming: bool) -> None:
    (folder / "deeper").mkdir()
    KINDS[ending](folder / f"a{ending}", TEXTS[:5])
    KINDS[ending](folder / "deeper" / f"b{ending}", TEXTS[5:])
    (folder / "README.md").write_text("about the texts")
    (folder / "_SUCCESS").touch()
    train, _ = load(folder, streaming=streaming)
    assert sorted(train) == sorted(TEXTS)


@streamed_or_not
def test_a_pattern_selects_the_matching_files(folder: Path, streaming: bool) -> None:
    (folder / "deeper").mkdir()
    write_lines(folder / "part-1.jsonl", TEXTS[:4])
    write_lines(folder / "deeper" / "part-2.jsonl", TEXTS[4:8])
    write_lines(folder / "other.jsonl", TEXTS[8:])
    assert load(folder / "part-*.jsonl", folder, streaming=streaming)[0] == TEXTS[:4]
    assert sorted(load(folder / "**" / "part-*.jsonl", folder, streaming=streaming)[0]) == sorted(TEXTS[:8])


@streamed_or_not
@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [("line", ["a", "b", "", " ", "c", "d"]), ("paragraph", ["a\nb", "c\nd"]), ("document", ["a\nb\n\n \nc\nd"])],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_sample_by_defines_the_documents_of_a_text_file(
    folder: Path, sample_by: str, expected: list[str], line_end: str, streaming: bool
) -> None:
    (folder / "a.txt").write_text("a\nb\n\n \nc\nd\n", newline=line_end)
    assert load(folder, sample_by=sample_by, streaming=streaming)[0] == expected


@streamed_or_not
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize(("encoding", "option"), [("latin-1", "latin-1"), ("utf-8-sig", None), ("utf-16", None)])
def test_a_text_file_is_decoded_whether_it_is_compressed_or_not(
    folder: Path, compress: Callable[[bytes], bytes], encoding: str, option: str | None, streaming: bool
) -> None:
    ending = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}.get(compress, "")
    (folder / f"a.txt{ending}").write_bytes(compress("\n".join(TEXTS).encode(encoding)))
    assert load(folder, encoding=option, streaming=streaming)[0] == TEXTS


@streamed_or_not
def test_a_missing_column_is_rejected_with_the_existing_ones(folder: Path, streaming: bool) -> None:
    write_lines(folder / "a.jsonl", TEXTS, column="body")
    with pytest.raises(
        UsageError, match=r"--text_column text is not a column of --corpus .*; choose one of number, body"
    ):
        load(folder, streaming=streaming)


@pytest.mark.parametrize(("value", "kind"), [(3, "int"), (0, "int"), (["a"], "list"), (1.5, "float")])
def test_values_that_are_not_texts_are_rejected(value: Any, kind: str) -> None:
    with pytest.raises(UsageError, match=rf"--text_column must name a column of texts, got .* of type {kind}\."):
        texts_of({"text": ["a", None, value]})


@pytest.mark.parametrize(
    "corpus",
    ["missing.txt", "missing.jsonl.gz", "./missing", "/missing", "/missing/folder", "a/b/c", "missing/*.jsonl"],
)
def test_missing_files_are_rejected_without_asking_the_hub(corpus: str) -> None:
    with pytest.raises(UsageError, match=r"--corpus .*missing.*(there is|found) no|--corpus a/b/c: there is no"):
        find_files(corpus, "corpus")


@pytest.mark.parametrize("form", ["", "**/*.*"])
def test_hidden_files_and_folders_are_left_out(tmp_path: Path, form: str) -> None:
    folder = tmp_path / ".cache" / "texts"
    for name in ("a.txt", "more/b.txt", "._a.txt", ".ipynb_checkpoints/a.txt", "more/.b.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("the cat")
    reader, found = find_files(str(folder / form), "corpus") or ("", [])
    assert (reader, found) == ("text", [folder / "a.txt", folder / "more" / "b.txt"])


def test_the_commit_of_a_dataset_is_unknown_without_a_hub(refused_hosts: list[Any]) -> None:
    assert commit_of("someone/some-dataset") is None


@pytest.mark.parametrize(
    ("names", "endings"),
    [
        (["a.txt", "b.jsonl"], r"\.jsonl, \.txt"),
        (["a.csv", "b.parquet.gz"], r"\.csv, \.parquet\.gz"),
        (["a.dat"], r"\.dat"),
    ],
)
def test_mixed_and_unknown_file_formats_are_rejected(folder: Path, names: list[str], endings: str) -> None:
    for name in names:
        (folder / name).write_text("text\n")
    with pytest.raises(UsageError, match=rf"must have the same format, one of \.txt, .*, got {endings}\."):
        load(folder / "*", folder)


@streamed_or_not
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".parquet"])
def test_an_empty_corpus_is_rejected(folder: Path, ending: str, streaming: bool) -> None:
    (folder / f"a{ending}").touch()
    with pytest.raises(UsageError, match=r"--corpus .* is empty\."):
        load(folder, streaming=streaming)


@streamed_or_not
@pytest.mark.parametrize("ending", [".parquet", ".jsonl.gz", ".csv"])
def test_a_corpus_without_documents_is_rejected(folder: Path, ending: str, streaming: bool) -> None:
    KINDS[ending](folder / f"a{ending}", [])
    with pytest.raises(UsageError, match=r"--corpus .*(is empty|cannot be read)|a\..* cannot be read as .*: .+"):
        load(folder, streaming=streaming)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def corrupt(path: Path) -> None:
    path.write_bytes(b'"\xff\xfe{"text": 1')


NOT_UTF8 = r"is not utf-8: byte 1 \(line 1\) is 0xff\. Pass its encoding, such as --encoding latin-1"


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("damage", [truncate, corrupt])
@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv", ".txt", ".jsonl.gz", ".txt.xz"])
def test_the_unreadable_file_is_named(folder: Path, ending: str, damage: Callable[[Path], None], place: int) -> None:
    if damage is truncate and ending in (".csv", ".txt"):
        # Half of such a file is still valid.
        damage = corrupt
    for number in range(3):
        KINDS[ending](folder / f"{number}{ending}", TEXTS)
    damage(folder / f"{place}{ending}")
    with pytest.raises(UsageError, match=rf"texts/{place}{ending} (cannot be read.*: .+|is not valid .+|{NOT_UTF8})"):
        load(folder)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".csv", ".txt", ".jsonl.gz"])
def test_a_stream_with_an_unreadable_first_file_is_rejected_at_once(folder: Path, ending: str) -> None:
    KINDS[ending](folder / f"0{ending}", TEXTS)
    KINDS[ending](folder / f"1{ending}", TEXTS)
    corrupt(folder / f"0{ending}")
    with pytest.raises(UsageError, match=rf"texts/0{ending} (cannot be read.*: .+|{NOT_UTF8})"):
        load(folder, streaming=True)


def test_files_with_different_columns_are_rejected(folder: Path) -> None:
    write_lines(folder / "a.jsonl", TEXTS)
    write_lines(folder / "b.jsonl", TEXTS, column="body")
    with pytest.raises(UsageError, match=r"text is not a column of .*b\.jsonl; choose one of number, body"):
        load(folder)


@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_documents_are_random_and_excluded_from_training(folder: Path, seed: int) -> None:
    write_lines(folder / "a.jsonl", TEXTS)
    arguments = CorpusArguments(corpus=str(folder), eval_documents=4)
    train, held_out = ([item["text"] for item in part] for part in load_corpus(arguments, folder, seed))
    assert len(held_out) == 4
    assert sorted(train + held_out) == sorted(TEXTS)
    assert set(held_out) not in (set(TEXTS[:4]), set(TEXTS[-4:]))
    again = [[item["text"] for item in part] for part in load_corpus(arguments, folder, seed)]
    assert again == [train, held_out]


def test_the_first_documents_of_a_stream_are_held_out(folder: Path) -> None:
    write_lines(folder / "a.jsonl", TEXTS[:3])
    write_lines(folder / "b.jsonl", TEXTS[3:])
    assert load(folder, streaming=True, eval_documents=4) == (TEXTS[4:], TEXTS[:4])


@pytest.mark.parametrize("count", [12, 13])
def test_holding_all_documents_out_is_rejected(folder: Path, count: int) -> None:
    write_lines(folder / "a.jsonl", TEXTS)
    with pytest.raises(UsageError, match=rf"--eval_documents must be less than the 12 documents, got {count}"):
        load(folder, eval_documents=count)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle_buffer": 0}, "--shuffle_buffer must be at least 1, got 0"),
        ({"eval_documents": -1}, "--eval_documents must be at least 0, got -1"),
        ({"num_proc": 0}, "--num_proc must be at least 1, got 0"),
        ({"streaming": True}, "--streaming needs files or a Hub dataset"),
    ],
)
def test_out_of_range_arguments_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CorpusArguments(**options)


@pytest.fixture
def small_documentation(monkeypatch: pytest.MonkeyPatch) -> list[documentation.Docstring]:
    """Read the documentation of two packages of the standard library instead of all installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    libraries = {name: sorted((root / name).rglob("*.py")) for name in ("logging", "unittest")}
    monkeypatch.setattr(documentation, "find_libraries", lambda: libraries)
    return documentation.read_documentation(show_progress=False)


@pytest.mark.parametrize("held_out", [0, 9])
def test_the_documentation_is_written_once_and_then_reused(
    small_documentation: list[documentation.Docstring],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held_out: int,
) -> None:
    train, others = load("documentation", tmp_path, eval_documents=held_out)
    texts = [doc.text for doc in small_documentation]
    assert set(train) | set(others or []) <= set(texts)
    if held_out:
        assert others is not None
        assert len(others) == held_out
        paths = {doc.text: doc.path for doc in small_documentation}
        assert {paths[text] for text in train}.isdisjoint(paths[text] for text in others)
        assert len(train) > 0.6 * len(texts)
    else:
        assert others is None
        assert sorted(train) == sorted(texts)
    # The installed packages may change before training resumes.
    monkeypatch.setattr(documentation, "find_libraries", dict)
    assert load("documentation", tmp_path, eval_documents=held_out) == (train, others)
    assert not list(tmp_path.glob("*.part"))


def test_at_most_half_of_the_documentation_is_held_out(
    small_documentation: list[documentation.Docstring], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=rf"half of the {len(small_documentation)} docstrings, got 1000"):
        load("documentation", tmp_path, eval_documents=1000)
    assert not list(tmp_path.iterdir())
