"""Explanations to look at: as HTML, with coloured words, and as PNG pictures, with matplotlib.

All texts are escaped, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...command_line.extras import require
from .scored_words import ScoredWords

# Colours that people who see no red or green can tell apart.
FOR, AGAINST = (33, 102, 172), (178, 24, 43)
_STYLE = (
    ".explanation{font-family:sans-serif;line-height:1.8;margin:0 0 1.5em;max-width:50em}"
    ".explanation p{margin:.2em 0}.explanation small{opacity:.8}.explanation mark{color:inherit;border-radius:3px}"
    ".explanation .warning{border-left:4px solid #b2182b;padding-left:.6em}"
)


def page(explanations: Sequence[ScoredWords]) -> str:
    """Return a page that needs no server."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Explanations</title></head>'
        f"<body>\n{fragment(explanations)}\n</body></html>\n"
    )


def fragment(explanations: Sequence[ScoredWords]) -> str:
    """Return HTML to put in a page or a notebook."""
    key = (
        f"<p><small>{_coloured('for', 1, 1, 'raises the number')} "
        f"{_coloured('against', -1, 1, 'lowers it')}</small></p>"
    )
    parts = "\n".join(_explanation(each) for each in explanations)
    return f'<style>{_STYLE}</style>\n{parts}\n<div class="explanation">{key}</div>'


def _explanation(explanation: ScoredWords) -> str:
    target, found = explanation.target, explanation.faithfulness
    largest = max((abs(score) for score in explanation.scores), default=0)
    lines = [f"<p><b>{escape(target.name)}</b> <small>{target.number} {explanation.value:.3f}</small></p>"]
    for source, text in enumerate(explanation.texts):
        lines.append(f"<p>{_text(explanation, source, text, largest)}</p>")
    if found is not None:
        lines.append(
            f"<p><small>{explanation.method}; comprehensiveness {found.comprehensiveness:.3f} (random "
            f"{found.random_comprehensiveness:.3f}), sufficiency {found.sufficiency:.3f} (random "
            f"{found.random_sufficiency:.3f})</small></p>"
        )
    if explanation.warning:
        lines.append(f'<p class="warning"><small>{escape(explanation.warning)}</small></p>')
    if explanation.neighbours:
        near = (
            f"<li>{each.cosine:.3f} {'' if each.label is None else f'<b>{escape(str(each.label))}</b> '}"
            f"{escape(each.text)}</li>"
            for each in explanation.neighbours
        )
        lines.append(f"<small>Nearest examples, with the cosine of their vectors:<ul>{''.join(near)}</ul></small>")
    return '<div class="explanation">' + "\n".join(lines) + "</div>"


def _text(explanation: ScoredWords, source: int, text: str, largest: float) -> str:
    pairs = zip(explanation.words, explanation.scores, strict=True)
    parts, end = [], 0
    for word, score in sorted((pair for pair in pairs if pair[0].source == source), key=lambda pair: pair[0].start):
        parts.append(escape(text[end : word.start]))
        # Tokens may share a character, such as the bytes of one.
        parts.append(_coloured(text[max(word.start, end) : word.end], score, largest, f"{score:+.4f}"))
        end = max(end, word.end)
    return "".join([*parts, escape(text[end:])])


def _coloured(text: str, score: float, largest: float, title: str) -> str:
    red, green, blue = FOR if score > 0 else AGAINST
    strength = abs(score) / largest if largest else 0
    colour = f"rgba({red},{green},{blue},{0.6 * strength:.2f})"
    return f'<mark title="{escape(title)}" style="background:{colour}">{escape(text)}</mark>'


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
