"""Fits the last layer of a model to the vectors of its frozen encoder, which takes seconds.

A head that starts from this fit, instead of from random weights, keeps what the encoder knows while all weights are
trained: linear probing, then fine-tuning (Kumar et al., 2022, arXiv:2202.10054). It is also what training must beat.

Shapes: N examples (texts, or tokens with a label), D hidden, C outputs.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from ...command_line.progress import Progress
from ...modeling.label_checks import IGNORED
from ...saving.whole_folders import write_atomically

Array = npt.NDArray[Any]

# More examples take longer, and hardly make a linear model better.
MOST_EXAMPLES = 20_000
# Strengths of the L2 penalty to choose from, as scikit-learn's C for vectors of unit variance. With fewer examples, a
# choice would only follow the noise, and with a stronger penalty, rare classes would never be predicted.
_STRENGTHS, _DEFAULT_STRENGTH, _LEAST_TO_CHOOSE = (0.01, 0.1, 1.0, 10.0, 100.0), 10.0, 64
# The weakest penalty of a head that is trained with its encoder.
_TO_TRAIN = 1.0
_MOST_FOLDS = 5
# The share of the length of vectors below which they are the same.
_ROUNDING = 1e-3
# The share of `--seconds` in which the examples are encoded that a head is fitted to, and the file with their number.
_SHARE_OF_TIME, _FILE = 0.2, "linear_head.json"


@dataclass(frozen=True)
class LinearHead:
    """The weights of a linear layer.

    Attributes:
        weight: (C, D).
        bias: (C,).
        shift: What to add to the outputs if classes are as frequent as in the labelled examples, (C,) or 0.
    """

    weight: Array
    bias: Array
    shift: Array | float = 0.0

    def __call__(self, vectors: Array) -> Array:
        """Return the outputs (N, C) for vectors (N, D)."""
        return np.asarray(vectors @ self.weight.T + self.bias)


@dataclass(frozen=True)
class KeptHead:
    """The trained head of a checkpoint, which no examples change, beside the vectors of the examples."""

    vectors: Array
    kept: LinearHead

    def head(self, rows: Sequence[int] | Array | None = None, to_train: bool = False) -> LinearHead:
        """Return the head, whatever the examples."""
        return self.kept


class LinearFit:
    """Fits linear heads, with the strength of the penalty that cross-validation finds to be the best.

    Args:
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`.
        vectors: (N, D) the vectors of the examples.
        labels: (N,) classes or numbers; (N, C) zeros and ones for several labels.
        outputs: C, the number of outputs.
        balanced: Whether rare classes get more weight.
        strength: The strength of the penalty, as scikit-learn's C. The default is to choose it.

    Attributes:
        strength: The chosen strength.
    """

    def __init__(
        self,
        problem_type: str,
        vectors: Array,
        labels: Array,
        outputs: int,
        balanced: bool = False,
        strength: float | None = None,
    ) -> None:
        self.kind, self.vectors, self.labels = problem_type, vectors, labels
        self.outputs, self.balanced = outputs, balanced
        self.strength = strength or self._best_strength()

    def head(self, rows: Sequence[int] | Array | None = None, to_train: bool = False) -> LinearHead:
        """Fit a head.

        Args:
            rows: The examples to fit it to, by default all.
            to_train: Whether the encoder will be trained with the head. With a weak penalty, the loss on the examples
                would already be near 0, so that the encoder would learn nothing from them.
        """
        rows = np.arange(len(self.labels)) if rows is None else np.asarray(rows)
        return self._fitted(rows, min(self.strength, _TO_TRAIN) if to_train else self.strength)

    def _best_strength(self) -> float:
        """Return the strength with the smallest loss on held-out examples."""
        from sklearn.model_selection import KFold, StratifiedKFold

        rows = np.arange(len(self.labels))
        # Every fold is fitted to the only example of a class.
        judged, single, classes, most = rows, rows[:0], None, len(rows)
        if self.kind == "single_label_classification":
            _, inverse, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
            judged, single = rows[counts[inverse] > 1], rows[counts[inverse] == 1]
            classes, most = self.labels[judged], int(min(counts[counts > 1], default=0))
        if len(judged) < _LEAST_TO_CHOOSE or len(np.unique(self.labels, axis=0)) < 2:
            return _DEFAULT_STRENGTH
        splitter = (KFold if classes is None else StratifiedKFold)(min(_MOST_FOLDS, most), shuffle=True, random_state=0)
        folds = [
            (np.concatenate([judged[fitted], single]), judged[held_out])
            for fitted, held_out in splitter.split(judged, classes)
        ]
        best, lowest = _STRENGTHS[0], np.inf
        # The weaker the penalty, the longer a fit takes. Once the loss rises, weaker ones only overfit more.
        for strength in _STRENGTHS:
            loss = 0.0
            for fitted, held_out in folds:
                found = self._fitted(fitted, strength)(self.vectors[held_out])
                loss += loss_of(self.kind, found, self.labels[held_out]) * len(held_out)
            if loss > lowest:
                break
            if loss < lowest:
                best, lowest = strength, loss
        return best

    def _fitted(self, rows: Array, strength: float) -> LinearHead:
        from sklearn.linear_model import LogisticRegression, Ridge

        vectors, labels = self.vectors[rows], self.labels[rows]
        centre = vectors.mean(0)
        # Differences of rounding, as between equal texts, must not look like differences.
        scale = max(_spread(vectors - centre), _ROUNDING * _spread(vectors)) or 1.0
        scaled = (vectors - centre) / scale
        if self.kind == "regression":
            model: Any = Ridge(alpha=1 / strength).fit(scaled, labels)
            weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
        else:
            # A class that no example has gets a small probability, and what all examples have a large one.
            weight, bias = np.zeros((self.outputs, vectors.shape[1])), np.full(self.outputs, -np.log(len(rows) + 1.0))
            logistic = LogisticRegression(C=strength, class_weight="balanced" if self.balanced else None, max_iter=1000)
            with warnings.catch_warnings():
                # A fit that has not converged is good enough to start from.
                warnings.simplefilter("ignore")
                if self.kind == "multi_label_classification":
                    bias[labels.min(0) > 0] *= -1
                    for output in np.flatnonzero(labels.min(0) != labels.max(0)):
                        model = logistic.fit(scaled, labels[:, output])
                        weight[output], bias[output] = model.coef_[0], model.intercept_[0]
                elif len(present := np.unique(labels)) > 1:
                    model = logistic.fit(scaled, labels)
                    if len(present) == 2:
                        # scikit-learn fits the difference of the two.
                        weight[present] = np.stack([-model.coef_[0], model.coef_[0]]) / 2
                        bias[present] = np.stack([-model.intercept_[0], model.intercept_[0]]) / 2
                    else:
                        weight[present], bias[present] = model.coef_, model.intercept_
                else:
                    bias[present] = 0
        weight = weight / scale
        return LinearHead(weight.astype(np.float32), (bias - weight @ centre).astype(np.float32))


def _spread(vectors: Array) -> float:
    return float(np.sqrt((vectors**2).sum(1).mean()))


def loss_of(problem_type: str, outputs: Array, labels: Array) -> float:
    """Return the mean loss of outputs (N, C): the cross entropy, or for regression the squared error."""
    if problem_type == "regression":
        return float(np.mean((outputs.reshape(labels.shape) - labels) ** 2))
    logits = outputs.astype(np.float64)
    if problem_type == "multi_label_classification":
        return float(np.mean(np.logaddexp(0, logits) - labels * logits))
    return float(np.mean(np.logaddexp.reduce(logits, 1) - logits[np.arange(len(labels)), labels]))


@torch.no_grad()
def frozen_vectors(model: Any, inputs: Any, collator: Callable[..., Any], args: Any) -> tuple[Array, Array]:
    """Run a model without dropout, and collect the inputs of its `classifier`.

    Returns:
        The vectors (N, D), and their labels. Tokens without a label are left out.
    """
    found: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda layer, given: found.append(given[0]))
    vectors, labels = [], []
    model.to(args.device).eval()
    # `Trainer` drops columns that the model does not take, too.
    taken = {*inspect.signature(model.forward).parameters, "labels"}
    inputs = inputs.remove_columns([name for name in inputs.column_names if name not in taken])
    # Texts of similar lengths need less padding.
    order = np.argsort([len(ids) for ids in inputs["input_ids"]], kind="stable")
    loader: Any = DataLoader(inputs.select(order), batch_size=args.per_device_eval_batch_size, collate_fn=collator)
    show = not args.disable_tqdm and args.process_index == 0
    try:
        with Progress("Encoding", len(inputs), "text", show=show) as progress:
            for batch in loader:
                known = batch.pop("labels")
                with torch.autocast(args.device.type, torch.bfloat16, enabled=bool(args.bf16)):
                    model(**{name: tensor.to(args.device) for name, tensor in batch.items()})
                given = found.pop().float().cpu()
                if given.dim() == 3:
                    kept = known != IGNORED
                    given, known = given[kept], known[kept]
                vectors.append(given.numpy())
                labels.append(known.numpy())
                progress.update(len(batch["input_ids"]))
    finally:
        hook.remove()
    stacked, known = np.concatenate(vectors), np.concatenate(labels)
    if len(stacked) != len(inputs):
        return stacked, known  # of tokens
    back = np.argsort(order)
    return stacked[back], known[back]


def examples_within(run: Any, model: Any, inputs: Any, collator: Any) -> int:
    """Return how many examples a model encodes in the part of `--seconds` that is for fitting a linear head.

    A resumed run keeps the number, because the training of every seed starts from the same head. The other processes
    read it, since they wait until the first one has prepared the examples.
    """
    file, args = run.scratch / _FILE, copy.deepcopy(run.args)
    if file.exists():
        return int(json.loads(file.read_text(encoding="utf-8")))
    args.disable_tqdm = True
    order, size = np.random.default_rng(0).permutation(len(inputs)), args.per_device_eval_batch_size
    # The first batch is slower.
    for sample in (order[:size], order[:size]):
        started = time.perf_counter()
        frozen_vectors(model, inputs.select(sample), collator, args)
        seconds_of_one = (time.perf_counter() - started) / len(sample)
    count = max(len(sample), math.floor(_SHARE_OF_TIME * cast(float, args.seconds) / seconds_of_one))
    if args.should_save:
        write_atomically(file, [json.dumps(count)])
    return count
