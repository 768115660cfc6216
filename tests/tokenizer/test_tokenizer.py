"""Tokenizers are trained on texts of the user, decode them again, and load without the package once saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sequence_encoder import SequenceEncoderTokenizer
from sequence_encoder.tokenizer import tokenization_sequence_encoder as module

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Der Bär läuft über die Straße, und der Fuchs läuft mit.",
    "Packing leaves the padding out; packing is quick.",
    "naïve café, déjà vu: 3.14 & 2.71!",
] * 3
# The first article of the Universal Declaration of Human Rights. Japanese and Korean words contain no spaces.
MANY_CHARACTERS = [
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",  # noqa: RUF001 (the Chinese comma is intended)
    "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "All human beings are born free and equal in dignity and rights.",
]
ALGORITHMS = ["wordpiece", "byte_level_bpe"]
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def train(algorithm: str, **options: Any) -> SequenceEncoderTokenizer:
    def texts() -> Iterator[str]:
        yield from TEXTS

    return SequenceEncoderTokenizer.train_from_iterator(
        texts(), algorithm=algorithm, show_progress=False, **{"vocab_size": 400, **options}
    )


@pytest.fixture(scope="module", params=ALGORITHMS)
def tokenizer(request: pytest.FixtureRequest) -> SequenceEncoderTokenizer:
    return train(request.param)


@pytest.fixture(scope="module")
def byte_level() -> SequenceEncoderTokenizer:
    return train("byte_level_bpe")


@every_algorithm
@pytest.mark.parametrize("vocab_size", [270, 300])
def test_the_vocabulary_does_not_exceed_its_size(algorithm: str, vocab_size: int) -> None:
    size = len(train(algorithm, vocab_size=vocab_size, min_frequency=1))
    assert size == vocab_size if algorithm == "byte_level_bpe" else size <= vocab_size


@pytest.mark.parametrize("texts", [TEXTS, MANY_CHARACTERS], ids=["latin", "cjk"])
@pytest.mark.parametrize("vocab_size", [7, 8, 20, 41, 100])
def test_wordpiece_drops_the_rarest_characters_to_stay_within_the_size(texts: list[str], vocab_size: int) -> None:
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    assert len(tokenizer) <= vocab_size
    counts = Counter(character for text in texts for character in text if not character.isspace())
    known = {token for token in tokenizer.get_vocab() if token in counts}
    assert len(known) >= min(len(counts), (vocab_size - len(SPECIAL)) // 2)
    assert min(counts[character] for character in known) >= max(
        (count for character, count in counts.items() if character not in known), default=0
    )
    unknown = {character for character in counts if tokenizer.tokenize(character) == ["[UNK]"]}
    assert unknown == set(counts) - known


def test_a_vocabulary_that_exceeds_its_size_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, trainer, *rest = module.ALGORITHMS["wordpiece"](False)

    def without_a_limit(*arguments: Any, **options: Any) -> None:
        trainer(*arguments, **{**options, "limit_alphabet": 1000})

    monkeypatch.setitem(module.ALGORITHMS, "wordpiece", lambda lowercase: (tokenizer, without_a_limit, *rest))
    with pytest.raises(ValueError, match=r"vocabulary has \d\d tokens.*vocab_size=20"):
        train("wordpiece", vocab_size=20)


@every_algorithm
def test_pieces_below_min_frequency_do_not_become_tokens(algorithm: str) -> None:
    often, always = (train(algorithm, min_frequency=frequency) for frequency in (len(TEXTS) + 1, 1))
    assert len(often) < len(always)


def test_the_second_text_of_a_pair_is_the_second_segment(tokenizer: SequenceEncoderTokenizer) -> None:
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS[:2])
    encoding = tokenizer(TEXTS[0], TEXTS[1])
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert encoding["input_ids"] == [cls, *first, sep, *second, sep]
    assert encoding["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer.num_special_tokens_to_add(pair=True) == 3


@pytest.mark.parametrize("pair", [None, TEXTS[1]])
def test_truncation_keeps_the_special_tokens(tokenizer: SequenceEncoderTokenizer, pair: str | None) -> None:
    encoding = tokenizer(TEXTS[0], pair, truncation=True, max_length=9)
    assert len(encoding["input_ids"]) == 9
    assert encoding["input_ids"][0] == tokenizer.cls_token_id
    assert encoding["input_ids"].count(tokenizer.sep_token_id) == (1 if pair is None else 2)


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS[:4],
        "",
        " ",
        "  two  spaces\tand\n\nlines\r\n",
        " ещё 漢字 ひらがな 한국어 العربية हिन्दी ",
        "👩‍👩‍👧 🏳️‍🌈 \U0010ffff",
        "\x00\x1b[0m\u200b\ufeff\u2028",
        "cafe\u0301 is not café",
        "don't , do . it ? you 're !",
    ],
)
def test_byte_level_tokens_restore_any_text(byte_level: SequenceEncoderTokenizer, text: str) -> None:
    ids = byte_level(text)["input_ids"]
    assert byte_level.unk_token_id not in ids
    assert byte_level.decode(ids, skip_special_tokens=True) == text


@every_algorithm
def test_only_lowercase_removes_case(algorithm: str) -> None:
    lower, cased = train(algorithm, lowercase=True), train(algorithm)
    assert lower("PACKING Is Quick")["input_ids"] == lower("packing is quick")["input_ids"]
    assert cased("PACKING Is Quick")["input_ids"] != cased("packing is quick")["input_ids"]
    assert lower("[MASK]")["input_ids"] == cased("[MASK]")["input_ids"]


def test_wordpiece_strips_accents_only_with_lowercase() -> None:
    lower, cased = train("wordpiece", lowercase=True), train("wordpiece")
    assert lower("café")["input_ids"] == lower("cafe")["input_ids"]
    assert cased("café")["input_ids"] != cased("cafe")["input_ids"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"algorithm": "unigram"}, ["algorithm='unigram'", *ALGORITHMS]),
        ({"vocab_size": 6}, ["vocab_size", "6", "7", "wordpiece"]),
        ({"vocab_size": 260, "algorithm": "byte_level_bpe"}, ["vocab_size", "260", "261", "byte_level_bpe"]),
        ({"vocab_size": -1}, ["vocab_size", "-1"]),
        ({"vocab_size": 300.0}, ["vocab_size", "integer", "300.0"]),
        ({"vocab_size": "300"}, ["vocab_size", "integer", "'300'"]),
        ({"vocab_size": True}, ["vocab_size", "integer", "True"]),
        ({"min_frequency": -1}, ["min_frequency", "at least 0", "-1"]),
        ({"min_frequency": None}, ["min_frequency", "integer", "None"]),
        ({"model_max_length": 2}, ["model_max_length", "at least 3", "special tokens", "2"]),
        ({"model_max_length": "512"}, ["model_max_length", "integer", "'512'"]),
        ({"texts": "a single text"}, ["texts", "iterable", "single text"]),
        ({"texts": []}, ["texts", "no text"]),
        pytest.param({"texts": iter(["", " \n"])}, ["texts", "no text"], id="an iterator of blank texts"),
        ({"texts": [[], [""]]}, ["texts", "no text"]),
        ({"texts": None}, ["texts", "iterable", "NoneType"]),
        ({"texts": ["a text", None]}, ["texts", "batches of texts", "NoneType"]),
        ({"texts": [["a text", 3.5]]}, ["texts", "batches of texts", "float"]),
        ({"texts": [b"a text"]}, ["texts", "batches of texts", "bytes"]),
        ({"texts": [{"text": "a text"}]}, ["texts", "batches of texts", "dict"]),
    ],
    ids=str,
)
def test_bad_arguments_are_named_with_their_values(options: dict[str, Any], expected: list[str]) -> None:
    arguments = {"texts": TEXTS, "vocab_size": 300, "show_progress": False, **options}
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is checked below)
        SequenceEncoderTokenizer.train_from_iterator(**arguments)
    assert [part for part in expected if part not in str(error.value)] == []


@pytest.mark.parametrize(
    "options", [{"vocab_size": 6}, {"min_frequency": -1}, {"model_max_length": 0}, {"algorithm": "unigram"}], ids=str
)
def test_bad_arguments_are_rejected_before_a_text_is_read(options: dict[str, Any]) -> None:
    texts = iter(TEXTS)
    with pytest.raises(ValueError, match=next(iter(options))):
        SequenceEncoderTokenizer.train_from_iterator(texts, **{"show_progress": False, **options})
    assert list(texts) == TEXTS
