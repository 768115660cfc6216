"""The tokenizer: users train it on their own texts, and plain transformers loads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..saving.atomic_saving import AtomicSavingMixin
from ..saving.code_bundle import BUNDLE_FILES
from ..saving.loading import SafeTokenizerLoadingMixin
from ..saving.saved_code import write_code
from .wordpiece_training import train_wordpiece

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

# Training takes time quadratic in the length of a word: a megabyte of letters would take more than an hour. Scripts
# without spaces have long "words" too.
_LONG_WORD = re.compile(r"\S{1000}")
MODEL_INPUT_NAMES = ["input_ids", "token_type_ids", "attention_mask"]
# A tokenizer without a vocabulary, the function that trains it in place, the characters that must be in its vocabulary,
# and the number of tokens for each character.
Recipe = tuple[Tokenizer, Callable[..., None], list[str], int]


def _wordpiece(lowercase: bool) -> Recipe:
    """Create a WordPiece recipe (Schuster and Nakajima, 2012), which splits at spaces and punctuation like BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # `a` at the start of a word, and `##a` inside.
    return tokenizer, train_wordpiece, [], 2


def _byte_level_bpe(lowercase: bool) -> Recipe:
    """Create a byte-level BPE recipe (Radford et al., 2019), without unknown tokens; decoding restores the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase() if lowercase else None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, _train_bpe, pre_tokenizers.ByteLevel.alphabet(), 1


def _train_bpe(tokenizer: Tokenizer, texts: Iterator[str], **options: Any) -> None:
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(**options))


ALGORITHMS: dict[str, Callable[[bool], Recipe]] = {
    "wordpiece": _wordpiece,
    "byte_level_bpe": _byte_level_bpe,
}


class SequenceEncoderTokenizer(SafeTokenizerLoadingMixin, AtomicSavingMixin, TokenizersBackend):
    """A fast tokenizer with BERT's special tokens: `[CLS] text [SEP]`, and `[CLS] text [SEP] pair [SEP]`.

    Create one with `train_from_iterator`. `AutoTokenizer` loads a saved one with or without this package, and without
    remote code.
    """

    def _write_beside(self, folder: Path, there: Path) -> None:
        """Write the code of a model whose configuration is there without it.

        `Trainer` copies such a part of a checkpoint to push it during training, and then saves the tokenizer.
        """
        if (there / "config.json").is_file() and not (there / BUNDLE_FILES[-1]).is_file():
            with suppress(OSError, ValueError):  # The configuration of another model.
                write_code(folder, SequenceEncoderConfig.from_pretrained(there))

    @classmethod
    def train_from_iterator(
        cls,
        texts: Iterable[str | Iterable[str]],
        vocab_size: int = 30522,
        algorithm: str = "wordpiece",
        lowercase: bool = False,
        min_frequency: int = 2,
        model_max_length: int | None = None,
        show_progress: bool = True,
    ) -> SequenceEncoderTokenizer:
        """Train a tokenizer.

        Args:
            texts: Texts, or batches of texts. They are read once. Words of more than 1,000 characters are cut.
            vocab_size: Maximum number of tokens, including special tokens. WordPiece has two tokens for each character,
                one for the start of a word and one for the rest. It therefore keeps the (vocab_size - 5) / 2 most
                frequent characters, and words with other characters become `[UNK]`. Byte-level BPE has no unknown
                tokens.
            algorithm: `"wordpiece"` or `"byte_level_bpe"`.
            lowercase: Whether to lowercase texts. WordPiece then strips accents as well.
            min_frequency: How often a piece must occur to become a token.
            model_max_length: Number of tokens that `truncation=True` truncates to; unlimited by default.
            show_progress: Whether to show a progress bar.

        Raises:
            ValueError: If the algorithm is unknown, a number is out of range, or `vocab_size` has no room for the
                special tokens and one character (WordPiece) or all bytes (byte-level BPE). All of this is checked
                before any text is read. Also raised if an item is not a text, or if there are no texts.
        """
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm={algorithm!r} does not exist; choose one of {', '.join(ALGORITHMS)}.")
        tokenizer, train, alphabet, tokens_per_character = ALGORITHMS[algorithm](lowercase)
        smallest = len(SPECIAL_TOKENS) + tokens_per_character * max(len(alphabet), 1)
        _check_number("vocab_size", vocab_size, smallest, f" for algorithm={algorithm!r}")
        _check_number("min_frequency", min_frequency, 0)
        if model_max_length is not None:
            _check_number("model_max_length", model_max_length, 3, ", the special tokens of a pair of texts")
        # Byte-level tokens include the space before a word, so the mask token has to replace that space as well.
        mask = AddedToken(SPECIAL_TOKENS["mask_token"], lstrip=algorithm == "byte_level_bpe", special=True)
        train(
            tokenizer,
            _read(texts),
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[mask if name == "mask_token" else token for name, token in SPECIAL_TOKENS.items()],
            initial_alphabet=alphabet,
            # Without a limit the trainer keeps all characters, even more than `vocab_size`.
            limit_alphabet=(vocab_size - len(SPECIAL_TOKENS)) // tokens_per_character,
            show_progress=show_progress,
        )
        if (size := tokenizer.get_vocab_size()) > vocab_size:
            raise ValueError(f"The trained vocabulary has {size} tokens, more than vocab_size={vocab_size}.")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
        )
        options: dict[str, Any] = {**SPECIAL_TOKENS, "model_input_names": MODEL_INPUT_NAMES}
        if model_max_length is not None:
            options["model_max_length"] = model_max_length
        return cls(tokenizer_object=tokenizer, **options)


def _check_number(name: str, value: Any, smallest: int, reason: str = "") -> None:
    if not hasattr(value, "__index__") or isinstance(value, bool) or value < smallest:
        raise ValueError(f"{name} must be an integer of at least {smallest}{reason}, got {value!r}.")


def _read(texts: Iterable[str | Iterable[str]]) -> Iterator[str]:
    """Yield the texts one by one, and raise an error at the end if all of them were blank."""
    if isinstance(texts, str):
        raise ValueError("texts must be an iterable of texts, got a single text.")
    empty = True
    for text in _flatten(texts):
        empty = empty and not text.strip()
        yield _LONG_WORD.sub(r"\g<0> ", text)
    if empty:
        raise ValueError("texts contains no text to train a tokenizer on.")


def _flatten(item: Any) -> Iterator[str]:
    # The keys of a mapping would pass as texts. Datasets of torch have no `__iter__`, but can be iterated.
    if isinstance(item, bytes | Mapping) or not (hasattr(item, "__iter__") or hasattr(item, "__getitem__")):
        raise ValueError(f"texts must be an iterable of texts or batches of texts, got a {type(item).__name__}.")
    for part in item:
        if isinstance(part, str):
            yield part
        else:
            yield from _flatten(part)
