"""Computes the labels and scores of texts, or of pairs of texts.

Shapes: N rows of a chunk, G of them with a text, P inputs of a text, S longest text of a batch, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from ...command_line.progress import Progress
from ...data.batching import longest_first
from ...data.padded_inputs import padded_inputs
from ...modeling import SequenceEncoderForSequenceClassification
from ...modeling.calibration.calibration import calibration_of
from ...modeling.calibration.outputs import check_refusal, labels_in_sets, with_p_values
from ...modeling.text_encoding.embedding_recipe import ACTIVATIONS
from ...tokenizer.private_copy import private_copy
from ..runtimes.exported_graph import ExportedHead
from .arguments import ModelArguments, PredictionArguments
from .results import Tokens, count_truncated
from .rows import Chunk

REGRESSION, MULTI_LABEL = "regression", "multi_label_classification"


class Predictions:
    """The labels and scores of texts, with the options of `predict`.

    Args:
        classifier: The model, which may be exported.
        tokenizer: Its tokenizer.
        model: How to read texts.
        options: What to predict.

    Raises:
        ValueError: If an option does not fit the model.
    """

    def __init__(
        self,
        classifier: SequenceEncoderForSequenceClassification | ExportedHead,
        tokenizer: PreTrainedTokenizerBase,
        model: ModelArguments,
        options: PredictionArguments,
    ) -> None:
        self.classifier, self.tokenizer = classifier, private_copy(tokenizer)
        self.device_type = classifier.device.type
        encoder: Any = classifier.base_model
        self.max_length: int | None = encoder.longest_text(tokenizer, model.max_length)
        self.max_tokens, self.all_scores = model.max_tokens, options.scores
        config: Any = classifier.config
        self.labels = [str(config.id2label[index]) for index in range(config.num_labels)]
        self.activation, self._score = _activation(config, config.num_labels)
        self.calibration = calibration_of(classifier)
        self.coverage, self.abstain_below = options.coverage, options.abstain_below
        check_refusal(self.calibration, self.coverage, self.abstain_below)
        self._has_sets = self.calibration is not None and self.calibration.sets is not None
        self._has_p_values = self.calibration is not None and self.calibration.unfamiliarity is not None

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        fields = [pa.field("label", pa.string()), pa.field("score", pa.float32())]
        if self._has_sets:
            fields.append(pa.field("labels", pa.list_(pa.string())))
        if self._has_p_values:
            fields.append(pa.field("unfamiliarity", pa.float32()))
        return [*fields, pa.field("scores", pa.list_(pa.float32(), len(self.labels)))] if self.all_scores else fields

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `Computation.facts`."""
        dtype = str(self.classifier.dtype).removeprefix("torch.")
        facts = {"dtype": dtype, "labels": self.labels, "score": self._score, "max_length": self.max_length}
        given = {"coverage": self.coverage, "abstain_below": self.abstain_below}
        return facts | {name: value for name, value in given.items() if value is not None}

    def tokenize(self, texts: list[list[str]]) -> Tokens:
        """See `Computation.tokenize`."""
        encoded = self.tokenizer(
            *texts, truncation=self.max_length is not None, max_length=self.max_length, return_attention_mask=False
        )
        truncated = count_truncated(encoded, self.tokenizer, self.max_length, texts)
        return Tokens({name: encoded[name] for name in encoded}, truncated)

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        logits, p_values = self.outputs(tokens, progress)
        if not logits.isfinite().all():
            row = chunk.name(int(logits.isfinite().all(dim=1).int().argmin()))
            raise ValueError(f"The scores of {row} are not finite.")
        found = self.activation(logits).cpu().numpy()
        scores = np.zeros((len(chunk.good), len(self.labels)), np.float32)
        scores[chunk.good] = found
        # A text without tokens has no prediction.
        missing = ~chunk.good
        missing[chunk.good] = [not ids for ids in tokens.ids[:: tokens.per_row]]
        best = scores.argmax(axis=1)
        mask = pa.array(missing)
        unfamiliar = np.ones(len(scores), np.float32)
        unfamiliar[chunk.good] = p_values.cpu().numpy()
        refused = unfamiliar < (self.abstain_below or 0)
        columns = [
            pa.array(np.array(self.labels, dtype=object)[best], pa.string(), mask=missing | refused),
            pa.array(scores[np.arange(len(scores)), best], mask=missing | refused),
        ]
        if self.calibration is not None and self._has_sets:
            sets = labels_in_sets(
                self.calibration, torch.from_numpy(scores), self.labels, self.coverage, torch.from_numpy(refused)
            )
            columns.append(pa.array(sets, pa.list_(pa.string()), mask=missing))
        if self._has_p_values:
            columns.append(pa.array(unfamiliar, mask=missing))
        if self.all_scores:
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), scores.shape[1], mask=mask))
        return columns

    def scores(self, texts: list[list[str]]) -> np.ndarray:
        """Return the scores (G, C) of the columns of texts."""
        with Progress("", show=False) as silent:
            return self.activation(self.outputs(self.tokenize(texts), silent)[0]).cpu().numpy()

    def outputs(self, tokens: Tokens, progress: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of the labels (G, C) in float32, zero for a text without tokens, and the p-values (G,).

        The p-values of a model that has none are 1.
        """
        return self._computed(tokens, len(self.labels), progress)

    @torch.no_grad()
    def _computed(self, tokens: Tokens, outputs: int, progress: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (G * P, outputs) and the p-values (G * P,) of all inputs."""
        lengths = [len(ids) for ids in tokens.ids]
        device, per_row = self.classifier.device, tokens.per_row
        logits = torch.zeros(len(lengths), outputs, device=device)
        p_values = torch.ones(len(lengths), device=device)
        totals = [sum(lengths[first : first + per_row]) for first in range(0, len(lengths), per_row)]
        # The progress counts texts, and the inputs of one can exceed a batch.
        for texts in longest_first(totals, self.max_tokens, progress):
            rows = [text * per_row + number for text in texts for number in range(per_row)]
            for part in longest_first([lengths[row] for row in rows], self.max_tokens):
                batch = [rows[index] for index in part]
                given = [{name: lists[row] for name, lists in tokens.inputs.items()} for row in batch]
                # The model drops the padding.
                padded = padded_inputs(given, self.classifier.config.pad_token_id)
                inputs = {name: tensor.to(device) for name, tensor in padded.items()}
                found, values = with_p_values(self.classifier, self.calibration, **inputs)
                # A graph that compares texts with labels has more columns than there are labels.
                logits[batch] = found.logits[:, :outputs].float()
                if values is not None:
                    p_values[batch] = values
        return logits, p_values


def stated_activation(config: Any) -> str | None:
    """Return the activation that the configuration of a cross-encoder states, and those of other models do not."""
    stated = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
    return stated or getattr(config, "sbert_ce_default_activation_function", None)


def _activation(config: Any, labels: int) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """Return the function that makes scores of logits, and its name.

    A cross-encoder states it in its folder, as sentence-transformers saves it. All others have the one of transformers'
    pipeline for text classification.
    """
    stated = stated_activation(config)
    if stated in ACTIVATIONS:
        return ACTIVATIONS[stated](), stated.rpartition(".")[2].lower()
    if config.problem_type == REGRESSION:
        return torch.nn.Identity(), "identity"
    if config.problem_type == MULTI_LABEL or labels == 1:
        return torch.nn.Sigmoid(), "sigmoid"
    return torch.nn.Softmax(dim=-1), "softmax"
