"""The two steps of encoding many texts, with checked options: tokenizing texts, and computing vectors.

Shapes: N texts, D channels of the vectors.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.utils import logging

from ...data.argument_checks import check_text
from .embedding_recipe import EmbeddingRecipe, Normalize

# Number of texts to tokenize and sort together, enough for hundreds of batches.
CHUNK = 16_384


@dataclass(frozen=True)
class PreparedEncoding:
    """The two steps of `iter_encode` with checked options and a private tokenizer. See `prepare_encoding`."""

    encoder: Any
    tokenizer: PreTrainedTokenizerBase
    recipe: EmbeddingRecipe
    prompt: str
    max_length: int | None
    max_tokens: int
    kept_channels: int
    normalize: bool
    dtype: torch.dtype
    skipped: int = 0  # Number of tokens at the start of each text that pooling skips: the prompt, if it is excluded.
    rows: Any = None  # The `RowTokenizer` of a static encoder.

    def tokenize(self, texts: list[str]) -> Mapping[str, Any]:
        """Tokenize texts with the prompt before each: `input_ids` has the ids of each text."""
        if self.rows is not None:
            return {"input_ids": self.rows([self.prompt + text for text in texts] if self.prompt else texts)}
        return self._tokenize([self.prompt + text for text in texts])

    def vectors(self, ids: Sequence[Any], name: Callable[[int], str], progress: Any) -> torch.Tensor:
        """Compute the vectors (N, D) of texts.

        Args:
            ids: The tokens of N texts.
            name: Takes the index of a text and returns its name, for errors.
            progress: A progress bar to advance by the number of texts.

        Raises:
            ValueError: If a vector is not finite.
        """
        vectors = self.encoder._encode_ids(ids, self.recipe.pooling, self.skipped, self.max_tokens, progress)
        return self.finished(vectors, name)

    def finished(self, vectors: torch.Tensor, name: Callable[[int], str]) -> torch.Tensor:
        """Apply the steps after the pooling to the pooled vectors (N, D).

        Args:
            vectors: The vectors, in at least float32.
            name: See `vectors`.

        Raises:
            ValueError: If a vector is not finite.
        """
        for step in self.recipe.after:
            vectors = step(vectors)
        vectors = vectors[:, : self.kept_channels]
        if self.normalize:
            vectors = Normalize()(vectors)
        vectors = vectors.to(self.dtype)
        self.encoder._check_finite(vectors, name)
        return vectors

    def count_prompt_tokens(self) -> int:
        """Count the tokens of the prompt at the start of each text."""
        if not self.prompt:
            return 0
        (tokens,) = self._tokenize([self.prompt])["input_ids"]
        return count_leading_tokens(tokens, self.tokenizer)

    def _tokenize(self, texts: list[str]) -> BatchEncoding:
        return self.tokenizer(
            texts, truncation=self.max_length is not None, max_length=self.max_length, return_attention_mask=False
        )


def count_leading_tokens(prompt_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the tokens of a prompt that a text begins with: all of them, without a special token at the end."""
    return len(prompt_ids) - (prompt_ids[-1:] != [] and prompt_ids[-1] in tokenizer.all_special_ids)


def check_sentences(sentences: Any) -> None:
    """Check that texts are in an iterable, and not in a table, of which Python iterates over the names of columns.

    Raises:
        ValueError: If they are not.
    """
    advice = None
    if isinstance(sentences, str):
        advice = "got a single str; put it in a list"
    elif isinstance(sentences, Mapping) or hasattr(sentences, "columns"):
        advice = f"got a {type(sentences).__name__}; pass one of its columns"
    elif not isinstance(sentences, Iterable):
        advice = f"got {sentences!r}"
    if advice:
        raise ValueError(f"sentences must be an iterable of strings, {advice}.")


def tokenized_chunks(
    sentences: Iterable[str], prepared: PreparedEncoding, show_progress_bar: bool | None = None
) -> Iterator[tuple[list[list[int]], Callable[[int], str], Any]]:
    """Yield the token ids of the next `CHUNK` texts, the function that names each of them, and a progress bar.

    Args:
        sentences: Texts.
        prepared: The options of `iter_encode`.
        show_progress_bar: See `iter_encode`.

    Raises:
        ValueError: If a tokenizer cannot read an element.
    """
    show = logging.get_verbosity() <= logging.INFO if show_progress_bar is None else show_progress_bar
    total = len(sentences) if isinstance(sentences, Sized) else None
    iterator = iter(sentences)
    done = 0
    with logging.tqdm(total=total, desc="Encoding", unit="text", disable=not show) as progress:
        while chunk := list(itertools.islice(iterator, CHUNK)):
            for index, text in enumerate(chunk, done):
                check_text(text, "sentences", index)
            yield prepared.tokenize(chunk)["input_ids"], partial(_sentence_name, done), progress
            done += len(chunk)


def _sentence_name(first: int, index: int) -> str:
    return f"sentences[{first + index}]"
