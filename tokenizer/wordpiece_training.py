"""Training WordPiece so that the same texts give the same vocabulary, with the same ids, in every run.

The trainer of tokenizers numbers the characters inside words (`##a`) in the order in which it meets the words, which it
keeps in a hash map with a random seed. Ties between pairs are broken by these numbers, so ids, and at times tokens,
differ from run to run. Here, the trainer first counts words only; then it trains on the counted words, with all
characters numbered in advance.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

CONTINUING_PREFIX = "##"
# How often a word is repeated in one text at most, so that a frequent word makes no text of gigabytes.
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
    """Trains the WordPiece model of `tokenizer` in place.

    Args:
        tokenizer: a tokenizer whose normalizer and pre-tokenizer split texts at least at white space.
        texts: the texts, read once.
        vocab_size: the number of tokens at most, special ones included.
        min_frequency: how often a pair of tokens must occur to be merged.
        special_tokens: the special tokens, which take the first ids.
        initial_alphabet: characters that are kept however rare they are.
        limit_alphabet: the number of characters to keep, the most frequent ones.
        show_progress: whether to show progress bars.
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
    """How often each word occurs, which the trainer knows and tells through its pickled state alone."""
    trainer = trainers.WordPieceTrainer(vocab_size=0, limit_alphabet=0, show_progress=show_progress)
    tokenizer.train_from_iterator(texts, trainer)
    words: dict[str, int] = json.loads(trainer.__getstate__())["WordPieceTrainer"]["bpe_trainer"]["words"]
    return words


def _repeat(words: dict[str, int]) -> Iterator[str]:
    for word, count in words.items():
        for start in range(0, count, _REPEATS):
            yield f"{word} " * min(_REPEATS, count - start)
