"""A stream gives the same packs wherever training resumes, and rereads little."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import IterableDataset
from torch.utils.data import DataLoader

from sequence_encoder import SequenceEncoderTokenizer
from sequence_encoder.command_line import UsageError
from sequence_encoder.data import streams
from sequence_encoder.data.corpus import CorpusArguments, load_corpus
from sequence_encoder.data.packs import Pack
from sequence_encoder.data.streams import PackedStream
from sequence_encoder.data.windows import segment_windows
from sequence_encoder.tests.fixtures.texts import tokenizer_of

# Tokens per window and per pack, documents per block, and packs to compare, which cover all documents several times.
LONGEST, BUDGET, BLOCK, MANY = 32, 64, 7, 100


def documents(count: int = 57) -> list[str]:
    rng = random.Random(0)
    words = ["json", "string", "returns", "object.", "The", "and", "sequence."]
    return [" ".join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(count)]


def write_parquet(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"number": range(len(texts)), "text": texts}), path, row_group_size=5)


def write_lines(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text, "number": 1}) + "\n" for text in texts))


def write_text(path: Path, texts: list[str]) -> None:
    path.write_text("\n".join(texts))


KINDS: dict[str, Callable[[Path, list[str]], None]] = {
    "parquet": write_parquet,
    "jsonl": write_lines,
    "txt": write_text,
}


@pytest.fixture(scope="module", params=KINDS)
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder with several files of several blocks each."""
    folder = tmp_path_factory.mktemp(request.param)
    for part in range(3):
        KINDS[request.param](folder / f"{part}.{request.param}", documents()[19 * part : 19 * (part + 1)])
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return tokenizer_of()


def stream_of(corpus: Path, journal: Path | None = None, held_out: int = 0, **options: Any) -> PackedStream:
    """Return the stream that a new process opens, with the journal of an earlier one."""
    arguments = CorpusArguments(corpus=str(corpus), streaming=True, eval_documents=held_out)
    texts, others = load_corpus(arguments, corpus, 0)
    # Reading the held-out documents first must not change the stream.
    assert len(list(others or [])) == held_out
    settings: dict[str, Any] = {"buffer": BLOCK, "seed": 3, **options}
    stream = PackedStream(texts, tokenizer_of(), LONGEST, BUDGET, journal=journal, **settings)
    stream.plan(MANY)
    return stream


def contents(packs: Iterator[Pack]) -> list[tuple[Any, ...]]:
    """Return all contents of packs in a form that can be compared."""
    return [
        (pack["seed"], pack["progress"], [(w["input_ids"].tolist(), w["cut"], w["length"]) for w in pack["windows"]])
        for pack in packs
    ]


def identity(pack: Pack) -> Pack:
    return pack


def count_windows(packs: list[tuple[Any, ...]]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(ids) for _, _, windows in packs for ids, _, _ in windows)


def first_epoch(journal: Path) -> int:
    """Return the number of packs in the first epoch."""
    return max(start["pack"] for start in map(json.loads, journal.read_text().splitlines()) if start["epoch"] == 0)


@pytest.mark.parametrize("held_out", [0, 4])
def test_the_same_packs_follow_wherever_the_stream_resumes(corpus: Path, tmp_path: Path, held_out: int) -> None:
    journal = tmp_path / "journal.jsonl"
    whole = contents(islice(stream_of(corpus, journal, held_out), MANY))
    written = journal.read_text()
    # The packs cover all documents more than twice.
    assert json.loads(written.splitlines()[-1])["epoch"] >= 2
    for start in [*range(8), *range(8, MANY - 6, 13), first_epoch(journal) - 1, first_epoch(journal)]:
        journal.write_text(written)
        stream = stream_of(corpus, journal, held_out)
        stream.start_at(start)
        assert contents(islice(stream, 6)) == whole[start : start + 6], start


@pytest.mark.parametrize("lost", [1, 30, 200, 10**6])
def test_a_truncated_journal_suffices(corpus: Path, tmp_path: Path, lost: int) -> None:
    journal = tmp_path / "journal.jsonl"
    whole = contents(islice(stream_of(corpus, journal), MANY))
    written = journal.read_bytes()
    for start in (0, MANY // 2, MANY - 5):
        journal.write_bytes(written[: max(0, len(written) - lost)])
        stream = stream_of(corpus, journal)
        stream.start_at(start)
        assert contents(islice(stream, 5)) == whole[start : start + 5]
        # The lost lines are written again.
        assert all(json.loads(line)["pack"] for line in journal.read_text().splitlines())


def test_without_a_journal_the_stream_rereads_to_the_same_packs(corpus: Path, tmp_path: Path) -> None:
    whole = contents(islice(stream_of(corpus), 40))
    stream = stream_of(corpus, tmp_path / "journal.jsonl")
    stream.start_at(35)
    assert contents(islice(stream, 5)) == whole[35:]


def test_the_journal_drops_entries_after_the_resumed_pack(corpus: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    contents(islice(stream_of(corpus, journal), MANY))
    written = journal.read_text().splitlines()
    starts = [json.loads(line)["pack"] for line in written]
    assert starts == sorted(starts)
    before = starts[len(starts) // 2]
    stream = stream_of(corpus, journal)
    stream.start_at(before)
    packs = iter(stream)
    next(packs)
    assert journal.read_text().splitlines() == [
        line for line, start in zip(written, starts, strict=True) if start <= before
    ]
    contents(islice(packs, MANY - before - 1))
    assert [json.loads(line)["pack"] for line in journal.read_text().splitlines()] == starts
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


def test_documents_before_the_last_block_are_not_reread(tokenizer: SequenceEncoderTokenizer, tmp_path: Path) -> None:
    read: list[int] = []

    def shards(parts: list[int]) -> Iterator[dict[str, Any]]:
        for part in parts:
            read.append(part)
            for text in documents()[BLOCK * part : BLOCK * (part + 1)]:
                yield {"text": text}

    def stream() -> PackedStream:
        texts = IterableDataset.from_generator(shards, gen_kwargs={"parts": list(range(8))})
        journal = tmp_path / "journal.jsonl"
        return PackedStream(texts, tokenizer, LONGEST, BUDGET, buffer=BLOCK, journal=journal)

    whole = contents(islice(stream(), 25))
    assert read[0] == 0
    resumed = stream()
    resumed.start_at(20)
    read.clear()
    assert contents(islice(resumed, 5)) == whole[20:]
    assert min(read) > 2


def test_blocks_of_long_documents_have_fewer_documents(
    tokenizer: SequenceEncoderTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also bounds memory by the number of characters."""
    monkeypatch.setattr(streams, "BLOCK_CHARACTERS", 1000)
    read: list[str] = []

    def endless() -> Iterator[dict[str, str]]:
        for text in cycle(documents()):
            read.append(text)
            yield {"text": text}

    stream = PackedStream(IterableDataset.from_generator(endless), tokenizer, LONGEST, BUDGET)
    next(iter(stream))
    assert 1000 <= sum(map(len, read)) < 2000


@pytest.mark.parametrize("pairs", [True, False])
def test_every_window_appears_once_per_epoch(
    corpus: Path, tokenizer: SequenceEncoderTokenizer, tmp_path: Path, pairs: bool
) -> None:
    journal = tmp_path / "journal.jsonl"
    packs = contents(islice(stream_of(corpus, journal, pairs=pairs), MANY))
    once = first_epoch(journal)
    expected = segment_windows(documents(), tokenizer, LONGEST, pairs)
    assert count_windows(packs[:once]) == Counter(tuple(window["input_ids"].tolist()) for window in expected)
    # The second epoch has another order.
    again = packs[once : 2 * once]
    assert len(count_windows(again) - count_windows(packs[:once])) < 10
    assert [windows for _, _, windows in again] != [windows for _, _, windows in packs[:once]]
    assert any(cut for _, _, windows in packs for _, cut, _ in windows) == pairs


def test_reading_held_out_documents_does_not_move_the_stream(
    corpus: Path, tokenizer: SequenceEncoderTokenizer, tmp_path: Path
) -> None:
    whole = contents(islice(stream_of(corpus, held_out=4), MANY))
    journal = tmp_path / "journal.jsonl"
    texts, held_out = load_corpus(CorpusArguments(corpus=str(corpus), streaming=True, eval_documents=4), corpus, 0)
    stream = PackedStream(texts, tokenizer, LONGEST, BUDGET, buffer=BLOCK, seed=3, journal=journal)
    stream.plan(MANY)
    packs = iter(stream)
    found = []
    for _ in range(MANY):
        found += contents(islice(packs, 1))
        assert [item["text"] for item in held_out] == documents()[:4]
    assert found == whole
    resumed = stream_of(corpus, journal, held_out=4)
    resumed.start_at(MANY - 5)
    assert contents(islice(resumed, 5)) == whole[-5:]


@pytest.mark.parametrize("texts", [[], ["", None, " "]])
def test_a_stream_without_text_ends_with_an_error(tokenizer: SequenceEncoderTokenizer, texts: list[Any]) -> None:
    stream = IterableDataset.from_generator(lambda: ({"text": text} for text in texts))
    with pytest.raises(UsageError, match="The stream contains no text"):
        next(iter(PackedStream(stream, tokenizer, LONGEST, BUDGET)))


def test_a_stream_that_another_reader_began_is_not_resumed(tmp_path: Path) -> None:
    KINDS["jsonl"](tmp_path / "0.jsonl", documents()[:19])
    journal = tmp_path / "journal"
    source = {"examples_iterable": {"type": "RebatchedArrowExamplesIterable"}, "epoch": 0}
    journal.write_text(json.dumps({"pack": 0, "epoch": 0, "source": source}) + "\n")
    with pytest.raises(UsageError, match="another version has read the stream of the interrupted run"):
        next(iter(stream_of(tmp_path, journal)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_stream_raises_an_error(tmp_path: Path, kind: str) -> None:
    for part in range(2):
        KINDS[kind](tmp_path / f"{part}.{kind}", documents()[:19])
    broken = tmp_path / f"2.{kind}"
    # The first rows of each file are checked before training.
    KINDS[kind](broken, documents()[:19] * 20)
    broken.write_bytes(broken.read_bytes()[:-9] + b'"\xff\xfe{"text": 1')
    packs = iter(stream_of(tmp_path))
    contents(islice(packs, 10))
    with pytest.raises(UsageError, match=r"the stream cannot be read: .+"):
        contents(packs)


def test_one_worker_gives_the_same_packs_and_several_are_rejected(tokenizer: SequenceEncoderTokenizer) -> None:
    def load(workers: int) -> Iterator[Pack]:
        texts = IterableDataset.from_generator(lambda: ({"text": text} for text in documents()))
        stream = PackedStream(texts, tokenizer, LONGEST, BUDGET, buffer=BLOCK)
        return iter(DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=identity))

    with pytest.raises(UsageError, match="dataloader_num_workers must be 0 or 1 for a stream, got 2"):
        next(load(2))
    assert contents(islice(load(1), 10)) == contents(islice(load(0), 10))
