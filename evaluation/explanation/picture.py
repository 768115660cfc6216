"""Explanations as PNG pictures, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...command_line.extras import require
from .html import AGAINST, FOR
from .scored_words import ScoredWords

# The number of words in a picture.
_WORDS = 20


def save_picture(explanations: Sequence[ScoredWords], file: Path) -> None:
    """Save bars of the words with the largest scores, one plot for each explanation.

    Raises:
        MissingLibraryError: If matplotlib is missing.
    """
    require("a picture", "matplotlib", extra="explain")
    from matplotlib.figure import Figure

    heights = [0.9 + 0.22 * min(_WORDS, len(each.words)) for each in explanations]
    figure = Figure(figsize=(6, sum(heights)), layout="constrained")
    plots = figure.subplots(len(explanations), squeeze=False, height_ratios=heights)[:, 0]
    for plot, each in zip(plots, explanations, strict=True):
        _draw(plot, each)
    figure.savefig(file, dpi=150)


def _draw(plot: Any, explanation: ScoredWords) -> None:
    best = explanation.top(_WORDS)[::-1]
    colours = [tuple(channel / 255 for channel in (FOR if score > 0 else AGAINST)) for _, score in best]
    plot.barh(range(len(best)), [score for _, score in best], color=colours)
    # A dollar sign in a word starts no formula.
    labels = {"fontsize": 8, "parse_math": False}
    plot.set_yticks(range(len(best)), [word.text for word, _ in best], **labels)
    plot.axvline(0, color="black", linewidth=0.8)
    title = f"{explanation.target.name}: {explanation.target.number} {explanation.value:.3f}"
    plot.set_title(title if len(title) < 70 else f"{title[:67]}…", **labels)
    plot.tick_params(axis="x", labelsize=8)
