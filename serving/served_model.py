"""A model that a server runs: what it can do, how it reads texts, and how it computes them in batches.

Shapes: N texts, L tokens of a text, D channels, C classes, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..data.padded_inputs import padded_inputs
from ..data.vector_kinds import DENSE, DOCUMENT, QUERY, SPARSE, TOKEN
from ..inference.runtimes.exported_encoder import ExportedEncoder
from ..inference.runtimes.exported_graph import ExportedHead, is_classifier
from ..inference.uses import use_of
from ..inference.vectors.text_vectors import TextVectors
from ..modeling import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForRetrieval,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from ..modeling.calibration.calibration import calibration_of
from ..modeling.calibration.outputs import with_p_values
from ..modeling.extraction.extracting import ExtractionMixin
from ..modeling.extraction.prepared_extraction import PreparedExtraction
from ..modeling.extraction.text_windows import TextWindow
from ..modeling.text_encoding.embedding_recipe import Dense, EmbeddingRecipe, Normalize
from ..modeling.text_encoding.prepared_encoding import count_leading_tokens
from ..modeling.text_encoding.text_encoding import TextEncodingMixin
from ..tokenizer.private_copy import lowercased, private_copy, without_special_tokens

EMBED, EMBED_ALL, EMBED_SPARSE = "embed", "embed_all", "embed_sparse"
RERANK, PREDICT, FILL_MASK, EXTRACT = "rerank", "predict", "fill_mask", "extract"
# The tasks for which a model reads single texts.
TEXT_TASKS = (EMBED, EMBED_ALL, EMBED_SPARSE, PREDICT, FILL_MASK, EXTRACT)
# What a `TextVectors` can do, by the kinds of its vectors.
VECTOR_TASKS = {DENSE: EMBED, SPARSE: EMBED_SPARSE, TOKEN: EMBED_ALL}
# Predictions for each mask.
TOP_K = 10
# Masks to predict together.
_MASKS = 64
# Lists of labels to remember the vectors of, if a separate encoder reads them.
_LABEL_SETS = 16


class Row(NamedTuple):
    """The token ids of a text or of a pair of texts, and for a pair the segment of each token."""

    ids: list[int]
    types: list[int] | None = None


class WindowRow(NamedTuple):
    """A window of a text, and what the labels and options of its request are."""

    window: TextWindow
    extraction: PreparedExtraction

    @property
    def ids(self) -> list[int]:
        """Its token ids."""
        return self.window.ids


class TooLongError(ValueError):
    """A text has more tokens than the model reads."""


@dataclass(frozen=True)
class Group:
    """Texts that can share a batch.

    Attributes:
        model: Their model.
        task: What to compute.
        skipped: Number of tokens at the start of each text that pooling skips.
        after: The steps after the pooling.
        reading: Whether a `TextVectors` has read them as `QUERY` or `DOCUMENT`.
        labels: The labels that a separate encoder reads.
    """

    model: ServedModel
    task: str
    skipped: int = 0
    after: tuple[Normalize | Dense, ...] = ()
    reading: str = DOCUMENT
    labels: tuple[str, ...] = ()


class ServedModel:
    """A model with its tokenizer, under the name by which requests choose it.

    Args:
        name: The name.
        model: An encoder or a model for sequence classification or span extraction, which may be exported, or a model
            for masked language modelling.
        tokenizer: Its tokenizer.
        vectors: What computes its sparse vectors or the vectors of its tokens, if they are not those of the encoder.

    Attributes:
        tasks: What the model can do: some of "embed", "embed_sparse" and "embed_all", "predict" and, with a single
            label, "rerank", or "fill_mask", or "extract".
        extraction: The steps of extraction, for any labels; None for a model that cannot.
        max_length: Number of tokens that the model reads; None if there is no limit.

    Raises:
        ValueError: If a server cannot use the model.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: PreTrainedTokenizerBase, vectors: TextVectors | None = None
    ) -> None:
        self.name, self.model, self.vectors = name, model, vectors
        self.tasks = _tasks_of(model, vectors)
        self.calibration = calibration_of(model)
        self.encoder: Any = model if isinstance(model, TextEncodingMixin) else model.base_model
        if vectors is not None:
            self.recipe = vectors.texts
        else:
            self.recipe = self.encoder.recipe_for() if EMBED in self.tasks else EmbeddingRecipe()
        self._longest: dict[str, int | None] = {
            task: self.encoder.longest_text(tokenizer) if vectors is None else vectors.max_length(task)
            for task in (DOCUMENT, QUERY)
        }
        self.max_length = self._longest[DOCUMENT]
        # Truncation is stored in a tokenizer, so that threads can only share those that always truncate or never do.
        self.tokenizer = self._own(tokenizer)
        self._truncating = {task: self._own(tokenizer) for task in self._longest}
        self._label_vectors = lru_cache(_LABEL_SETS)(lambda labels: model.label_vectors([*labels]))
        self.extraction: PreparedExtraction | None = None
        if isinstance(model, ExtractionMixin):
            self.extraction = model.prepare_extraction(["entity"], tokenizer)
        # Each stores its options with its first text, before threads share it.
        for task in self._longest:
            for truncate in (True, False):
                self._rows([""], truncate, "", task)

    def _own(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        # That of a `TextVectors` makes texts lowercase already.
        lowercase = self.recipe.lowercase and self.vectors is None
        own = lowercased(private_copy(tokenizer)) if lowercase else private_copy(tokenizer)
        return without_special_tokens(own) if getattr(self.model, "is_static", False) else own

    @property
    def normalizes(self) -> bool:
        """Whether the recipe scales vectors to unit length, in the graph or after it."""
        recipe = self.encoder.embedding_recipe
        return recipe is not None and recipe.after[-1:] == (Normalize(),)

    @property
    def dtype(self) -> str:
        """The dtype in which the model computes."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return cast(torch.device, self.model.device)

    @property
    def token_channels(self) -> int:
        """The number of channels of the vector of a token."""
        channels = self.encoder.config.hidden_size if self.vectors is None else self.vectors.channels(TOKEN)
        return int(channels)

    @property
    def labels(self) -> list[str]:
        """The names of the classes."""
        config = self.model.config
        return [str(config.id2label[index]) for index in range(config.num_labels)]

    def tokenize(self, texts: Sequence[Any], truncate: bool, prompt: str = "", reading: str = DOCUMENT) -> list[Row]:
        """Tokenize texts, or pairs of texts.

        Args:
            texts: Strings and pairs of strings.
            truncate: Whether to cut texts that are too long.
            prompt: Put before each text.
            reading: Whether a `TextVectors` reads them as `QUERY` or `DOCUMENT`.

        Raises:
            TooLongError: If a text is too long and `truncate` is False.
            ValueError: If a text has no tokens.
        """
        pairs = isinstance(texts[0], tuple)
        if any(isinstance(text, tuple) != pairs for text in texts):
            rows = [self._rows([text], truncate, prompt, reading)[0] for text in texts]
        else:
            rows = self._rows(texts, truncate, prompt, reading)
        self.check_lengths(rows, reading)
        if self.vectors is None:
            return rows
        return [Row(ids) for ids in self.vectors.expand([row.ids for row in rows], reading)]

    def _rows(self, texts: Sequence[Any], truncate: bool, prompt: str, reading: str) -> list[Row]:
        """Tokenize texts, or pairs of texts, but not both."""
        pairs = isinstance(texts[0], tuple)
        inputs = [list(side) for side in zip(*texts, strict=True)] if pairs else [[prompt + text for text in texts]]
        longest = self._longest[reading]
        cut = truncate and longest is not None
        tokenizer: Any = self._truncating[reading] if cut else self.tokenizer
        options = {"truncation": True, "max_length": longest} if cut else {"truncation": False}
        encoded = tokenizer(*inputs, return_attention_mask=False, return_token_type_ids=pairs, verbose=False, **options)
        ids = encoded["input_ids"]
        types = encoded.get("token_type_ids") if pairs else None
        return [Row(*row) for row in zip(ids, types, strict=True)] if types else [Row(each) for each in ids]

    def check_lengths(self, rows: Sequence[Row], reading: str = DOCUMENT) -> None:
        """Check that no text is empty or too long.

        Raises:
            TooLongError: If a text is too long.
            ValueError: If a text has no tokens.
        """
        longest = self._longest[reading]
        for index, row in enumerate(rows):
            if longest is not None and len(row.ids) > longest:
                raise TooLongError(
                    f"Text {index} has {len(row.ids)} tokens, but {self.name} reads at most {longest}. "
                    'Shorten it, or pass "truncate": true.'
                )
            if not row.ids:
                raise ValueError(f"Text {index} has no tokens.")

    def prompt(self, name: str | None) -> str:
        """Return the prompt to put before each text, see `EmbeddingRecipe.prompt`.

        A model without dense vectors reads texts as documents by default.
        """
        reads_documents = self.vectors is not None and EMBED not in self.tasks
        return self.recipe.prompt(None, name or DOCUMENT if reads_documents else name)

    def embedding_group(self, prompt: str, normalize: bool | None) -> Group:
        """Return the group of texts to embed, given the prompt before each; `normalize` defaults to the recipe."""
        recipe = self.encoder.recipe_for(None, normalize)
        return Group(self, EMBED, self._prompt_tokens(prompt), recipe.after)

    def compute(self, group: Group, rows: list[Any]) -> list[Any]:
        """Compute a batch.

        Returns:
            For each text: a vector (D,), token vectors (L, D), the indices and values of a sparse vector, logits (C,),
            with the p-value of unfamiliarity if the model is calibrated, the ids and probabilities of the likely tokens
            for each mask, (masks, TOP_K) twice, or the spans above the threshold.
        """
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        ordered = [rows[index] for index in order]
        with torch.no_grad():
            if group.task == EMBED:
                found: Any = self._vectors([row.ids for row in ordered], group)
            elif self.vectors is not None:
                kinds = self.vectors.compute([row.ids for row in ordered], group.reading)
                tasks = [VECTOR_TASKS[kind] for kind in self.vectors.kinds]
                found = kinds[tasks.index(group.task)]
            elif group.task == EMBED_ALL:
                found = self._token_vectors([row.ids for row in ordered])
            elif group.task == EXTRACT:
                found = self._spans(ordered, group.labels)
            elif group.task == FILL_MASK:
                found = self._likely_tokens(ordered)
            else:
                outputs, p_values = with_p_values(self.model, self.calibration, **self._padded(ordered))
                found = _numpy(outputs.logits)
                if p_values is not None:
                    found = list(zip(found, _numpy(p_values), strict=True))
        results: list[Any] = [None] * len(rows)
        for index, result in zip(order, found, strict=True):
            results[index] = result
        return results

    def _prompt_tokens(self, prompt: str) -> int:
        """Return the number of tokens of the prompt that pooling skips."""
        if self.recipe.include_prompt or not prompt:
            return 0
        ids = self.tokenizer([prompt], return_attention_mask=False)["input_ids"][0]
        return count_leading_tokens(ids, self.tokenizer)

    def _vectors(self, ids: list[list[int]], group: Group) -> np.ndarray[Any, Any]:
        vectors = self.encoder.encode_batch(ids, self.recipe.pooling, group.skipped)
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        for step in group.after:
            vectors = step(vectors)
        return _numpy(vectors)

    def _token_vectors(self, ids: list[list[int]]) -> Sequence[Any]:
        lengths = [len(text) for text in ids]
        offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=self.device)
        row = torch.tensor(list(itertools.chain.from_iterable(ids)), device=self.device)[None]
        states = self.encoder(input_ids=row, cu_seq_lens_q=offsets, cu_seq_lens_k=offsets).last_hidden_state[0]
        return np.split(_numpy(states), list(itertools.accumulate(lengths))[:-1])

    def _padded(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Return the inputs of models that make one prediction per row. They remove the padding themselves."""
        # Exported models expect all inputs of their graph, and ignore others.
        typed = isinstance(self.model, ExportedHead) or any(row.types is not None for row in rows)
        inputs = [
            {"input_ids": row.ids, **({"token_type_ids": row.types or [0] * len(row.ids)} if typed else {})}
            for row in rows
        ]
        padded = padded_inputs(inputs, self.model.config.pad_token_id)
        return {name: tensor.to(self.device) for name, tensor in padded.items()}

    def extraction_group(self, labels: tuple[str, ...]) -> Group:
        """Return the group of windows, which differ in their labels unless a separate encoder reads these."""
        return Group(self, EXTRACT, labels=labels if self.model.label_encoder is not None else ())

    def _spans(self, rows: list[WindowRow], labels: tuple[str, ...]) -> list[Any]:
        """Return the first and the last word, the label and the probability of the spans in each window."""
        scores = self.model.window_scores([row.window for row in rows], self._label_vectors(labels) if labels else None)
        # A score that is not a number would only be below the threshold.
        return [
            [float("nan")] if each.isnan().any() else row.extraction.in_window(each)
            for row, each in zip(rows, scores, strict=True)
        ]

    def _likely_tokens(self, rows: list[Row]) -> list[Any]:
        inputs = self._padded(rows)
        masked = inputs["input_ids"] == self.tokenizer.mask_token_id
        states = self.encoder(**inputs, needed=masked).last_hidden_state[masked]
        # For all tokens of a batch at once, scores for a large vocabulary would take gigabytes.
        scores = (self.model.decoder(self.model.head(part)).float() for part in states.split(_MASKS))
        likely = [part.softmax(dim=-1).topk(TOP_K, dim=-1) for part in scores]
        indices, values = (torch.cat([part[side] for part in likely]) for side in (1, 0))
        counts = masked.sum(dim=1).tolist()
        places = list(itertools.accumulate(counts))[:-1]
        both = (np.split(indices.cpu().numpy(), places), np.split(_numpy(values), places))
        return list(zip(*both, strict=True))


def _tasks_of(model: Any, vectors: TextVectors | None) -> tuple[str, ...]:
    if vectors is not None:
        tasks = tuple(VECTOR_TASKS[kind] for kind in vectors.kinds)
        return (EMBED, *tasks) if isinstance(model, SequenceEncoderForRetrieval) else tasks
    if isinstance(model, ExportedEncoder):
        return (EMBED,)
    if isinstance(model, SequenceEncoderModel):
        return (EMBED, EMBED_ALL)
    if is_classifier(model):
        return (RERANK, PREDICT) if model.config.num_labels == 1 else (PREDICT,)
    if isinstance(model, SequenceEncoderForMaskedLM):
        # With a recipe, its encoder is also one for embeddings.
        return (FILL_MASK,) if model.model.embedding_recipe is None else (EMBED, EMBED_ALL, FILL_MASK)
    if isinstance(model, ExtractionMixin):
        return (EXTRACT,)
    kind = type(model).__name__
    if isinstance(model, SequenceEncoderPreTrainedModel):
        raise ValueError(
            f"A server cannot use a {kind}; it takes an encoder, or a model for sequence classification, masked "
            f"language modelling or span extraction. {use_of(model)}"
        )
    raise ValueError(f"A server needs a SequenceEncoder, got a {kind}; convert it with `convert`.")


def _numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.float().cpu().numpy()
