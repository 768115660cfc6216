"""Tokenizers are trained on texts of the user, decode them again, and load without the package once saved."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sequence_encoder import SequenceEncoderTokenizer
from sequence_encoder.tests.forked_python import forked_python
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


def test_special_tokens_come_first_in_the_vocabulary(tokenizer: SequenceEncoderTokenizer) -> None:
    for index, (name, token) in enumerate(SPECIAL.items()):
        assert getattr(tokenizer, f"{name}_token") == token
        assert getattr(tokenizer, f"{name}_token_id") == tokenizer.convert_tokens_to_ids(token) == index
    assert sorted(tokenizer.all_special_tokens) == sorted(SPECIAL.values())


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


@pytest.mark.parametrize("vocab_size", [261, 300])
def test_byte_level_tokens_restore_any_text_even_with_a_minimal_vocabulary(vocab_size: int) -> None:
    tokenizer = train("byte_level_bpe", vocab_size=vocab_size)
    assert len(tokenizer) == vocab_size
    for text in MANY_CHARACTERS:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_a_vocabulary_that_exceeds_its_size_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, trainer, *rest = module.ALGORITHMS["wordpiece"](False)

    def without_a_limit(*arguments: Any, **options: Any) -> None:
        trainer(*arguments, **{**options, "limit_alphabet": 1000})

    monkeypatch.setitem(module.ALGORITHMS, "wordpiece", lambda lowercase: (tokenizer, without_a_limit, *rest))
    with pytest.raises(ValueError, match=r"vocabulary has \d\d tokens.*vocab_size=20"):
        train("wordpiece", vocab_size=20)


@every_algorithm
def test_batches_of_texts_are_read_like_single_texts(algorithm: str) -> None:
    batches = [TEXTS[:3], tuple(TEXTS[3:8]), TEXTS[8], iter(TEXTS[9:]), []]
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(
        iter(batches), algorithm=algorithm, vocab_size=5000, min_frequency=0, show_progress=False
    )
    assert tokenizer.get_vocab() == train(algorithm, vocab_size=5000, min_frequency=0).get_vocab()
    # The vocabulary has room for every word.
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    assert [len(tokenizer.tokenize(text)) for text in TEXTS] == [len(words(text)) for text in TEXTS]


@every_algorithm
@pytest.mark.parametrize("vocab_size", [300, 330])
def test_the_vocabulary_does_not_depend_on_the_order_of_the_texts(algorithm: str, vocab_size: int) -> None:
    texts = [*TEXTS, *MANY_CHARACTERS]
    first, second = (
        SequenceEncoderTokenizer.train_from_iterator(
            iter(texts), algorithm=algorithm, vocab_size=vocab_size, min_frequency=1, show_progress=False
        ).get_vocab()
        for texts in (texts, [*reversed(texts)])
    )
    assert first == second
    assert len(first) == vocab_size


def test_every_occurrence_of_a_word_is_counted() -> None:
    texts = ["frequent " * 5000, "rare " * 1025]
    for limit, words in ((5001, set()), (5000, {"frequent"}), (1026, {"frequent"}), (1025, {"frequent", "rare"})):
        tokenizer = SequenceEncoderTokenizer.train_from_iterator(
            iter(texts), vocab_size=500, min_frequency=limit, show_progress=False
        )
        assert {"frequent", "rare"} & set(tokenizer.get_vocab()) == words


class Texts:
    """A map-style dataset as in torch, without `__iter__`."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> str:
        return TEXTS[index]


@every_algorithm
def test_map_style_datasets_are_read(algorithm: str) -> None:
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(
        Texts(), algorithm=algorithm, vocab_size=np.int64(300), show_progress=False
    )
    assert 261 <= len(tokenizer) <= 300 or algorithm == "wordpiece"
    assert tokenizer.unk_token_id not in tokenizer(TEXTS[0])["input_ids"]


@every_algorithm
def test_pieces_below_min_frequency_do_not_become_tokens(algorithm: str) -> None:
    often, always = (train(algorithm, min_frequency=frequency) for frequency in (len(TEXTS) + 1, 1))
    assert len(often) < len(always)


def test_a_text_is_enclosed_by_cls_and_sep(tokenizer: SequenceEncoderTokenizer) -> None:
    encoding = tokenizer(TEXTS[0])
    assert list(encoding) == ["input_ids", "token_type_ids", "attention_mask"]
    tokens = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert not set(SPECIAL.values()) & set(tokens[1:-1])
    assert set(encoding["token_type_ids"]) == {0}
    assert tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"] == encoding["input_ids"][1:-1]


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


def test_truncation_uses_the_model_max_length_of_training(tmp_path: Path) -> None:
    tokenizer = train("wordpiece", model_max_length=8)
    tokenizer.save_pretrained(tmp_path)
    for same in (tokenizer, SequenceEncoderTokenizer.from_pretrained(tmp_path)):
        assert same.model_max_length == len(same(TEXTS[0], truncation=True)["input_ids"]) == 8


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_on_the_requested_side_and_masked(tokenizer: SequenceEncoderTokenizer, side: str) -> None:
    short, long = TEXTS[0][:9], TEXTS[1]
    alone = tokenizer(short)["input_ids"]
    batch = tokenizer([short, long], padding=True, padding_side=side)
    padding = len(batch["input_ids"][1]) - len(alone)
    assert padding > 0
    fill = [tokenizer.pad_token_id] * padding
    assert batch["input_ids"][0] == (fill + alone if side == "left" else alone + fill)
    mask = [0] * padding, [1] * len(alone)
    assert batch["attention_mask"][0] == (mask[0] + mask[1] if side == "left" else mask[1] + mask[0])
    assert set(batch["attention_mask"][1]) == {1}


def test_a_mask_token_replaces_a_whole_word(tokenizer: SequenceEncoderTokenizer) -> None:
    left, right = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("The quick", " fox"))
    masked = tokenizer("The quick [MASK] fox", add_special_tokens=False)["input_ids"]
    assert masked == [*left, tokenizer.mask_token_id, *right]


def test_special_tokens_are_skipped_in_decoding_on_request(tokenizer: SequenceEncoderTokenizer) -> None:
    ids = tokenizer("packing is quick", " the dog", padding="max_length", max_length=30)["input_ids"]
    assert tokenizer.decode(ids).count("[SEP]") == 2
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["packing", "is", "quick", "the", "dog"]


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


WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["sequence_encoder"] = None  # any import of it now fails
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.loads(sys.argv[2])
print(json.dumps({
    "encodings": dict(tokenizer(texts, texts[::-1], padding=True)),
    "tokens": tokenizer.convert_ids_to_tokens(range(len(tokenizer))),
    "special": tokenizer.special_tokens_map,
    "length": tokenizer.model_max_length,
}))
"""


@every_algorithm
def test_a_saved_tokenizer_encodes_the_same_without_the_package(algorithm: str, tmp_path: Path) -> None:
    tokenizer = train(algorithm, model_max_length=128)
    tokenizer.save_pretrained(tmp_path)
    texts = [*TEXTS[:4], "a [MASK] of  two", "漢字 👩‍👩‍👧", ""]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [forked_python(), "-c", WITHOUT_THE_PACKAGE, str(tmp_path), json.dumps(texts)],
        capture_output=True,
        text=True,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    loaded = json.loads(result.stdout.splitlines()[-1])
    assert loaded["encodings"] == dict(tokenizer(texts, texts[::-1], padding=True))
    assert loaded["tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert loaded["special"] == tokenizer.special_tokens_map
    assert loaded["length"] == 128


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


@pytest.mark.parametrize("pair", [None, TEXTS[1]])
def test_the_minimum_model_max_length_is_respected(pair: str | None) -> None:
    assert len(train("wordpiece", model_max_length=3)(TEXTS[0], pair, truncation=True)["input_ids"]) == 3
