"""Cross-validates a training, so that the final model can learn from all examples.

A validation split of a few examples says little, and is lost for the training.

Shapes: N examples, C outputs.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from ....command_line.console import show_table
from ....command_line.counts import counted
from ....evaluation.calibration.scaling import fit_temperature, multi_label_loss, single_label_loss
from ....saving.whole_folders import write_atomically
from ...checkpoints import train_with_cleanup
from ..linear_head import loss_of
from ..plan import MANY_EXAMPLES
from ..report import Results
from ..run import Adaptation

Array = npt.NDArray[Any]

# Fewer examples cannot tell two ways of training apart, so that no models are trained on folds of them. Fine-tuning was
# better in all trials of `benchmarks/few_labels.py`.
LEAST_TO_CHOOSE = 48
# Held-out examples that are enough, and up to how many examples there are three folds.
_ENOUGH, _THREE_FOLDS = 200, 600
# The share of the loss of a constant answer that is no reason for a choice.
_NO_DIFFERENCE = 0.01


@dataclass(frozen=True)
class OutOfFold:
    """The outputs for held-out examples.

    Attributes:
        tuned: (N, C) those of fine-tuned models, or None if there are too few examples.
        linear: (N, C) those of the linear models that they started from.
        shift: What to add to these if classes are as frequent as in the examples, (N, C) or 0.
    """

    tuned: Array | None
    linear: Array
    shift: Array | float = 0.0

    def of(self, tuning: str) -> Array:
        """Return the outputs of the models of a tuning, "linear" or another one, as far as they are known."""
        return self.linear if tuning == "linear" or self.tuned is None else self.tuned


def is_cross_validated(run: Adaptation, examples: dict[str, Any]) -> bool:
    """Return whether a run judges models by cross-validation rather than on a validation split."""
    args = run.args
    asked = args.search_trials or args.early_stopping_patience or args.average_seeds or run.data.validation_share
    few = len(examples["train"]) < MANY_EXAMPLES
    # Without labels, the folds would only judge how well they repeat what the names found.
    can_judge = "validation" not in examples and not run.data.lacks_labels
    return run.model.tuning == "auto" and few and can_judge and not asked


def folds_of(strata: Sequence[Any] | Array | None, texts: Array, seed: int, folds: int | None = None) -> list[Array]:
    """Return the indices of the held-out examples of each fold. A single fold is only a part of the examples.

    Args:
        strata: The class of each example, which folds have in equal shares, or None.
        texts: The number of the text of each example. Examples with equal texts are in the same fold.
        seed: The seed of the random split.
        folds: The number of folds. By default, it depends on the number of examples.
    """
    first = np.unique(texts, return_index=True)[1]
    if len(first) < 2:
        texts = first = np.arange(len(texts))
    order, count = np.random.default_rng(seed).permutation(len(texts)), len(first)
    order = order[np.isin(order, first)]
    if strata is not None:
        # Examples of a class follow each other, so that every k-th example is in the same fold.
        order = order[np.argsort(np.unique(strata, return_inverse=True)[1][order], kind="stable")]
    if folds is None and count > _THREE_FOLDS:
        step = count / max(_ENOUGH, count // 5)
        parts = [order[np.arange(0, count, step).astype(int)]]
    else:
        folds = min(count, folds or (4 if count < LEAST_TO_CHOOSE else 3))
        parts = [order[start::folds] for start in range(folds)]
    return [np.flatnonzero(np.isin(texts, texts[part])) for part in parts]


def out_of_fold(run: Adaptation, setup: Any, args: Any, tuning: str) -> OutOfFold:
    """Train a model for each fold on the other examples, and return the outputs for the held-out ones.

    No models are trained if there are too few examples, or only the linear models are needed. The scratch folder keeps
    the outputs of finished folds. `tuning` says whose outputs are needed; with `auto`, they are those of both.
    """
    tuned, linear, shift = [], [], []
    for index, held_out in enumerate(setup.folds):
        rest = np.setdiff1d(np.arange(len(setup.rows["train"])), held_out)
        head = setup.linear.head(rest)
        linear.append(head(setup.linear.vectors[held_out]))
        shift.append(np.broadcast_to(head.shift, linear[-1].shape))
        if tuning == "linear" or len(setup.rows["train"]) < LEAST_TO_CHOOSE:
            continue
        file = run.scratch / "folds" / f"{args.seed}-{index}.json"
        if file.exists():
            tuned.append(np.array(json.loads(file.read_text("utf-8")), dtype=np.float32))
            continue
        if args.process_index == 0:
            print(f"Fold {index + 1} of {len(setup.folds)}: {counted(len(rest), 'example')}")
        trainer = setup.trainer(silent(args, file.parent), rows=rest)
        # The metrics are those of all folds together.
        trainer.compute_metrics = None
        show_table(trainer, ("loss",))
        train_with_cleanup(trainer, None)
        tuned.append(trainer.predict(setup.inputs["train"].select(held_out)).predictions)
        if args.should_save:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, [json.dumps(tuned[-1].tolist())])
    return OutOfFold(np.concatenate(tuned) if tuned else None, np.concatenate(linear), np.concatenate(shift))


def fits_only_head(setup: Any, results: Results) -> bool:
    """Return whether no weights of the encoder are trained, not even to compare them with a linear head."""
    few = bool(setup.folds) and len(setup.rows["train"]) < LEAST_TO_CHOOSE
    return results.tuning == "linear" or (few and bool(results.unlabelled.get("used")))


def without_evaluation(args: Any) -> Any:
    """Return the arguments of a training without evaluations, which keeps its last weights."""
    args = copy.deepcopy(args)
    args.eval_strategy, args.keep_best = IntervalStrategy.NO, False
    return args


def silent(args: Any, folder: Path) -> Any:
    """Return the arguments of a training that shows its progress, and writes nothing."""
    args = without_evaluation(args)
    args.output_dir, args.save_strategy, args.logging_strategy = str(folder), SaveStrategy.NO, IntervalStrategy.NO
    return args


def prefers_linear(problem_type: str, found: OutOfFold, labels: Array, unlabelled: bool = False) -> tuple[bool, str]:
    """Return whether the linear model is better than the fine-tuned one, and a sentence with the losses.

    Logits are compared at their best temperatures, because fine-tuned models are overconfident, which calibration
    corrects. Fine-tuning gets the benefit of the doubt, by the standard error: it gains more from the examples that the
    folds held out. `unlabelled` says that the linear model also learned from unlabelled texts.
    """
    if found.tuned is None:
        kept = (
            "only the head is trained, on these and the unlabelled texts" if unlabelled else "all weights are trained"
        )
        return unlabelled, (
            f"{counted(len(labels), 'example')} are too few for a comparison, so {kept}. The metrics of the "
            "validation examples are those of a linear head on the frozen encoder."
        )
    losses = [tempered_losses(problem_type, outputs, labels) for outputs in (found.tuned, found.linear + found.shift)]
    worse = losses[0] - losses[1]
    error = float(worse.std() / np.sqrt(len(worse)))
    tuned, simple = (float(each.mean()) for each in losses)
    unlearned = loss_of(problem_type, np.zeros_like(found.linear) + labels.mean(0), labels)
    linear = bool(tuned - simple > max(error, _NO_DIFFERENCE * unlearned))
    kept = "only the linear head is kept" if linear else "all weights are trained"
    return linear, (
        f"Loss on {counted(len(labels), 'held-out example')}: {tuned:.3f} with all weights trained, {simple:.3f} with "
        f"a linear head on the frozen encoder; {kept}."
    )


def tempered_losses(problem_type: str, outputs: Array, labels: Array) -> Array:
    """Return the loss of each example (N,) at the best temperature of all."""
    if problem_type == "regression":
        return np.asarray((outputs.reshape(labels.shape) - labels) ** 2)
    several = problem_type == "multi_label_classification"
    loss = multi_label_loss if several else single_label_loss
    logits, targets = torch.from_numpy(outputs).double(), torch.from_numpy(labels)
    targets = targets.double() if several else targets.long()
    return np.asarray(loss(fit_temperature(logits, targets, loss)(logits), targets))
