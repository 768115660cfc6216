"""The plot of the confusion matrix of an adapted classifier."""

from __future__ import annotations

from sequence_encoder.training.adaptation.report import _short


def test_shortened_labels_stay_distinct_in_the_plot() -> None:
    labels = [f"a complaint about a parcel of kind {kind} in {place}" for kind in (1, 2) for place in ("Rome", "Oslo")]
    short = _short([*labels, "costs $5"])
    assert len(set(short)) == len(short)
    assert max(map(len, short)) <= 28
    assert short[-1] == r"costs \$5"
