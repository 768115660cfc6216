"""Embeds texts with an exported encoder.

Shapes: B batch, S sequence, N texts, D channels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from ...data.batching import longest_first
from ...modeling.pooling import POOLINGS
from ...modeling.text_encoding.embedding_recipe import EmbeddingRecipe
from ...modeling.text_encoding.recipe_files import read_recipe
from ...modeling.text_encoding.text_encoding import TextEncodingMixin
from .exported_graph import ExportedGraph
from .graphs import VECTORS, inputs_of
from .loading import hub_options, load_exported
from .similar_lengths import similar_lengths

_TOKENS = "last_hidden_state"
# Torch pools fewer numbers than this with one thread. Its other threads would spin after the pooling, and slow the
# runtime in the next batch, by about a tenth with short texts.
_ONE_THREAD = 32_768
# With fewer channels at once, pooling takes longer than the threads spin.
_LEAST_CHANNELS = 16


@dataclass(frozen=True)
class _RecipeInGraph(EmbeddingRecipe):
    """A recipe whose pooling is a part of the graph, with the number of channels that the graph returns."""

    graph_channels: int = 0

    def channels(self, hidden_size: int) -> int:
        """See `EmbeddingRecipe.channels`."""
        return self.graph_channels


class ExportedEncoder(ExportedGraph, TextEncodingMixin):
    """An encoder that `export` has saved, with its tokenizer. It runs on ONNX Runtime, OpenVINO or torch.

    Load one with `from_pretrained`.

    Args:
        exported: The `ExportedModel` of transformers.
        tokenizer: The tokenizer of the model.
        recipe: The embedding recipe of the folder; None for the mean over all tokens.

    Raises:
        ValueError: If the model is not an encoder.
    """

    def __init__(self, exported: Any, tokenizer: PreTrainedTokenizerBase, recipe: EmbeddingRecipe | None) -> None:
        super().__init__(exported)
        self.tokenizer, self.embedding_recipe = tokenizer, recipe
        # A graph for multiple choice cannot run on the single text below.
        if not is_encoder(self):
            raise ValueError(
                f"An ExportedEncoder needs the output {_TOKENS!r} or {VECTORS!r}, which this "
                f"{' or '.join(self.config.architectures or ['model'])} does not have. Export its encoder, with "
                "--pooled or pooled=True."
            )
        outputs = self._run([[self.config.pad_token_id or 0] * 2])
        self._graph_channels: int | None = outputs[VECTORS].shape[1] if VECTORS in outputs else None

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> ExportedEncoder:
        """Load an exported encoder. It computes in float32.

        Args:
            name: A folder or a Hub id.
            **options: Arguments of `transformers.exporters.ExportedModel.from_pretrained`, such as `device`,
                `revision`, `session_options` for ONNX Runtime, `config` for OpenVINO, or `trust_remote_code` for torch
                programs, which can run any code when they are loaded.

        Raises:
            MissingLibraryError: If the runtime is not installed.
            OSError: If there is no exported model.
            ValueError: If the model is not an encoder, or is a torch program and not trusted.
        """
        hub = hub_options(options)
        exported, tokenizer = load_exported(name, **options)
        return cls(exported, tokenizer, read_recipe(name, **hub))

    def encode(
        self,
        sentences: str | Iterable[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        convert_to_tensor: bool = False,
        **options: Any,
    ) -> torch.Tensor | Any:
        """Compute a vector for each text, as `SequenceEncoderModel.encode`.

        Args:
            sentences: A text or several texts.
            tokenizer: The tokenizer; by default that of the folder.
            convert_to_tensor: Whether to return a tensor instead of a NumPy array.
            **options: Arguments of `SequenceEncoderModel.iter_encode`.

        Returns:
            (N, D), in the order of the texts; (D,) for a single text.

        Raises:
            ValueError: If an argument is invalid, or contradicts the pooling that is a part of the graph.
        """
        return super().encode(sentences, tokenizer or self.tokenizer, convert_to_tensor=convert_to_tensor, **options)

    def iter_encode(
        self, sentences: Iterable[str], tokenizer: PreTrainedTokenizerBase | None = None, **options: Any
    ) -> Iterator[torch.Tensor | Any]:
        """Like `encode`, but for more texts than fit in memory, as `SequenceEncoderModel.iter_encode`.

        Args:
            sentences: Texts, also from an infinite iterator.
            tokenizer: The tokenizer; by default that of the folder.
            **options: Arguments of `SequenceEncoderModel.iter_encode`.

        Returns:
            An iterator of (N, D) for the next N texts.
        """
        return super().iter_encode(sentences, tokenizer or self.tokenizer, **options)

    def recipe_for(self, pooling: str | None = None, normalize_embeddings: bool | None = None) -> EmbeddingRecipe:
        """Return the recipe of the folder, changed by arguments of `encode`.

        Args:
            pooling: The pooling, instead of the recipe's.
            normalize_embeddings: Whether to scale vectors to unit length, instead of the recipe's setting.

        Raises:
            ValueError: If the pooling does not exist, or the graph contains another one.
        """
        asked = super().recipe_for(pooling, normalize_embeddings)
        if self._graph_channels is None:
            return asked
        own = super().recipe_for()
        done = len(own.after)
        if asked.pooling != own.pooling or asked.after[:done] != own.after:
            raise ValueError(
                f"The pooling {', '.join(own.pooling)} and the steps after it are a part of this graph, so "
                f"pooling={pooling!r} with normalize_embeddings={normalize_embeddings!r} is not possible. Export the "
                "model without pooling, and then choose."
            )
        values = {field.name: getattr(asked, field.name) for field in fields(EmbeddingRecipe)}
        return _RecipeInGraph(**{**values, "after": asked.after[done:]}, graph_channels=self._graph_channels)

    def _run(self, ids: list[list[int]]) -> Any:
        return self(**inputs_of(ids, self.config.pad_token_id, self._inputs))

    def _check_finite(self, vectors: torch.Tensor, name: Callable[[int], str]) -> None:
        if not (finite := vectors.isfinite().all(dim=1)).all():
            raise ValueError(f"The vector of {name(int(finite.int().argmin()))} is not finite.")

    def _encode_ids(
        self, ids: Sequence[Any], modes: tuple[str, ...], skipped: int, max_tokens: int, progress: Any
    ) -> torch.Tensor:
        """Return the vectors of texts in float32; zero for a text without tokens."""
        channels = self._graph_channels or self.config.hidden_size * len(modes)
        vectors = torch.zeros(len(ids), channels, device=self.device)
        for batch in longest_first([len(text) for text in ids], max_tokens, progress):
            vectors[batch] = self.encode_batch([ids[index] for index in batch], modes, skipped).to(vectors)
        return vectors

    def encode_batch(self, ids: list[list[int]], modes: tuple[str, ...], skipped: int = 0) -> torch.Tensor:
        """See `TextEncodingMixin.encode_batch`. Texts of similar length run together, since attention is padded."""
        if not self.runs_groups:
            return self._encode_group(ids, modes, skipped)
        groups, places = similar_lengths([len(text) for text in ids])
        vectors = torch.cat([self._encode_group([ids[index] for index in group], modes, skipped) for group in groups])
        return vectors[places]

    def _encode_group(self, ids: list[list[int]], modes: tuple[str, ...], skipped: int) -> torch.Tensor:
        """Return the vectors of texts that run in one batch."""
        outputs = self._run(ids)
        if self._graph_channels is not None:
            return cast(torch.Tensor, outputs[VECTORS])
        states = outputs[_TOKENS]
        lengths = torch.tensor([len(text) for text in ids], device=states.device)[:, None]
        places = torch.arange(states.shape[1], device=states.device)
        token_mask = (places >= skipped) & (places < lengths)
        channels = (_ONE_THREAD - 1) // max(1, token_mask.numel())
        if channels < _LEAST_CHANNELS or not self.runs_groups:
            channels = states.shape[-1]
        parts = states.split(channels, dim=-1)
        return torch.cat([POOLINGS[mode](part, token_mask) for mode in modes for part in parts], dim=-1)


def is_encoder(graph: ExportedGraph) -> bool:
    """Return whether an exported model returns hidden states or vectors, as `ExportedEncoder` needs."""
    return any(name in graph.outputs for name in (_TOKENS, VECTORS))
