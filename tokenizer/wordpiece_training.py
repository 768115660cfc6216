"""Trains WordPiece so that the same texts give the same vocabulary, with the same ids, in every run.

The trainer of tokenizers numbers the characters inside words (`##a`) in the order in which it meets the words, which it
keeps in a hash map with a random seed. It breaks ties between pairs by these numbers, so ids and sometimes tokens
differ from run to run. Here, the trainer only counts words at first. Then it trains on the counted words, with all
characters numbered in advance.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

CONTINUING_PREFIX = "##"
# How often one text repeats a word at most. Otherwise the text of a frequent word could have gigabytes.
_REPEATS = 1024


def train_wordpiece(
    tokenizer: Tokenizer,
    texts: Iterator[str],
    *,
    vocab_size: int,
    min_frequency: int,
    special_tokens: Sequence[str | AddedToken],
    initial_alphabet: Sequence[str],
    limit_alphabet: int,
    show_progress: bool,
) -> None:
    """Train the WordPiece model of `tokenizer` in place.

    Args:
        tokenizer: A tokenizer that splits texts at least at white space.
        texts: The texts, which are read once.
        vocab_size: Maximum number of tokens, including special tokens.
        min_frequency: How often a pair of tokens must occur to be merged.
        special_tokens: The special tokens, which get the first ids.
        initial_alphabet: Characters to keep even if they are rare.
        limit_alphabet: Maximum number of characters to keep; the most frequent ones are kept.
        show_progress: Whether to show progress bars.
    """
    words = _count_words(tokenizer, texts, show_progress)
    counts = Counter(dict.fromkeys(initial_alphabet, float("inf")))
    for word, count in words.items():
        for character in word:
            counts[character] += count
    by_frequency = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet = set(by_frequency[:limit_alphabet])
    inside_words = sorted(alphabet.intersection(character for word in words for character in word[1:]))

    counted = Tokenizer(models.WordPiece(continuing_subword_prefix=CONTINUING_PREFIX))
    counted.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*special_tokens, *(CONTINUING_PREFIX + character for character in inside_words)],
        initial_alphabet=sorted(alphabet),
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUING_PREFIX,
        show_progress=show_progress,
    )
    counted.train_from_iterator(_repeat(words), trainer)
    tokenizer.model = models.WordPiece(
        counted.get_vocab(with_added_tokens=False),
        unk_token=tokenizer.model.unk_token,
        continuing_subword_prefix=CONTINUING_PREFIX,
    )
    tokenizer.add_special_tokens(list(special_tokens))


def _count_words(tokenizer: Tokenizer, texts: Iterator[str], show_progress: bool) -> dict[str, int]:
    """Return how often each word occurs. The trainer exposes its counts only through its pickled state."""
    trainer = trainers.WordPieceTrainer(vocab_size=0, limit_alphabet=0, show_progress=show_progress)
    tokenizer.train_from_iterator(texts, trainer)
    words: dict[str, int] = json.loads(trainer.__getstate__())["WordPieceTrainer"]["bpe_trainer"]["words"]
    return words


def _repeat(words: dict[str, int]) -> Iterator[str]:
    for word, count in words.items():
        for start in range(0, count, _REPEATS):
            yield f"{word} " * min(_REPEATS, count - start)
