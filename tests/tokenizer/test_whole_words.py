"""Whole-word masking masks all tokens of a word or none, in any alphabet, and each word independently."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sequence_encoder import SequenceEncoderTokenizer
from sequence_encoder.tests.fixtures.texts import LONG, tokenizer_of
from sequence_encoder.training.pretraining.objectives import Objectives, PretrainingCollator

MANY_ALPHABETS = [
    "The naïve café, déjà vu: 3.14 & 2.71, and (so on) for abc123",
    "Der Bär läuft über die Straße, und der Fuchs läuft mit",
    "Люди рождаются свободными и равными в своем достоинстве и правах",
    "人人生而自由 在尊严和权利上一律平等",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता",
    "don't write snake_case\nnor camelCase\n    nor 'quoted' words",
]
LINES = "one\ntwo\nthree\nfour\nfive\n\tsix"
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
OBJECTIVES = Objectives(whole_word_mask=True, mlm_probability=0.4)


def trained_on_many_alphabets(algorithm: str) -> PreTrainedTokenizerBase:
    return SequenceEncoderTokenizer.train_from_iterator(
        MANY_ALPHABETS, vocab_size=400, algorithm=algorithm, min_frequency=1, show_progress=False
    )


def metaspace() -> PreTrainedTokenizerBase:
    """Train a tokenizer like those of SentencePiece, whose words begin with the preceding space."""
    backend = Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = [*SPECIAL.values(), "[MASK]"]
    trainer = trainers.BpeTrainer(vocab_size=250, special_tokens=special, show_progress=False)
    backend.train_from_iterator([*MANY_ALPHABETS, LINES, LONG], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **SPECIAL)


KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "wordpiece": lambda: tokenizer_of("wordpiece"),
    "wordpiece-many-alphabets": lambda: trained_on_many_alphabets("wordpiece"),
    "byte-level": lambda: tokenizer_of("byte_level_bpe"),
    "byte-level-many-alphabets": lambda: trained_on_many_alphabets("byte_level_bpe"),
    "metaspace": metaspace,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return KINDS[request.param]()


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Any:
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)


def predictions(tokenizer: PreTrainedTokenizerBase, ids: list[int], seeds: int) -> np.ndarray:
    """Return which tokens of a window are masked for each seed, as bool of shape (seeds, tokens)."""
    collate = PretrainingCollator(tokenizer, OBJECTIVES)
    window = {"input_ids": np.array(ids), "cut": 0, "length": len(ids) + 2}
    batch = collate([{"windows": [window], "seed": [seed], "progress": 0.0} for seed in range(seeds)])
    return (batch["labels"][:, 1:-1] != -100).numpy()


def is_part_of_a_word(characters: str) -> bool:
    """Return whether characters belong to a word. Punctuation does not, even if a tokenizer joins it with letters."""
    characters = characters.strip()
    return bool(characters) and all(one.isalnum() or not one.isascii() for one in characters)


def test_masks_never_split_a_word(tokenizer: PreTrainedTokenizerBase) -> None:
    inside = 0
    for text in [*MANY_ALPHABETS, LINES, LONG]:
        encoded = encode(tokenizer, text)
        characters = [text[start:end] for start, end in encoded["offset_mapping"]]
        predicted = predictions(tokenizer, encoded["input_ids"], seeds=20)
        for place, (before, word) in enumerate(pairwise(encoded.word_ids())):
            if before == word and is_part_of_a_word(characters[place]) and is_part_of_a_word(characters[place + 1]):
                assert (predicted[:, place] == predicted[:, place + 1]).all(), characters[place : place + 2]
                inside += 1
    assert inside > 10


@pytest.mark.parametrize("text", [MANY_ALPHABETS[0], MANY_ALPHABETS[2], MANY_ALPHABETS[-1], LINES, LONG])
def test_words_between_spaces_are_masked_independently(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    encoded = encode(tokenizer, text)
    predicted = predictions(tokenizer, encoded["input_ids"], seeds=60)
    words: dict[int, np.ndarray] = {}
    for place, (start, end) in enumerate(encoded["offset_mapping"]):
        if text[start:end].strip():
            # The number of words up to the end of the token.
            word = len(text[:end].split())
            words[word] = words.get(word, False) | predicted[:, place]
    assert len(words) > 5
    for word, after in pairwise(words.values()):
        assert (word != after).any()


def test_punctuation_is_masked_independently_of_the_word_before_it(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "one; two! three? four; five) six]"
    encoded = encode(tokenizer, text)
    predicted = predictions(tokenizer, encoded["input_ids"], seeds=60)
    signs = [place for place, (start, end) in enumerate(encoded["offset_mapping"]) if text[start:end] in list(";!?)]")]
    assert len(signs) == 6
    for place in signs:
        assert (predicted[:, place] != predicted[:, place - 1]).any()


def test_a_word_ends_with_its_segment(tokenizer: PreTrainedTokenizerBase) -> None:
    """Pieces of a word in two segments, or in two windows, count as two words."""
    ids = encode(tokenizer, "abc123abc123")["input_ids"] * 20
    window = {"input_ids": np.array(ids), "cut": len(ids) // 2, "length": len(ids) + 3}
    collate = PretrainingCollator(tokenizer, OBJECTIVES)
    differ = {"segments": False, "windows": False}
    for seed in range(60):
        batch = collate([{"windows": [window, window], "seed": [seed], "progress": 0.0}])
        rows = (batch["labels"] != -100).tolist()
        for first, second in zip(rows, batch["token_type_ids"].tolist(), strict=True):
            if 1 in second:
                start = second.index(1)
                differ["segments"] |= first[start - 2] != first[start]
        last = int(batch["attention_mask"][0].sum()) - 2
        differ["windows"] |= rows[0][last] != rows[1][1]
    assert differ == {"segments": True, "windows": True}


def test_a_tokenizer_without_word_boundaries_is_rejected() -> None:
    backend = Tokenizer(models.WordLevel({token: place for place, token in enumerate([*SPECIAL.values(), "[MASK]"])}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **SPECIAL)
    with pytest.raises(ValueError, match="whole_word_mask needs a tokenizer"):
        PretrainingCollator(tokenizer, OBJECTIVES)
    assert PretrainingCollator(tokenizer) is not None
