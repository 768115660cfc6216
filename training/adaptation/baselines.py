"""The baselines of a trained model: itself before training, a constant answer, and a linear TF-IDF model.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from transformers import EvalPrediction


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
    advice: str = (
        "the training has not helped. Try another --learning_rate, more epochs or more examples, or use the model "
        "as it was."
    )
    may_be_equal: bool = False


BASELINES = {
    "linear_head": Baseline(
        "frozen, linear",
        "for a linear head on the frozen encoder",
        may_be_equal=True,
    ),
    "before_training": Baseline("before training", "before training"),
    "constant_answer": Baseline(
        "constant answer", "for always giving the same answer", "the model has not learned the task."
    ),
    "known_mentions": Baseline(
        "known mentions",
        "for finding the words of the training entities again",
        "the model has not learned to find other entities; train for more epochs, or on more examples.",
        may_be_equal=True,
    ),
    "linear_tfidf": Baseline(
        "TF-IDF, linear",
        "for a linear model of TF-IDF, which is much cheaper",
        "train for more epochs{or_full} or from another encoder, or use the linear model.",
        may_be_equal=True,
    ),
}


def simple_baselines(setup: Any) -> dict[str, dict[str, dict[str, float]]]:
    """Compute the metrics of each split for the baselines that need no encoder, as far as the task has them."""
    task, rows, inputs = setup.task, setup.rows, setup.inputs
    splits = [split for split in ("validation", "test") if split in rows]
    outputs: dict[str, dict[str, EvalPrediction | None]] = {
        "constant_answer": {split: task.constant(inputs["train"], inputs[split]) for split in splits},
        "linear_tfidf": _linear_tfidf(setup, splits),
    }
    examples = len(rows["train"])
    if setup.run.args.process_index == 0 and outputs["linear_tfidf"] and examples > _MOST_EXAMPLES:
        print(f"The linear model of TF-IDF, a baseline, learns from {_MOST_EXAMPLES:,} of {examples:,} examples.")
    return {
        name: {split: task.metrics(rows[split], inputs[split])(found) for split, found in by_split.items() if found}
        for name, by_split in outputs.items()
        if any(by_split.values())
    }


def _linear_tfidf(setup: Any, splits: list[str]) -> dict[str, EvalPrediction | None]:
    """Return the outputs of linear models for each split; see `tfidf_outputs`.

    Only tasks that classify texts or predict numbers have this baseline, and only if their texts contain words. It
    learns from at most `_MOST_EXAMPLES` random examples.
    """
    task, balanced = setup.task, setup.run.args.class_weights != "none"
    if getattr(task, "problem_type", None) is None:
        return {}
    from transformers import EvalPrediction

    texts = {split: np.array(texts_of(task, setup.rows[split]), dtype=object) for split in ("train", *splits)}
    labels = {split: np.asarray(list(setup.inputs[split]["labels"])) for split in ("train", *splits)}
    every = np.arange(len(texts["train"]))
    kept = np.random.default_rng(0).permutation(every)[:_MOST_EXAMPLES]
    found: dict[str, EvalPrediction | None] = {}
    try:
        for split in splits:
            parts = [(kept, texts[split])]
            if split in setup.cross_validated:
                parts = [(np.setdiff1d(every, fold), texts["train"][fold]) for fold in setup.folds]
            outputs = [
                tfidf_outputs(task, texts["train"][train], labels["train"][train], others, balanced)
                for train, others in parts
            ]
            found[split] = EvalPrediction(np.concatenate(outputs), labels[split])
    except ValueError:  # no words, or only one label
        return {}
    return found


def tfidf_outputs(task: Any, texts: Any, labels: Any, others: Any, balanced: bool) -> Any:
    """Return the outputs (N, C) for others of a logistic or ridge regression on the TF-IDF of words and word pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    kind, weights = task.problem_type, "balanced" if balanced else None
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=_MOST_WORDS)
    logistic = LogisticRegression(C=_INVERSE_REGULARISATION, class_weight=weights, max_iter=300)
    model = {"regression": Ridge(), "multi_label_classification": OneVsRestClassifier(logistic)}.get(kind, logistic)
    with warnings.catch_warnings():
        # A model that has not converged, or a label that all or no examples have, is good enough.
        warnings.simplefilter("ignore")
        model.fit(vectorizer.fit_transform(texts), labels)
    vectors = vectorizer.transform(others)
    if kind == "regression":
        return model.predict(vectors)[:, None]
    # (N, C), also where some classes do not occur. A label is given from a probability of 0.5.
    logits = np.full((len(others), len(task.labels)), -1.0)
    logits[:, model.classes_ if kind == "single_label_classification" else slice(None)] = (
        model.predict_proba(vectors) - 0.5
    )
    return logits


def texts_of(task: Any, rows: Any) -> list[str]:
    """Return the text of each example, with the texts of a pair one after the other."""
    return [" ".join(parts) for parts in zip(*(rows[column] for column in task.texts), strict=True)]
