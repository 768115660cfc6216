"""The tokenizer: trained on the user's own texts, fast, and readable by plain transformers once saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.tokenization_utils_tokenizers import TokenizersBackend

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

MODEL_INPUT_NAMES = ["input_ids", "token_type_ids", "attention_mask"]
# A tokenizer without a vocabulary, what trains it, and the characters that it must know.
Recipe = tuple[Tokenizer, Callable[..., trainers.Trainer], list[str]]


def _wordpiece(lowercase: bool) -> Recipe:
    """Pieces of words (Schuster and Nakajima, 2012), split at spaces and punctuation as BERT does."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer, []


def _byte_level_bpe(lowercase: bool) -> Recipe:
    """Merged pairs of bytes (Radford et al., 2019): nothing is unknown, and decoding gives the text back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase() if lowercase else None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer, pre_tokenizers.ByteLevel.alphabet()


ALGORITHMS: dict[str, Callable[[bool], Recipe]] = {
    "wordpiece": _wordpiece,
    "byte_level_bpe": _byte_level_bpe,
}


class SequenceEncoderTokenizer(TokenizersBackend):
    """A fast tokenizer with BERT's special tokens: `[CLS] text [SEP]`, and `[CLS] text [SEP] pair [SEP]`.

    Make one with `train_from_iterator`. What `save_pretrained` writes is whole in itself: `AutoTokenizer` loads it with
    or without this package, and without remote code.
    """

    @classmethod
    def train_from_iterator(
        cls,
        texts: Iterable[str],
        vocab_size: int = 30522,
        algorithm: str = "wordpiece",
        lowercase: bool = False,
        min_frequency: int = 2,
        model_max_length: int | None = None,
        show_progress: bool = True,
    ) -> SequenceEncoderTokenizer:
        """Trains a tokenizer.

        Args:
            texts: the texts, read once.
            vocab_size: the number of tokens at most, special ones included.
            algorithm: `"wordpiece"` or `"byte_level_bpe"`.
            lowercase: whether case is dropped (and accents, in WordPiece).
            min_frequency: how often a piece must occur to become a token.
            model_max_length: where `truncation=True` cuts; unlimited by default.
            show_progress: whether to show a progress bar.

        Raises:
            ValueError: for an unknown algorithm, a vocabulary too small for the characters it must hold, or no text.
        """
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm={algorithm!r} does not exist; choose one of {', '.join(ALGORITHMS)}.")
        tokenizer, trainer_class, alphabet = ALGORITHMS[algorithm](lowercase)
        smallest = len(SPECIAL_TOKENS) + max(len(alphabet), 1)
        if vocab_size < smallest:
            raise ValueError(f"vocab_size must be at least {smallest} for algorithm={algorithm!r}, got {vocab_size}.")
        # Byte-level tokens hold the space before a word: there, a mask stands for the word with its space.
        mask = AddedToken(SPECIAL_TOKENS["mask_token"], lstrip=algorithm == "byte_level_bpe", special=True)
        trainer = trainer_class(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[mask if name == "mask_token" else token for name, token in SPECIAL_TOKENS.items()],
            initial_alphabet=alphabet,
            show_progress=show_progress,
        )
        tokenizer.train_from_iterator(_never_empty(texts), trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
        )
        options: dict[str, Any] = {**SPECIAL_TOKENS, "model_input_names": MODEL_INPUT_NAMES}
        if model_max_length is not None:
            options["model_max_length"] = model_max_length
        return cls(tokenizer_object=tokenizer, **options)


def _never_empty(texts: Iterable[str]) -> Iterator[str]:
    """The texts, and an error at the end if none of them had any characters."""
    if isinstance(texts, str):
        raise ValueError("texts must be an iterable of texts, got a single text.")
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise ValueError("texts holds no text to train a tokenizer on.")
