"""The outputs that can be explained, for each head, and how the model computes them.

| head | what is explained | the number |
|---|---|---|
| sequence classification, one label | a label | its log-odds |
| sequence classification, several labels | a label | its log-odds, which are its logit |
| sequence classification, one output | the output, such as a rerank score | the output before any activation |
| token classification | an entity | the mean log-odds of the labels of its words |
| question answering | an answer | the log-probability of its start plus that of its end |
| masked language modelling | a token at a mask | its log-odds |
| no head | the similarity of two texts | the cosine of their vectors |

Shapes: B rows, S longest row, C labels, D hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, cast

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ...conversion.converting import convert
from ...modeling import SequenceEncoderPreTrainedModel, TaskAdapter
from ...modeling.text_encoding.text_pooling import pooled
from ...tokenizer.private_copy import private_copy
from ..tasks.columns import label_of
from .words import Request, Row, Target, Word, check_tokenizer, row_of

Inputs = Mapping[str, Any]
# What takes the place of removed words: mask tokens, or nothing.
MASK, LEAVE_OUT = "mask", "leave_out"
REGRESSION = "regression"


def log_odds(logits: torch.Tensor, index: int) -> torch.Tensor:
    """Return log p / (1 - p) for the probability p of one of several classes, (C,) to a scalar."""
    return logits[index] - torch.cat([logits[:index], logits[index + 1 :]]).logsumexp(-1)


def _read_by(poolings: Sequence[str], row: Row) -> list[int]:
    """Return the tokens that poolings read: one that each of them selects, or all."""
    single = {"cls": 0, "lasttoken": len(row.ids) - 1}
    if all(pooling in single for pooling in poolings):
        return [single[pooling] for pooling in poolings]
    return list(range(len(row.ids)))


class Head(ABC):
    """What a model with one kind of head computes for a text, and the numbers to explain.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        max_length: The number of tokens to truncate texts to; by default that of the model.

    Attributes:
        counts: How many texts one explanation may be about.
        in_place: Whether a number belongs to tokens, so that copies of a text must keep their places.
        removal: What takes the place of removed words by default.

    Raises:
        ValueError: If the tokenizer is slow, or does not fit the model.
    """

    counts: ClassVar[tuple[int, ...]] = (1, 2)
    in_place: ClassVar[bool] = False
    removal: ClassVar[str] = MASK

    def __init__(
        self, model: SequenceEncoderPreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> None:
        check_tokenizer(tokenizer)
        self.model: Any = model
        self.tokenizer: Any = private_copy(tokenizer)
        self.encoder = cast(Any, self.model.base_model)
        self.max_length: int | None = self.encoder.longest_text(tokenizer, max_length)

    def request(self, texts: tuple[str, ...]) -> Request:
        """Tokenize a text, or two texts that the model reads together."""
        row, words = row_of(self.tokenizer, texts, self.max_length)
        return Request(texts, [row], words)

    def scaled(self, numbers: torch.Tensor) -> torch.Tensor:
        """Turn numbers into the probabilities in which faithfulness is measured. Others stay as they are."""
        return numbers.sigmoid()

    def pooled_places(self, row: Row) -> list[int]:
        """Return the tokens that the vector of a text is computed from."""
        return _read_by([self.model.config.pooling], row)

    @abstractmethod
    def outputs(self, inputs: Inputs, rows: Sequence[Row]) -> Sequence[torch.Tensor]:
        """Compute what `number` needs to know of each of B rows.

        Args:
            inputs: The padded inputs of the model, (B, S), which drops the padding.
            rows: The rows.
        """

    @abstractmethod
    def targets(self, request: Request, outputs: Sequence[torch.Tensor], wanted: str | None) -> list[Target]:
        """Return the numbers to explain.

        Args:
            request: The texts.
            outputs: The outputs for their rows.
            wanted: What the user wants explained; by default what the model says.

        Raises:
            ValueError: If there is no such label, entity, answer or token.
        """

    @abstractmethod
    def number(self, target: Target, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the number, a scalar, given the outputs for all rows of a copy of the texts."""


class LabelHead(Head):
    """Sequence classification: a label, or a number such as a rerank score. The outputs are logits (C,)."""

    def scaled(self, numbers: torch.Tensor) -> torch.Tensor:
        """See `Head`."""
        return numbers if self.model.config.problem_type == REGRESSION else super().scaled(numbers)

    def outputs(self, inputs: Inputs, rows: Sequence[Row]) -> Sequence[torch.Tensor]:
        """See `Head`."""
        return list(self.model(**inputs, return_dict=True).logits.float())

    def targets(self, request: Request, outputs: Sequence[torch.Tensor], wanted: str | None) -> list[Target]:
        """See `Head`."""
        labels = [str(self.model.config.id2label[index]) for index in range(self.model.config.num_labels)]
        wanted = None if wanted is None else label_of(wanted, labels)
        if wanted is not None and wanted not in labels:
            raise ValueError(f"target must be one of the labels {', '.join(labels)}, got {wanted!r}.")
        index = int(outputs[0].argmax()) if wanted is None else labels.index(wanted)
        alone = len(labels) == 1 or self.model.config.problem_type == REGRESSION
        return [Target(labels[index], "output" if alone else "log-odds", (index,))]

    def number(self, target: Target, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Head`."""
        (index,) = target.indices
        one_of_several = self.model.config.problem_type in (None, "single_label_classification")
        if one_of_several and len(outputs[0]) > 1:
            return log_odds(outputs[0], index)
        return outputs[0][index]


class SimilarityHead(Head):
    """No head: the similarity of two texts, which the model reads alone. The outputs are vectors (D,)."""

    counts = (2,)
    # Two texts of mask tokens are similar.
    removal = LEAVE_OUT

    def __init__(
        self, model: SequenceEncoderPreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> None:
        super().__init__(model, tokenizer, max_length)
        prepared = self.encoder.prepare_encoding(tokenizer, max_length=max_length)
        self.tokenizer, self.recipe = prepared.tokenizer, prepared.recipe
        self.prompt, self.skipped, self.channels = prepared.prompt, prepared.skipped, prepared.kept_channels

    def request(self, texts: tuple[str, ...]) -> Request:
        """See `Head`."""
        rows: list[Row] = []
        words: list[Word] = []
        for source, text in enumerate(texts):
            row, found = row_of(self.tokenizer, [text], self.max_length, len(words), source, self.prompt)
            rows.append(row)
            words += found
        return Request(texts, rows, words)

    def scaled(self, numbers: torch.Tensor) -> torch.Tensor:
        """See `Head`."""
        return numbers

    def pooled_places(self, row: Row) -> list[int]:
        """See `Head`."""
        return _read_by(self.recipe.pooling, row)[self.skipped :]

    def outputs(self, inputs: Inputs, rows: Sequence[Row]) -> Sequence[torch.Tensor]:
        """See `Head`."""
        # In ascending order of length, as `pooled` expects.
        order = sorted(range(len(rows)), key=lambda row: len(rows[row].ids))
        lengths = [len(rows[row].ids) for row in order]
        mask = inputs["attention_mask"][order].bool()
        packed = {
            name: value[order][mask][None] for name, value in inputs.items() if name not in ("attention_mask", "needed")
        }
        offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=mask.device)
        outputs = self.encoder(**packed, cu_seq_lens_q=offsets, cu_seq_lens_k=offsets, return_dict=True)
        vectors = pooled(outputs.last_hidden_state[0], lengths, self.recipe.pooling, self.skipped)
        for step in self.recipe.after:
            vectors = step(vectors)
        return list(vectors[torch.tensor(order).argsort().to(vectors.device), : self.channels].float())

    def targets(self, request: Request, outputs: Sequence[torch.Tensor], wanted: str | None) -> list[Target]:
        """See `Head`."""
        if wanted is not None:
            raise ValueError(f"target must be None for the similarity of two texts, got {wanted!r}.")
        return [Target("similarity", "cosine")]

    def number(self, target: Target, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Head`."""
        return F.cosine_similarity(outputs[0], outputs[1], dim=0)


def without_wrapper(model: Any) -> Any:
    """Return the model in a `PeftModel`, whose layers have the adapter, and the classifier for a `TaskAdapter`.

    Others are returned as they are.

    Raises:
        ValueError: If the adapter is not in the layers, or a `TaskAdapter` cannot be converted.
    """
    if isinstance(model, TaskAdapter):
        return convert(model)
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise ValueError(f"model must not have an adapter that puts tokens before the texts, got {kind}.")
    return model.get_base_model()
