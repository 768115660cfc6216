"""Embedding recipes, which describe how an encoder turns texts into vectors: truncation, pooling and later steps.

Shapes: N texts, D channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..pooling import check_pooling

# The activations of dense layers, by their names in files of sentence-transformers.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    f"{each.__module__}.{each.__name__}": each
    for each in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, nn.ELU)
}


@dataclass(frozen=True)
class Normalize:
    """Scales vectors to unit length."""

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map (N, D) to (N, D)."""
        return F.normalize(vectors, dim=-1)


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense layer after the pooling.

    Attributes:
        weight: (outputs, inputs).
        bias: (outputs,), or None.
        activation: One of `ACTIVATIONS`.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs) to (N, outputs)."""
        bias = None if self.bias is None else self.bias.to(vectors)
        return ACTIVATIONS[self.activation]()(F.linear(vectors, self.weight.to(vectors), bias))


@dataclass(frozen=True)
class EmbeddingRecipe:
    """A recipe for turning texts into vectors. Without arguments, it is the mean over all tokens.

    Attributes:
        pooling: One or more of `POOLINGS`, whose results are concatenated.
        include_prompt: Whether pooling includes the tokens of a prompt.
        after: Steps after the pooling, in this order.
        max_length: Number of tokens to truncate texts to; None for the limit of tokenizer and model.
        lowercase: Whether to lowercase texts before the tokenizer processes them.
        settings: The content of `config_sentence_transformers.json`, such as the prompts, the name of the default
            prompt, and `truncate_dim`.
        obstacle: The reason why the recipe of a folder is not supported; None if it is supported.
    """

    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    after: tuple[Normalize | Dense, ...] = ()
    max_length: int | None = None
    lowercase: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    obstacle: str | None = None

    @property
    def single_pooling(self) -> str:
        """The pooling, for models that support only one.

        Raises:
            ValueError: If there are several poolings, or the recipe is not supported.
        """
        self.check()
        if len(self.pooling) > 1:
            raise ValueError(f"The encoder has several poolings, {', '.join(self.pooling)}; pass one as pooling=.")
        return self.pooling[0]

    def check(self) -> None:
        """Check that the recipe is supported.

        Raises:
            ValueError: If it is not.
        """
        if self.obstacle is not None:
            raise ValueError(
                f"{self.obstacle}. Load the folder with SentenceTransformer, or pass pooling= to use only the encoder."
            )

    def changed(self, pooling: str | None = None, normalize: bool | None = None) -> "EmbeddingRecipe":
        """Return the recipe with other settings.

        Args:
            pooling: The pooling, instead of that of this recipe.
            normalize: Whether to scale vectors to unit length, instead of the setting of this recipe.

        Raises:
            ValueError: If the pooling does not exist, or the recipe is not supported.
        """
        recipe = self
        if pooling is None:
            recipe.check()
        else:
            check_pooling(pooling)
            recipe = replace(recipe, pooling=(pooling,), obstacle=None)
        if normalize is False:
            recipe = replace(recipe, after=tuple(step for step in recipe.after if not isinstance(step, Normalize)))
        elif normalize and recipe.after[-1:] != (Normalize(),):
            recipe = replace(recipe, after=(*recipe.after, Normalize()))
        return recipe

    def channels(self, hidden_size: int) -> int:
        """Return the number of channels of the vectors before truncation, given the `hidden_size` of the encoder."""
        sizes = [step.weight.shape[0] for step in self.after if isinstance(step, Dense)]
        return sizes[-1] if sizes else hidden_size * len(self.pooling)

    def kept_channels(self, hidden_size: int, truncate_dim: int | None = None) -> int:
        """Return the number of channels to keep.

        Args:
            hidden_size: The hidden size of the encoder.
            truncate_dim: The number of channels to keep. Defaults to the settings, or else to all channels.

        Raises:
            ValueError: If `truncate_dim` is less than 1 or more than the vectors have.
        """
        channels = self.channels(hidden_size)
        if truncate_dim is None:
            return min(self.settings.get("truncate_dim") or channels, channels)
        if not 1 <= truncate_dim <= channels:
            raise ValueError(f"truncate_dim must be from 1 to {channels}, got {truncate_dim}.")
        return truncate_dim

    def prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """Return the prompt to put before each text, which may be empty.

        Args:
            prompt: The prompt itself.
            prompt_name: The name of a prompt in the settings. Defaults to the default prompt.

        Raises:
            ValueError: If both are given, or no prompt has that name.
        """
        if prompt is not None:
            if prompt_name is not None:
                raise ValueError(f"prompt and prompt_name are mutually exclusive, got {prompt!r} and {prompt_name!r}.")
            return prompt
        name = self.settings.get("default_prompt_name") if prompt_name is None else prompt_name
        if name is None:
            return ""
        # SentenceTransformer has these two prompts for every model.
        prompts: dict[str, str | None] = {"query": "", "document": "", **(self.settings.get("prompts") or {})}
        if name not in prompts:
            raise ValueError(f"prompt_name must be one of {', '.join(map(repr, prompts))}, got {name!r}.")
        return prompts[name] or ""
