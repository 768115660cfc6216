"""How texts become vectors with an encoder: cut where, pooled how, and what follows, as a folder describes it.

Shapes: N texts, D channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# The activations of dense layers, by the names that sentence-transformers writes.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    f"{each.__module__}.{each.__name__}": each
    for each in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, nn.ELU)
}


@dataclass(frozen=True)
class Normalize:
    """Scales vectors to the length 1."""

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, D) to (N, D)."""
        return F.normalize(vectors, dim=-1)


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense layer after the pooling.

    Attributes:
        weight: (D of the results, D).
        bias: (D of the results,), or None.
        activation: one of `ACTIVATIONS`.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, D) to (N, D of the results)."""
        bias = None if self.bias is None else self.bias.to(vectors)
        return ACTIVATIONS[self.activation]()(F.linear(vectors, self.weight.to(vectors), bias))


@dataclass(frozen=True)
class EmbeddingRecipe:
    """How texts become vectors. Without arguments: the mean of all tokens.

    Attributes:
        pooling: one or several of `POOLINGS_OF_TEXTS`, whose results are concatenated.
        include_prompt: whether the tokens of a prompt are pooled.
        after: what happens to pooled vectors, in this order.
        max_length: the tokens that texts are cut to; None for what tokenizer and model allow.
        lowercase: whether texts are lowercased, whatever the tokenizer does.
        settings: the prompts, the name of the default one, `truncate_dim`, and whatever else
            `config_sentence_transformers.json` holds.
        obstacle: why a folder's description cannot be followed, None if it can.
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
        """The pooling, for models that take a single one.

        Raises:
            ValueError: if there are several, or the folder's description cannot be followed.
        """
        self.check()
        if len(self.pooling) > 1:
            raise ValueError(f"The encoder comes with the poolings {', '.join(self.pooling)}; choose one as pooling=.")
        return self.pooling[0]

    def check(self) -> None:
        """Checks that the folder's description can be followed.

        Raises:
            ValueError: if it cannot.
        """
        if self.obstacle is not None:
            raise ValueError(
                f"{self.obstacle}. SentenceTransformer may load the folder; pooling= takes the encoder alone."
            )

    def channels(self, hidden_size: int) -> int:
        """The channels of the vectors."""
        sizes = [step.weight.shape[0] for step in self.after if isinstance(step, Dense)]
        return sizes[-1] if sizes else hidden_size * len(self.pooling)

    def kept_channels(self, hidden_size: int, truncate_dim: int | None = None) -> int:
        """How many channels of the vectors are kept: `truncate_dim`, or else as many as the folder says, or all.

        Raises:
            ValueError: if the vectors have fewer than `truncate_dim`.
        """
        channels = self.channels(hidden_size)
        if truncate_dim is None:
            return min(self.settings.get("truncate_dim") or channels, channels)
        if not 1 <= truncate_dim <= channels:
            raise ValueError(f"truncate_dim must be from 1 to {channels}, got {truncate_dim}.")
        return truncate_dim

    def prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text to put before each text: the given one, the one of a name, or else the default; empty for none.

        Raises:
            ValueError: if both are given, or there is no prompt of that name.
        """
        if prompt is not None:
            if prompt_name is not None:
                raise ValueError(f"prompt and prompt_name exclude each other, got {prompt!r} and {prompt_name!r}.")
            return prompt
        name = self.settings.get("default_prompt_name") if prompt_name is None else prompt_name
        if name is None:
            return ""
        # Those that SentenceTransformer has for every model.
        prompts: dict[str, str | None] = {"query": "", "document": "", **(self.settings.get("prompts") or {})}
        if name not in prompts:
            raise ValueError(f"prompt_name must be one of {', '.join(map(repr, prompts))}, got {name!r}.")
        return prompts[name] or ""
