"""The base class of tasks that teach an encoder to write, by masked diffusion (LLaDA, Nie et al., 2025).

What is written may be shorter than the masks that a model is given. The positions that are left over have the label
[PAD], so the model also learns where a text ends.

Shapes: N examples, B examples of a batch, L tokens of an example.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ....command_line import UsageError
from ....evaluation.tasks.task import HeadTask, Metrics
from ...diffusion_masking import antithetic_rates, mask_at_rate, mask_share

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase

    from ....evaluation.tasks.example_arguments import ExampleArguments

# The number of times that each example is evaluated, with as many shares of masks.
_EVALUATIONS = 4
# The seed of the masks of evaluations, which are the same for all seeds of the training.
_EVALUATION_SEED = 0


class WritingTask(HeadTask):
    """A task whose model writes texts in the place of masks.

    `encode` returns `input_ids`; `labels`, the same ids at the tokens to write and -100 elsewhere; and `row`, the
    number of the example's row.

    Args:
        data: The source of the examples, and the names of their columns.
        max_length: The number of tokens that examples are truncated to. Set it before examples are encoded.
        block: The largest number of masks at one place: in a gap, or after a prompt.

    Attributes:
        block_argument: The argument that sets `block`.
        mask_id: The id of the mask token, set by `use`.
        pad_id: The id of the padding token.
        start_id: The id of the token at the start of a text, or None.
        end_id: The id of the token at the end of a text.
        unknown_id: The id of the token for unknown text, which the model does not write, or None.
    """

    auto_class = "AutoModelForMaskedLM"
    peft_task: ClassVar[str | None] = None
    best_metric: ClassVar[str | None] = "nats_per_token"
    metric_names: ClassVar[tuple[str, ...]] = ("nats_per_token", "perplexity", "accuracy")
    tunings: ClassVar[tuple[str, ...]] = ("full", "lora", "dora", "ia3")
    block_argument: ClassVar[str]

    def __init__(self, data: ExampleArguments, max_length: int = 0, block: int = 16) -> None:
        super().__init__(data, max_length)
        self.block = block

    def use(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the special tokens of a tokenizer, and check that `max_length` has room for the masks.

        Raises:
            UsageError: If the tokenizer lacks a token, or the masks do not fit.
        """
        end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        starts = (tokenizer.cls_token_id, tokenizer.bos_token_id)
        self.unknown_id: int | None = tokenizer.unk_token_id
        self.start_id = next((int(token) for token in starts if token is not None), None)
        named = {"a mask token": tokenizer.mask_token_id, "a padding token": tokenizer.pad_token_id}
        named["a separator or end-of-text token"] = end
        lacks = [name for name, token in named.items() if token is None]
        if lacks or len(set(named.values())) < len(named):
            problem = f"lacks {' and '.join(lacks)}" if lacks else "uses one token for two of these"
            raise UsageError(
                f"this task needs a tokenizer with {', '.join(named)}, all different; the model's tokenizer {problem}."
            )
        self.mask_id, self.pad_id, self.end_id = (int(token) for token in named.values())
        room = (self.max_length - tokenizer.num_special_tokens_to_add()) // 2
        if self.block > room:
            raise UsageError(
                f"--{self.block_argument} must be at most {room}, half of the tokens of a text with --max_length "
                f"{self.max_length}, got {self.block}."
            )

    @abstractmethod
    def draw(
        self, ids: np.ndarray, written: np.ndarray, rng: np.random.Generator, evaluating: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose the tokens that are written, and add positions that are left over.

        Args:
            ids: (L,) token ids of an example.
            written: (L,) bool, the tokens that may be written.
            rng: The source of randomness.
            evaluating: Whether the example is for an evaluation.

        Returns:
            (L',) token ids, [PAD] where nothing is left to write, and (L',) bool, the tokens that are written.
        """

    @abstractmethod
    def usage(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return what the model's card says about its use, in Markdown."""

    def training_rows(self, batch: Mapping[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
        """Draw and mask B examples for training, each at its own rate."""
        rates = antithetic_rates(len(batch["input_ids"]), rng)
        return [
            self._row(ids, labels, rng, mask_at_rate, rate, False)
            for ids, labels, rate in zip(batch["input_ids"], batch["labels"], rates, strict=True)
        ]

    def evaluation_rows(self, inputs: Any) -> Any:
        """Return a `datasets.Dataset` with fixed masks: each example several times, with evenly spaced shares."""
        from datasets import Dataset

        rng = np.random.default_rng(_EVALUATION_SEED)
        found = []
        for example, offset in zip(inputs, antithetic_rates(len(inputs), rng), strict=True):
            for time in range(_EVALUATIONS):
                share = (time + offset) / _EVALUATIONS
                row = self._row(example["input_ids"], example["labels"], rng, mask_share, share, True)
                found.append({**row, "row": example["row"]})
        return Dataset.from_dict({name: [row[name] for row in found] for name in found[0]})

    def _row(self, ids: Any, labels: Any, rng: Any, mask: Any, rate: float, evaluating: bool) -> dict[str, Any]:
        from ....modeling.label_checks import IGNORED

        ids, written = self.draw(np.asarray(ids), np.asarray(labels) != IGNORED, rng, evaluating)
        masked, weights = mask(ids, written, rate, self.mask_id, rng)
        return {"input_ids": masked, "labels": np.where(written, ids, IGNORED), "label_weights": weights}

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`. It pads the columns of `training_rows`, and adds an attention mask."""

        def pad(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
            import torch
            from torch.nn.utils.rnn import pad_sequence

            from ....modeling.label_checks import IGNORED

            # [PAD] that the model has to write is a token like others, so the ids do not tell what padding is.
            fills = {"input_ids": self.pad_id, "labels": IGNORED, "label_weights": 0.0, "attention_mask": 0}
            rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
            return {
                name: pad_sequence([torch.as_tensor(row[name]) for row in rows], batch_first=True, padding_value=fill)
                for name, fill in fills.items()
            }

        return pad

    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Return a function that computes the metrics from the sums of `SUMS` and the numbers of tokens.

        `nats_per_token` and `perplexity` are upper bounds for the tokens to write. They include what it costs to decide
        where a text ends, but positions that are left over do not count as tokens, because their number is arbitrary.
        `accuracy` is the share of masked tokens that the model predicts, over all shares of masks.
        """
        return writing_metrics

    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """See `HeadTask`. The answer is the bound of the row in nats per token."""
        nats, counts = np.zeros(len(rows)), np.zeros(len(rows))
        np.add.at(nats, np.asarray(inputs["row"]), np.asarray(found.predictions, np.float64)[:, 0])
        np.add.at(counts, np.asarray(inputs["row"]), np.asarray(found.label_ids, np.float64))
        return [round(each, 4) for each in (nats / counts).tolist()]


def writing_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the metrics of `WritingTask` from the results of `masked_sums` for N examples, (N, 4) and (N,)."""
    nats, _, right, masked = np.asarray(prediction.predictions, np.float64).sum(0)
    bound = float(nats / np.sum(prediction.label_ids))
    # The perplexity of an untrained model may be too large for a float.
    return {"nats_per_token": bound, "perplexity": math.exp(min(bound, 700)), "accuracy": float(right / max(masked, 1))}
