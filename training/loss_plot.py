"""The curves of a training as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_losses(history: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draws all losses of a `Trainer`'s log history over steps, those of evaluations dashed, and writes a PNG."""
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if name == "loss" or (name.endswith("_loss") and name != "train_loss"):
                curves.setdefault(name, []).append((entry["step"], value))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        held_out = name.startswith("eval_")
        axes.plot(
            *zip(*points, strict=True), label=name, linestyle="--" if held_out else "-", marker="." if held_out else ""
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats)")
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
    figure.savefig(file, dpi=150)
