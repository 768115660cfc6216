"""Draws the confusion matrix of an adapted classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .report import Results

# A picture with more labels is illegible.
_MAX_LABELS = 40


def plot_confusion(results: Results, file: Path) -> None:
    """Draw the confusion matrix of the kept model as a PNG, if there is one and it is small enough to read."""
    counts = results.kept.confusion
    if counts is None or not results.reported_splits or len(counts) > _MAX_LABELS:
        return
    from matplotlib.figure import Figure

    size = 2.5 + 0.45 * len(counts)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    # The colour shows the share within a row.
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, of_row in enumerate(counts):
        for column, count in enumerate(of_row):
            shade = "white" if shares[row][column] > 0.5 else "black" if count else "silver"
            axes.text(column, row, str(count), ha="center", va="center", color=shade)
    axes.set_xticks(range(len(counts)), _short(results.labels), rotation=45, rotation_mode="anchor", ha="right")
    axes.set_yticks(range(len(counts)), _short(results.labels))
    axes.set_xlabel("label of the model")
    axes.set_ylabel(f"label of the {results.reported_split} example")
    figure.savefig(file, dpi=150)


def _short(labels: Sequence[str]) -> list[str]:
    """Shorten long labels in the middle, and number those that would look the same."""
    # Matplotlib interprets dollar signs as formulas.
    short = [(label if len(label) <= 24 else f"{label[:15]}…{label[-8:]}").replace("$", r"\$") for label in labels]
    times = Counter(short)
    return [f"{label} ({index})" if times[label] > 1 else label for index, label in enumerate(short)]
