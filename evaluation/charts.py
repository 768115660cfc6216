"""Small charts as SVG, whose colours follow the page: light or dark."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .cascade import Cascade

_WIDTH, HEIGHT = 320, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 16, 8, 34
_LINE = 14
# Colours of the page; further files have other hues.
_COLORS = 6
_SHOWN_LABELS = 12
_LONGEST_NAME = 45
# The most steps between the ticks of an axis.
_STEPS = 5


class Series(NamedTuple):
    """What has one colour in a chart, and a line in its legend. Bars also have values, one for each label."""

    name: str
    color: str
    values: Sequence[float] = ()
    opacity: float = 1.0


class _Axis(NamedTuple):
    """An axis from one tick to another."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, low: float, high: float) -> _Axis:
        """Return the axis with round ticks that contains two numbers."""
        rough = max(high - low, 1e-6) / _STEPS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * round_ for round_ in (1, 2, 5, 10) if power * round_ >= rough * (1 - 1e-9))
        # A number that is a tick itself, but for its last digit, needs no tick beyond it.
        return cls(step * math.floor(low / step + 1e-6), step * math.ceil(high / step - 1e-6), step)

    def share(self, value: float) -> float:
        """Return how far along the axis a value is, from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, powers: bool = False) -> list[tuple[float, str]]:
        """Return the place of each tick, and its number, or the power of ten with that exponent."""
        digits = max(0, -math.floor(math.log10(self.step) + 1e-6))
        values = (self.low + index * self.step for index in range(round((self.high - self.low) / self.step) + 1))
        return [(self.share(value), f"{10**value:.2g}" if powers else f"{value:.{digits}f}") for value in values]


_SHARES = _Axis.over(0, 1)


def colors_of(names: Sequence[str]) -> dict[str, str]:
    """Return the colour of each name, which it has in all charts."""
    return {
        name: f"var(--c{index})" if index < _COLORS else f"hsl({137 * index % 360} 55% 50%)"
        for index, name in enumerate(names)
    }


def reliability(bins: Sequence[Mapping[str, float]], color: str) -> str:
    """Draw the accuracy of answers over their confidence. A larger circle stands for more answers."""
    most = max(each["answers"] for each in bins)
    marks = [_diagonal()]
    for each in bins:
        x, y = _place(each["confidence"], each["accuracy"])
        radius = 2 + 7 * (each["answers"] / most) ** 0.5
        said = f"{each['answers']:,.0f} answers: confidence {each['confidence']:.3f}, right {each['accuracy']:.3f}"
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{color}" fill-opacity=".7">'
            f"<title>{said}</title></circle>"
        )
    return _chart(marks, "confidence", "right", _SHARES, _SHARES)


def curves(named: Mapping[str, Sequence[tuple[float, float]]], colors: Mapping[str, str]) -> str:
    """Draw a curve for each name."""
    up = _Axis.over(0, max(y for points in named.values() for _, y in points) or 1.0)
    marks = [_line([(x, up.share(y)) for x, y in points], colors[name]) for name, points in named.items()]
    return _chart(marks, "coverage", "risk", _SHARES, up, {name: colors[name] for name in named})


def cascades(named: Mapping[str, Cascade], colors: Mapping[str, str]) -> str:
    """Draw the accuracy of two models over their speed for each name, with a circle for the chosen threshold."""
    points = [point for each in named.values() for point in each.curve]
    lowest, highest = (most(point.accuracy for point in points) for most in (min, max))
    up = _Axis.over(lowest, max(highest, lowest + 0.01))
    # The fastest are the small model alone, which can be hundreds of times as fast.
    across = _Axis.over(0, math.log10(max(2.0, *(point.speed for point in points))))
    marks = []
    for name, each in named.items():
        places = [(across.share(math.log10(max(p.speed, 1e-3))), up.share(p.accuracy)) for p in each.curve]
        marks.append(_line(places, colors[name]))
        if each.chosen is not None:
            x, y = _place(across.share(math.log10(max(each.chosen.speed, 1e-3))), up.share(each.chosen.accuracy))
            said = f"{each.chosen.speed:.1f} times as fast, accuracy {each.chosen.accuracy:.3f}"
            marks.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colors[name]}"><title>{said}</title></circle>'
            )
    return _chart(marks, "speed", "accuracy", across, up, {name: colors[name] for name in named}, powers=True)


def pairs(rows: Sequence[tuple[str, float, float]], colors: Mapping[str, str]) -> str:
    """Draw an estimated value over a true one for each name."""
    axis = _Axis.over(max(0.0, min(min(true, estimate) for _, true, estimate in rows) - 0.05), 1)
    marks = [_diagonal()]
    for name, true, estimate in rows:
        x, y = _place(axis.share(true), axis.share(estimate))
        said = html.escape(f"{name}: true {true:.3f}, estimated {estimate:.3f}")
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colors[name]}" fill-opacity=".8">'
            f"<title>{said}</title></circle>"
        )
    return _chart(marks, "true", "estimated", axis, axis, {name: colors[name] for name, _, _ in rows})


def bars(labels: Sequence[str], series: Sequence[Series]) -> str:
    """Draw bars for the first labels, one for each series."""
    labels = labels[:_SHOWN_LABELS]
    up = _Axis.over(0, max(value for each in series for value in each.values[: len(labels)]) or 1.0)
    step = (_WIDTH - _LEFT - _RIGHT) / len(labels)
    width = 0.8 * step / len(series)
    marks = []
    for index, each in enumerate(series):
        for place, (label, value) in enumerate(zip(labels, each.values, strict=False)):
            _, y = _place(0, up.share(value))
            x = _LEFT + place * step + 0.1 * step + index * width
            said = html.escape(f"{label}, {each.name}: {value:.3f}")
            marks.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT - _BOTTOM - y:.1f}" '
                f'fill="{each.color}" fill-opacity="{each.opacity}"><title>{said}</title></rect>'
            )
    under = [
        f'<text x="{_LEFT + (place + 0.5) * step:.1f}" y="{HEIGHT - 20}" text-anchor="middle">'
        f"{html.escape(shortened(label, max(3, int(step / 7))))}</text>"
        for place, label in enumerate(labels)
    ]
    return _frame([*_ticks_up(up), *marks, *under], series)


def _chart(
    marks: Sequence[str],
    across_name: str,
    up_name: str,
    across: _Axis,
    up: _Axis,
    colors: Mapping[str, str] | None = None,
    powers: bool = False,
) -> str:
    ticks = []
    for share, number in across.ticks(powers):
        x, y = _place(share, 0)
        ticks.append(f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{number}</text>')
    middle = f"{(_TOP + HEIGHT - _BOTTOM) / 2:.0f}"
    titles = [
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{across_name}</text>',
        f'<text x="10" y="{middle}" text-anchor="middle" transform="rotate(-90 10 {middle})">{up_name}</text>',
    ]
    legend = [Series(name, color) for name, color in (colors or {}).items()]
    return _frame([*_ticks_up(up), *ticks, *marks, *titles], legend)


def _frame(parts: Sequence[str], series: Sequence[Series]) -> str:
    """Return a picture of the parts, with a legend of the series below."""
    height = HEIGHT + _LINE * len(series)
    legend = (_legend(index, each) for index, each in enumerate(series))
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{"".join((*parts, *legend))}</svg>'


def _ticks_up(axis: _Axis) -> list[str]:
    found = []
    for share, number in axis.ticks():
        x, y = _place(0, share)
        found.append(
            f'<line x1="{x:.1f}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{x - 4:.1f}" y="{y + 4:.1f}" text-anchor="end">{number}</text>'
        )
    return found


def _place(x: float, y: float) -> tuple[float, float]:
    """Return the point of the picture for a point of the unit square."""
    return _LEFT + x * (_WIDTH - _LEFT - _RIGHT), _TOP + (1 - y) * (HEIGHT - _TOP - _BOTTOM)


def _diagonal() -> str:
    return _line([(0, 0), (1, 1)], "var(--faint)", ' stroke-dasharray="4 4"')


def _line(points: Sequence[tuple[float, float]], color: str, more: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(*point) for point in points))
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"{more}/>'


def _legend(index: int, series: Series) -> str:
    y = HEIGHT + 10 + _LINE * index
    return (
        f'<rect x="{_LEFT}" y="{y - 8}" width="9" height="9" fill="{series.color}" fill-opacity="{series.opacity}"/>'
        f'<text x="{_LEFT + 13}" y="{y}">{html.escape(shortened(series.name, _LONGEST_NAME))}</text>'
    )


def shortened(text: str, longest: int) -> str:
    """Return the beginning of a text that is longer than a number of characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
