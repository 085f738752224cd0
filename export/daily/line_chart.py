"""Figures over days as inline SVG: a line for each series, with its interval as a band."""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple, TypeGuard

_WIDTH, _HEIGHT = 560.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 12.0, 8.0, 24.0

_Place = Callable[[float], float]


class Line(NamedTuple):
    """A series.

    Attributes:
        name: what it is.
        values: by day; `None` where there is none, which leaves a gap.
        low, high: ends of its interval by day; empty for a line without a band.
    """

    name: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


def line_chart(title: str, days: Sequence[str], lines: Sequence[Line], *, refused: Sequence[bool] = ()) -> str:
    """Draws lines over days.

    Args:
        title: what it shows, for those who do not see it.
        days: names of the days, from left to right.
        lines: the series; of each, a dot tells day and value.
        refused: days that are marked.
    """
    shown = [value for line in lines for each in (line.values, line.low, line.high) for value in each if _is(value)]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    low, high = low - margin, high + margin

    def x(day: float) -> float:
        return _LEFT + (day + 0.5) / max(1, len(days)) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in _ticks(low, high):
        at = y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="value" x="{_LEFT - 6}" y="{at + 4:.1f}">{tick:,.6g}</text>')
    every = max(1, math.ceil(len(days) / 8))
    for number in range(0, len(days), every):
        text = escape(days[number][5:] or days[number])
        parts.append(f'<text class="day" x="{x(number):.1f}" y="{_HEIGHT - 6}">{text}</text>')
    for number, is_refused in enumerate(refused):
        if is_refused:
            note = f"<title>{escape(days[number])}: refused</title>"
            ends = f'y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
            parts.append(f'<line class="refused" x1="{x(number):.1f}" x2="{x(number):.1f}" {ends}>{note}</line>')
    for number, line in enumerate(lines):
        drawn = [_band(line, x, y)]
        drawn += [f'<polyline points="{_points(run, line.values, x, y)}"/>' for run in _runs(line.values)]
        for day, value in enumerate(line.values):
            if _is(value):
                text = escape(f"{line.name}, {days[day]}: {value:,.6g}")
                drawn.append(f'<circle cx="{x(day):.1f}" cy="{y(value):.1f}" r="2.6"><title>{text}</title></circle>')
        parts.append(f'<g class="s{number}">{"".join(drawn)}</g>')
    name = escape(title)
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{name}"><title>{name}</title>'
        f"{''.join(parts)}</svg>"
    )


def _is(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _runs(values: Sequence[float | None]) -> list[list[int]]:
    """Days in a row that have a value."""
    runs: list[list[int]] = [[]]
    for day, value in enumerate(values):
        if _is(value):
            runs[-1].append(day)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _points(run: Iterable[int], values: Sequence[float | None], x: _Place, y: _Place) -> str:
    return " ".join(f"{x(day):.1f},{y(values[day] or 0.0):.1f}" for day in run)


def _band(line: Line, x: _Place, y: _Place) -> str:
    return "".join(
        f'<polygon points="{_points(run, line.low, x, y)} {_points(reversed(run), line.high, x, y)}"/>'
        for run in _runs(line.low)
    )


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers between the ends."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
