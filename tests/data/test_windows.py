"""Windows contain all tokens of the texts: as many whole sentences as fit, in order, split in two near the middle."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from sequence_encoder import SequenceEncoderTokenizer
from sequence_encoder.command_line import UsageError
from sequence_encoder.data.windows import segment_windows, sentences, windows_of
from sequence_encoder.tests.fixtures.texts import LONG, TEXTS, tokenizer_of

LONGEST = 64
LENGTHS = [5, 8, 17, LONGEST]

every_text = pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
with_and_without_pairs = pytest.mark.parametrize("pairs", [True, False])


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return tokenizer_of()


def ids_of(text: str, tokenizer: SequenceEncoderTokenizer) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def ends_of(text: str, tokenizer: SequenceEncoderTokenizer) -> list[int]:
    """Return the number of tokens of the text up to the end of each sentence."""
    return list(accumulate(len(ids_of(sentence, tokenizer)) for sentence in sentences(text)))


def segments(windows: Iterable[Any]) -> list[tuple[list[int], list[int]]]:
    """Return the two segments of each window, where the second may be empty."""
    found = []
    for window in windows:
        ids = np.asarray(window["input_ids"]).tolist()
        cut = window["cut"] or len(ids)
        found.append((ids[:cut], ids[cut:]))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two? Three! Four", ["One.", "Two?", "Three!", "Four"]),
        ("It ends.  \n  (So does this.)", ["It ends.", "(So does this.)"]),
        ("Pi is 3.14, e.g. in numpy.pi of v2.0", ["Pi is 3.14, e.g. in numpy.pi of v2.0"]),
        ("A line\ngoes on\n    and on", ["A line\ngoes on\n    and on"]),
        ("a paragraph\n\nanother\n \t\nand one more", ["a paragraph", "another", "and one more"]),
        ("list:\n- one\n* two\n  - three\n> four", ["list:", "- one", "* two", "- three", "> four"]),
        ("arguments\n  x: a number\n  name (str): a\n  name", ["arguments", "x: a number", "name (str): a\n  name"]),
        ("人人生而自由。谁不是？！他说：「是。」然后", ["人人生而自由。", "谁不是？！", "他说：「是。」然后"]),  # noqa: RUF001
        ("ما هذا؟ هذا كتاب.", ["ما هذا؟", "هذا كتاب."]),
        ("सभी मनुष्य स्वतंत्र हैं। वे समान हैं।", ["सभी मनुष्य स्वतंत्र हैं।", "वे समान हैं।"]),
        ("", []),
        (" \n\n \t ", []),
    ],
)
def test_a_text_is_split_into_sentences_paragraphs_and_items(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@with_and_without_pairs
@pytest.mark.parametrize("max_length", LENGTHS)
def test_no_window_exceeds_max_length_with_its_special_tokens(
    tokenizer: SequenceEncoderTokenizer, max_length: int, pairs: bool
) -> None:
    windows = list(segment_windows([*TEXTS, LONG], tokenizer, max_length, pairs))
    for window, (first, second) in zip(windows, segments(windows), strict=True):
        assert first
        assert window["length"] == len(first) + len(second) + (3 if second else 2)
        assert window["length"] <= max_length
    if max_length == LONGEST:
        assert any(second for _, second in segments(windows)) == pairs


@with_and_without_pairs
@pytest.mark.parametrize("max_length", LENGTHS)
def test_windows_contain_all_tokens_in_order(tokenizer: SequenceEncoderTokenizer, max_length: int, pairs: bool) -> None:
    for text in [*TEXTS, LONG]:
        found = segments(segment_windows([text], tokenizer, max_length, pairs))
        assert [token for first, second in found for token in first + second] == ids_of(text, tokenizer)


@every_text
def test_windows_contain_as_many_sentences_as_fit_in_balanced_halves(
    tokenizer: SequenceEncoderTokenizer, text: str
) -> None:
    ends = ends_of(text, tokenizer)
    longest = max(end - start for start, end in pairwise([0, *ends]))
    # The first sentences fill some of these windows to the last token.
    for room in (max(2 * longest, 30), *(end for end in ends if end >= longest)):
        start = 0
        for first, second in segments(segment_windows([text], tokenizer, room + 3)):
            length = len(first) + len(second)
            assert start + length == max(end for end in ends if end <= start + room)
            cuts = [end - start for end in ends if start < end < start + length]
            assert len(first) in cuts or (not cuts and not second)
            assert all(abs(len(first) - len(second)) <= abs(2 * cut - length) for cut in cuts)
            start += length
        assert start == ends[-1]


def test_a_sentence_longer_than_a_window_is_split(tokenizer: SequenceEncoderTokenizer) -> None:
    ids = ids_of(LONG, tokenizer)
    room = 13
    found = segments(segment_windows([LONG], tokenizer, room + 3))
    assert found == [(ids[i : i + room], []) for i in range(0, len(ids), room)]
    assert len(found) > 2


def test_the_rest_of_a_long_sentence_shares_a_window_with_the_next(tokenizer: SequenceEncoderTokenizer) -> None:
    long, short = ids_of(LONG, tokenizer), ids_of("As is.", tokenizer)
    room = len(long) - 5
    *_, last = segments(segment_windows([f"{LONG}\n\nAs is."], tokenizer, room + 3))
    assert last == (long[room:], short)


def test_texts_without_tokens_have_no_windows(tokenizer: SequenceEncoderTokenizer) -> None:
    nothing = ["", " ", "\n\n\t", "\x00"]
    assert list(segment_windows(nothing, tokenizer, 16)) == []
    assert list(segment_windows([], tokenizer, 16)) == []
    between = segments(segment_windows(["", "As is.", *nothing, "As is."], tokenizer, 16))
    assert between == 2 * segments(segment_windows(["As is."], tokenizer, 16))


@pytest.mark.parametrize("max_length", [4, 3, 0, -1])
def test_a_length_without_room_for_two_tokens_is_rejected(tokenizer: SequenceEncoderTokenizer, max_length: int) -> None:
    with pytest.raises(ValueError, match=rf"max_length.* 5\b.*got {max_length}\."):
        list(segment_windows(TEXTS, tokenizer, max_length))
    with pytest.raises(ValueError, match=rf"max_length.* 4\b.*got {max_length - 1}\."):
        list(segment_windows(TEXTS, tokenizer, max_length - 1, pairs=False))


@with_and_without_pairs
def test_dataset_windows_do_not_depend_on_the_number_of_processes(
    tokenizer: SequenceEncoderTokenizer, pairs: bool
) -> None:
    texts = [*TEXTS, None, *TEXTS]
    expected = list(segment_windows([*TEXTS, *TEXTS], tokenizer, LONGEST, pairs))
    dataset = Dataset.from_dict({"text": texts, "number": range(len(texts))})
    for processes in (1, 2):
        found = windows_of(dataset, tokenizer, LONGEST, pairs, processes)
        assert segments(found) == segments(expected)
        assert found["length"][:] == [window["length"] for window in expected]


def test_documents_without_tokens_are_rejected(tokenizer: SequenceEncoderTokenizer) -> None:
    dataset = Dataset.from_dict({"text": ["", " ", None]})
    with pytest.raises(UsageError, match="none of the 3 documents"):
        windows_of(dataset, tokenizer, LONGEST)
