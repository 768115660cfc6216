"""What all encoders that give a text something other than one dense vector have in common.

Shapes: N texts, T tokens of all texts of a batch, H hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ...data.batching import longest_first
from ...modeling.cpu.prepacked import prepacked_for
from ...modeling.packing import run_packed
from ...modeling.text_encoding.embedding_recipe import EmbeddingRecipe
from ...modeling.text_encoding.evaluation_mode import evaluation_mode
from ...tokenizer.private_copy import lowercased, private_copy


class TextVectors(ABC):
    """A model that gives texts vectors of one or several kinds in one pass.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: Its folder, with the modules of sentence-transformers.

    Attributes:
        kinds: The kinds of vectors, in the order in which `compute` returns them.
        base_model: Whether only the encoder is needed, without a head.
        recipe: How its vectors are made, see `read`.
        texts: How it reads texts.

    Raises:
        ValueError: If the model does not fit the folder, or the folder has modules that are not supported.
    """

    kinds: tuple[str, ...]
    base_model: bool

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        self.recipe = self.read(folder)
        self.texts: EmbeddingRecipe = self.recipe.texts
        self.model, self.encoder = model, model.base_model
        # Replaces the recipe that the encoder read, because these modules do not compute a dense vector.
        self.encoder.embedding_recipe = self.texts
        self.tokenizer = lowercased(private_copy(tokenizer)) if self.texts.lowercase else tokenizer

    @classmethod
    @abstractmethod
    def read(cls, folder: Path) -> Any:
        """Read the recipe in a folder, which has `texts`, how texts are read. The model need not be loaded.

        Raises:
            ValueError: If the folder has modules that are not supported.
        """

    @classmethod
    def has_unit_length(cls, folder: Path) -> bool:
        """Return whether an index can compare the vectors of a folder as they are."""
        return True

    @abstractmethod
    def channels(self, kind: str) -> int:
        """Return the number of channels of the vectors of a kind."""

    @abstractmethod
    def compute(self, ids: list[list[int]], task: str, normalize: bool | None = None) -> tuple[list[Any], ...]:
        """Compute the vectors of one batch without padding, in evaluation mode.

        Args:
            ids: The token ids of the texts.
            task: `QUERY` or `DOCUMENT`.
            normalize: Whether to scale dense vectors to unit length; by default as the folder says.

        Returns:
            For each of `kinds`, the vectors of all texts: arrays (D,) of dense vectors, pairs of indices and values of
            sparse ones, and arrays (L, D) of several vectors.
        """

    def reader(self, task: str, **options: Any) -> Reader:
        """Return what tokenizes texts. See `Reader` for the options."""
        return Reader(self, task, **options)

    def max_length(self, task: str) -> int | None:
        """Return the number of tokens to truncate queries or documents to, or None if there is no limit."""
        found: int | None = self.encoder.longest_text(self.tokenizer)
        return found

    def expand(self, ids: list[list[int]], task: str) -> list[list[int]]:
        """Return the tokens of queries or documents with those that the model expects after them."""
        return ids

    def encode(
        self,
        ids: list[list[int]],
        task: str,
        *,
        normalize: bool | None = None,
        max_tokens: int,
        name: Callable[[int], str],
        progress: Any,
    ) -> tuple[list[Any], ...]:
        """Compute the vectors of many texts, as `compute`.

        Args:
            ids: The token ids of the texts.
            task: `QUERY` or `DOCUMENT`.
            normalize: See `compute`.
            max_tokens: Maximum number of tokens in a batch.
            name: Takes the index of a text and returns its name, for errors.
            progress: A progress bar to advance by the number of texts.

        Raises:
            ValueError: If a vector is not finite.
        """
        found: tuple[list[Any], ...] = tuple([None] * len(ids) for _ in self.kinds)
        module: nn.Module = self.model
        tokens = sum(map(len, ids)) if self.model.device.type == "cpu" else 0
        with evaluation_mode(module), prepacked_for(module, tokens):
            for batch in longest_first([max(1, len(text)) for text in ids], max_tokens, progress):
                computed = self.compute([ids[index] for index in batch], task, normalize)
                for vectors, results in zip(computed, found, strict=True):
                    for index, vector in zip(batch, vectors, strict=True):
                        if not np.isfinite(values_of(vector)).all():
                            raise ValueError(f"The vectors of {name(index)} are not finite.")
                        results[index] = vector
        return found

    def states(self, ids: list[list[int]]) -> torch.Tensor:
        """Return the states of the last layer (T, H) of all tokens, text by text."""
        # The encoder cannot read a text without tokens.
        read = [text for text in ids if text]
        if not read:
            return torch.zeros(0, self.encoder.config.hidden_size, device=self.model.device, dtype=self.model.dtype)
        states: torch.Tensor = run_packed(self.encoder, read).last_hidden_state[0]
        return states


class Reader:
    """Tokenizes queries or documents for a `TextVectors`, with its own tokenizer.

    Args:
        vectors: The model.
        task: `QUERY` or `DOCUMENT`.
        prompt: Put before each text.
        prompt_name: The name of a prompt of the folder, if `prompt` is None; by default that of the task.
        max_length: Number of tokens to truncate texts to; by default as the folder says.

    Raises:
        ValueError: If an option is not allowed.
    """

    def __init__(
        self,
        vectors: TextVectors,
        task: str,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
    ) -> None:
        self.vectors, self.task = vectors, task
        self.prompt = vectors.texts.prompt(prompt, prompt_name or (task if prompt is None else None))
        default = vectors.max_length(task)
        self.max_length = default if max_length is None else vectors.encoder.longest_text(vectors.tokenizer, max_length)
        self.tokenizer = private_copy(vectors.tokenizer)

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Tokenize texts with the prompt before each."""
        encoded = self.tokenizer(
            [self.prompt + text for text in texts],
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        encoded["input_ids"] = self.vectors.expand(encoded["input_ids"], self.task)
        return encoded


def values_of(vector: Any) -> np.ndarray[Any, Any]:
    """Return the numbers of a vector of any kind."""
    numbers: np.ndarray[Any, Any] = vector[1] if isinstance(vector, tuple) else vector
    return numbers
