"""The parts of pretraining that depend on the objective: evaluation, logging and the card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import EvalPrediction

from ...data.corpus import texts_of
from ...data.packs import EvaluationWindows
from ..diffusion_trainer import DiffusionTrainer
from ..hub_trainer import HubTrainer
from .diffusion_bound import BoundWindows, bound_metrics
from .objective_arguments import Objectives
from .objective_metrics import compact_logits, objective_means


@dataclass(frozen=True)
class ObjectiveKind:
    """What depends on the objective.

    Attributes:
        windows: Builds the evaluation dataset from windows, their texts (a dataset with a column "text") and a seed.
        trainer: The class of the `Trainer`.
        sums: The `preprocess_logits_for_metrics` of `Trainer`, if its logits are not reduced already.
        metrics: Builds the `compute_metrics` of `Trainer` from the evaluation dataset.
        columns: Returns the logged values that the console shows for training, and for evaluation.
        learned: Returns what the model learns to predict, for the card.
        hyperparameters: Returns the hyperparameters for the card.
        usage: Returns what the card says about the use of the model, in Markdown, given its tokenizer and its largest
            number of tokens.
        limit: What the model must not be used for.
        remarks: What the results on the card mean.
    """

    windows: Callable[[Any, Any, int], Any]
    trainer: type[HubTrainer]
    sums: Callable[[Any, Any], torch.Tensor] | None
    metrics: Callable[[Any], Callable[[EvalPrediction], dict[str, float]] | None]
    columns: Callable[[Objectives], tuple[list[str], list[str]]]
    learned: Callable[[Objectives], str]
    hyperparameters: Callable[[Objectives], Mapping[str, str]]
    usage: Callable[[Any, int], str | None] = lambda tokenizer, max_length: None
    limit: str = "Only pretrained; fine-tune it for a task before use."
    remarks: str | None = None


def _mlm_columns(objectives: Objectives) -> tuple[list[str], list[str]]:
    weights = (("mlm", objectives.mlm_weight), ("sop", objectives.sop_weight))
    names = ["loss", *(f"{name}_accuracy" for name, weight in weights if weight)]
    # Training returns no logits of masked tokens.
    return [name for name in names if name != "mlm_accuracy"], names


def _mlm_learned(objectives: Objectives) -> str:
    weights = (
        ("masked tokens", objectives.mlm_weight),
        ("the order of two segments", objectives.sop_weight),
        ("the tokens of a text from its vector", objectives.bow_weight),
    )
    *others, last = (name for name, weight in weights if weight)
    return f"to predict {', '.join(others)}{' and ' if others else ''}{last}."


def _mlm_hyperparameters(objectives: Objectives) -> dict[str, str]:
    return {
        "share of masked tokens": _share_of_masks(objectives),
        "weights of masked tokens, of order, of bags of words": (
            f"{objectives.mlm_weight:g}, {objectives.sop_weight:g}, {objectives.bow_weight:g}"
        ),
    }


def _share_of_masks(objectives: Objectives) -> str:
    if not objectives.mlm_weight:
        return "none"
    of = "of whole words" if objectives.whole_word_mask else "of tokens"
    if objectives.mlm_schedule == "constant":
        return f"{objectives.mlm_probability:g} {of}"
    return f"{objectives.mlm_probability:g} to {objectives.final_mlm_probability:g} {of}, {objectives.mlm_schedule}"


def _writing_usage(tokenizer: Any, max_length: int) -> str:
    return f"""Continue a text, or fill gaps in it:

```python
ids = tokenizer("The", return_tensors="pt").input_ids
written = model.generate(ids, max_new_tokens={min(32, max_length // 4)}, do_sample=True)
print(tokenizer.decode(written[0], skip_special_tokens=True))
print(model.infill("The {tokenizer.mask_token} of the {tokenizer.mask_token}{{1,4}}.", tokenizer).text)
```"""


def _bound_windows(windows: Any, texts: Any, seed: int) -> BoundWindows:
    batches = texts.select_columns(["text"]).iter(1000)
    return BoundWindows(windows, sum(len(text.encode()) for batch in batches for text in texts_of(batch)), seed)


KINDS = {
    "mlm": ObjectiveKind(
        windows=lambda windows, texts, seed: EvaluationWindows(windows, seed),
        trainer=HubTrainer,
        sums=compact_logits,
        metrics=lambda data: objective_means,
        columns=_mlm_columns,
        learned=_mlm_learned,
        hyperparameters=_mlm_hyperparameters,
    ),
    "diffusion": ObjectiveKind(
        windows=_bound_windows,
        trainer=DiffusionTrainer,
        sums=None,
        metrics=bound_metrics,
        columns=lambda objectives: (["bound"], ["bound", "bits_per_byte"]),
        learned=lambda objectives: (
            "to predict masked tokens at every masking rate (masked diffusion, Sahoo et al., 2024). The model can "
            "therefore write: `generate` and `infill` start from masks and replace them in several steps."
        ),
        hyperparameters=lambda objectives: {
            "share of masked tokens": "uniform from 0 to 1, for each text",
            "weights of masked tokens": "one over their share",
        },
        usage=_writing_usage,
        limit="Only pretrained: it continues and completes texts; fine-tune it for any other task before use.",
        remarks=(
            "`bound` is an upper bound on the negative log-likelihood in nats per token. It counts the tokens of the "
            "text, and one for the end of each window. `bits_per_byte` is the same bound in bits per byte of the texts "
            "in UTF-8. `mlm_accuracy` is the share of masked tokens that the model predicts, over all masking rates, "
            "and `loss_at_rate_0.05` is the mean cross entropy of masked tokens in nats at masking rates from 0 to 0.1."
        ),
    ),
}
