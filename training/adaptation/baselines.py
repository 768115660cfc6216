"""What a trained model is compared with: itself before training, a constant answer, and a linear model of TF-IDF.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from ...tasks import HeadTask

# More examples and more words take longer, and hardly make a linear model better.
_MOST_EXAMPLES, _MOST_WORDS = 20_000, 50_000
# Vectors of length 1 need less regularisation than scikit-learn's default.
_INVERSE_REGULARISATION = 10.0


class Baseline(NamedTuple):
    """How the console names a baseline, and what it says if a model is not better.

    Attributes:
        head: Its name in the table's header.
        in_words: Its name in a sentence.
        advice: What a model that is not better means, or what to do then. `{or_full}` stands for another tuning method.
        may_be_equal: Whether a model that is just as good gets no warning.
    """

    head: str
    in_words: str
    advice: str = "the training has not helped."
    may_be_equal: bool = False


BASELINES = {
    "before_training": Baseline("before training", "before training"),
    "constant_answer": Baseline("constant answer", "for always giving the same answer"),
    "linear_tfidf": Baseline(
        "TF-IDF, linear",
        "for a linear model of TF-IDF, which is much cheaper",
        "train for more epochs{or_full} or from another encoder, or use the linear model.",
        may_be_equal=True,
    ),
}


def simple_baselines(
    task: HeadTask, rows: Mapping[str, Any], inputs: Mapping[str, Any], balanced: bool, says: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Compute the metrics of the baselines that need no encoder, for the splits on which models are evaluated.

    Args:
        task: The task.
        rows: The examples of each split.
        inputs: The encoded examples of each split.
        balanced: Whether rare classes get more weight.
        says: Whether to print that a baseline learns from some of the examples only.

    Returns:
        The metrics of each split, for each baseline that the task has.
    """
    splits = [split for split in ("validation", "test") if split in rows]
    outputs: dict[str, dict[str, EvalPrediction | None]] = {
        "constant_answer": {split: task.constant(inputs["train"], inputs[split]) for split in splits},
        "linear_tfidf": _linear_tfidf(task, rows, inputs, splits, balanced),
    }
    if says and outputs["linear_tfidf"] and (examples := len(rows["train"])) > _MOST_EXAMPLES:
        print(f"The linear model of TF-IDF, a baseline, learns from {_MOST_EXAMPLES:,} of {examples:,} examples.")
    return {
        name: {split: task.metrics(rows[split], inputs[split])(found) for split, found in by_split.items() if found}
        for name, by_split in outputs.items()
        if any(by_split.values())
    }


def _linear_tfidf(
    task: Any, rows: Mapping[str, Any], inputs: Mapping[str, Any], splits: list[str], balanced: bool
) -> dict[str, EvalPrediction | None]:
    """Return the outputs of a logistic or ridge regression on the TF-IDF of words and pairs of words.

    It learns from at most `_MOST_EXAMPLES` random examples. Only tasks that classify texts or predict numbers have this
    baseline, and only if their texts contain words.
    """
    kind = getattr(task, "problem_type", None)
    if kind is None:
        return {}
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from transformers import EvalPrediction

    known = {split: np.asarray(list(inputs[split]["labels"])) for split in ("train", *splits)}
    kept = np.random.default_rng(0).permutation(len(known["train"]))[:_MOST_EXAMPLES]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=_MOST_WORDS)
    model = LogisticRegression(C=_INVERSE_REGULARISATION, class_weight="balanced" if balanced else None, max_iter=300)
    model = {"regression": Ridge(), "multi_label_classification": OneVsRestClassifier(model)}.get(kind, model)
    with warnings.catch_warnings():
        # A model that has not converged, or a label that all or no examples have, is good enough to compare with.
        warnings.simplefilter("ignore")
        try:
            model.fit(vectorizer.fit_transform(_texts(task, rows["train"].select(kept))), known["train"][kept])
        except ValueError:  # no words, or only one label
            return {}
        found: dict[str, EvalPrediction | None] = {}
        for split in splits:
            vectors = vectorizer.transform(_texts(task, rows[split]))
            if kind == "regression":
                logits = model.predict(vectors)[:, None]
            else:
                # (N, C), also where some classes do not occur. A label is given from a probability of 0.5.
                logits = np.full((len(known[split]), len(task.labels)), -1.0)
                places = model.classes_ if kind == "single_label_classification" else slice(None)
                logits[:, places] = model.predict_proba(vectors) - 0.5
            found[split] = EvalPrediction(logits, known[split])
    return found


def _texts(task: Any, rows: Any) -> list[str]:
    """Return the text of each example, with the texts of a pair one after the other."""
    return [" ".join(parts) for parts in zip(*(rows[column] for column in task.texts), strict=True)]
