"""The tokenizer: trained on the user's own texts, fast, and readable by plain transformers once saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from ..saving.loading import TokenizerReadSafely
from ..saving.saving import SavedWithCode
from .wordpiece_training import train_wordpiece

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

MODEL_INPUT_NAMES = ["input_ids", "token_type_ids", "attention_mask"]
# A tokenizer without a vocabulary, the function that trains it in place, the characters that it must know, and the
# number of tokens that one character makes.
Recipe = tuple[Tokenizer, Callable[..., None], list[str], int]


def _wordpiece(lowercase: bool) -> Recipe:
    """Pieces of words (Schuster and Nakajima, 2012), split at spaces and punctuation as BERT does."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # `a` at the start of a word, and `##a` in the rest.
    return tokenizer, train_wordpiece, [], 2


def _byte_level_bpe(lowercase: bool) -> Recipe:
    """Merged pairs of bytes (Radford et al., 2019): nothing is unknown, and decoding gives the text back."""
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


class SequenceEncoderTokenizer(TokenizerReadSafely, SavedWithCode, TokenizersBackend):
    """A fast tokenizer with BERT's special tokens: `[CLS] text [SEP]`, and `[CLS] text [SEP] pair [SEP]`.

    Make one with `train_from_iterator`. What `save_pretrained` writes is whole in itself: `AutoTokenizer` loads it with
    or without this package, and without remote code.
    """

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
        """Trains a tokenizer.

        Args:
            texts: the texts, or batches of them, read once.
            vocab_size: the number of tokens at most, special ones included. WordPiece keeps a character twice, for the
                start of a word and for the rest, and therefore only the (vocab_size - 5) / 2 most frequent characters;
                words with others become `[UNK]`. Byte-level tokens leave nothing unknown.
            algorithm: `"wordpiece"` or `"byte_level_bpe"`.
            lowercase: whether case is dropped (and accents, in WordPiece).
            min_frequency: how often a piece must occur to become a token.
            model_max_length: where `truncation=True` cuts; unlimited by default.
            show_progress: whether to show a progress bar.

        Raises:
            ValueError: before any text is read, for an unknown algorithm, a number out of its range, or a `vocab_size`
                that has no room for the special tokens and one character (WordPiece) or all bytes (byte-level BPE);
                while reading, for what is no text; at the end, if there was none.
        """
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm={algorithm!r} does not exist; choose one of {', '.join(ALGORITHMS)}.")
        tokenizer, train, alphabet, tokens_per_character = ALGORITHMS[algorithm](lowercase)
        smallest = len(SPECIAL_TOKENS) + tokens_per_character * max(len(alphabet), 1)
        _check_number("vocab_size", vocab_size, smallest, f" for algorithm={algorithm!r}")
        _check_number("min_frequency", min_frequency, 0)
        if model_max_length is not None:
            _check_number("model_max_length", model_max_length, 3, ", the special tokens of a pair of texts")
        # Byte-level tokens hold the space before a word: there, a mask stands for the word with its space.
        mask = AddedToken(SPECIAL_TOKENS["mask_token"], lstrip=algorithm == "byte_level_bpe", special=True)
        train(
            tokenizer,
            _read(texts),
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[mask if name == "mask_token" else token for name, token in SPECIAL_TOKENS.items()],
            initial_alphabet=alphabet,
            # Without it the trainer keeps all characters, beyond vocab_size.
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
        raise ValueError(f"{name} must be a whole number of at least {smallest}{reason}, got {value!r}.")


def _read(texts: Iterable[str | Iterable[str]]) -> Iterator[str]:
    """The texts one by one, and an error at the end if none of them had any characters."""
    if isinstance(texts, str):
        raise ValueError("texts must be an iterable of texts, got a single text.")
    empty = True
    for text in _flatten(texts):
        empty = empty and not text.strip()
        yield text
    if empty:
        raise ValueError("texts holds no text to train a tokenizer on.")


def _flatten(item: Any) -> Iterator[str]:
    # Of a mapping the keys would be taken for texts. Datasets of torch have no `__iter__`, and can be iterated.
    if isinstance(item, bytes | Mapping) or not (hasattr(item, "__iter__") or hasattr(item, "__getitem__")):
        raise ValueError(f"texts must be an iterable of texts or of batches of texts, got {type(item).__name__} in it.")
    for part in item:
        if isinstance(part, str):
            yield part
        else:
            yield from _flatten(part)
