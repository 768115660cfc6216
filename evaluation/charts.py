"""Small charts as SVG, whose colours follow the page: light or dark."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

_WIDTH, HEIGHT = 320, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 16, 8, 34
_LINE = 14
# Colours of the page; further lines, points and bars have other hues.
_COLORS = 6
_SHOWN_LABELS = 12
_LONGEST_NAME = 45


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Draw the accuracy of answers over their confidence. A larger circle stands for more answers."""
    most = max(each["answers"] for each in bins)
    marks = [_line([(0, 0), (1, 1)], "var(--faint)", dashed=True)]
    for each in bins:
        x, y = _place(each["confidence"], each["accuracy"])
        radius = 2 + 7 * (each["answers"] / most) ** 0.5
        said = f"{each['answers']:,.0f} answers: confidence {each['confidence']:.3f}, right {each['accuracy']:.3f}"
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="var(--c0)" fill-opacity=".7">'
            f"<title>{said}</title></circle>"
        )
    return _chart(marks, "confidence", "right")


def curves(named: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw a curve for each name."""
    top = max(y for points in named.values() for _, y in points) or 1.0
    marks = [_line([(x, y / top) for x, y in points], _color(index)) for index, points in enumerate(named.values())]
    return _chart(marks, "coverage", "risk", top, names=list(named))


def pairs(rows: Sequence[tuple[str, float, float]]) -> str:
    """Draw an estimated value over a true one for each name."""
    low = min(min(one, other) for _, one, other in rows)
    # The lower end of both axes, a tenth below all values.
    low = max(0.0, low - 0.1)
    span = 1 - low or 1.0
    marks = [_line([(0, 0), (1, 1)], "var(--faint)", dashed=True)]
    for index, (name, true, estimate) in enumerate(rows):
        x, y = _place((true - low) / span, (estimate - low) / span)
        said = html.escape(f"{name}: true {true:.3f}, estimated {estimate:.3f}")
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_color(index)}"><title>{said}</title></circle>')
    return _chart(marks, "true", "estimated", 1.0, low, low, [name for name, _, _ in rows])


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Draw bars for the first labels, one for each series."""
    labels = labels[:_SHOWN_LABELS]
    top = max(value for values in series.values() for value in values[: len(labels)]) or 1.0
    step = (_WIDTH - _LEFT - _RIGHT) / len(labels)
    width = 0.8 * step / len(series)
    marks = []
    for index, (name, values) in enumerate(series.items()):
        for place, (label, value) in enumerate(zip(labels, values, strict=False)):
            _, y = _place(0, value / top)
            x = _LEFT + place * step + 0.1 * step + index * width
            said = html.escape(f"{label}, {name}: {value:.3f}")
            marks.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT - _BOTTOM - y:.1f}" '
                f'fill="{_color(index)}"><title>{said}</title></rect>'
            )
    under = [
        f'<text x="{_LEFT + (place + 0.5) * step:.1f}" y="{HEIGHT - 20}" text-anchor="middle">'
        f"{html.escape(shortened(label, max(3, int(step / 7))))}</text>"
        for place, label in enumerate(labels)
    ]
    return _frame([*_ticks(top, 0.0, vertical=True), *marks, *under], list(series))


def _chart(
    marks: Sequence[str],
    across: str,
    up: str,
    top: float = 1.0,
    bottom: float = 0.0,
    left: float = 0.0,
    names: Sequence[str] = (),
) -> str:
    titles = [
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{across}</text>',
        f'<text x="10" y="{(_TOP + HEIGHT - _BOTTOM) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 10 {(_TOP + HEIGHT - _BOTTOM) / 2:.0f})">{up}</text>',
    ]
    return _frame([*_ticks(top, bottom, vertical=True), *_ticks(1.0, left, vertical=False), *marks, *titles], names)


def _frame(parts: Sequence[str], names: Sequence[str]) -> str:
    """Return a picture of the parts, with a legend of the names below."""
    height = HEIGHT + _LINE * len(names)
    legend = (_legend(index, name) for index, name in enumerate(names))
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join((*parts, *legend))}</svg>'


def _ticks(top: float, bottom: float, vertical: bool) -> list[str]:
    found = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = f"{bottom + share * (top - bottom):.2f}"
        x, y = _place(0, share) if vertical else _place(share, 0)
        if vertical:
            found.append(
                f'<line x1="{x:.1f}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
                f'<text x="{x - 4:.1f}" y="{y + 4:.1f}" text-anchor="end">{value}</text>'
            )
        else:
            found.append(f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{value}</text>')
    return found


def _place(x: float, y: float) -> tuple[float, float]:
    """Return the point of the picture for a point of the unit square."""
    return _LEFT + x * (_WIDTH - _LEFT - _RIGHT), _TOP + (1 - y) * (HEIGHT - _TOP - _BOTTOM)


def _line(points: Sequence[tuple[float, float]], color: str, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(*point) for point in points))
    dashes = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"{dashes}/>'


def _legend(index: int, name: str) -> str:
    y = HEIGHT + 10 + _LINE * index
    return (
        f'<rect x="{_LEFT}" y="{y - 8}" width="9" height="9" fill="{_color(index)}"/>'
        f'<text x="{_LEFT + 13}" y="{y}">{html.escape(shortened(name, _LONGEST_NAME))}</text>'
    )


def _color(index: int) -> str:
    return f"var(--c{index})" if index < _COLORS else f"hsl({137 * index % 360} 55% 50%)"


def shortened(text: str, longest: int) -> str:
    """Return the beginning of a text that is longer than a number of characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
