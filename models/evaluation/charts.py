"""Charts of a report as inline SVG: rows with values and intervals, and calibration curves."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

Triple = tuple[float | None, float | None, float | None]
"""A value and the ends of its interval; `None` where it is undefined."""

_WIDTH = 440.0  # narrow enough that text stays legible on a phone
_LABELS = 158.0
_RIGHT = 14.0
_AXIS = 34.0
_LABEL_CHARACTERS = 22


class ChartRow(NamedTuple):
    """A row of a chart.

    Attributes:
        label: what it is.
        note: small print under the label, how many candidates there are.
        values: of each series.
        faint: whether there is too little to rely on.
    """

    label: str
    note: str
    values: Sequence[Triple]
    faint: bool


def series_mark(number: int) -> str:
    """The class that gives a series its colour, in charts and legends."""
    return f"s{number % 8}"


def row_chart(
    title: str, rows: Sequence[ChartRow], names: Sequence[str], *, bars: bool = False, first_series: int = 0
) -> str:
    """Draws values with whiskers, one row per kind, or bars from 0.

    Args:
        title: what it shows, for those who do not see it.
        rows: from top to bottom.
        names: of the series.
        bars: bars from 0 instead of dots.
        first_series: the number that the first series has in other charts, for its colour.
    """
    step = 20.0 if bars else 12.0
    height_of_row = max(30.0, step * len(names) + 10)
    low, high = _range(rows, with_zero=bars)
    ticks = _ticks(low, high, count=5)
    bottom = 6 + height_of_row * len(rows)

    def x(value: float) -> float:
        return _LABELS + (min(max(value, low), high) - low) / (high - low) * (_WIDTH - _LABELS - _RIGHT)

    parts = [_grid_x(ticks, x, bottom, zero=low < 0 < high)]
    for n, row in enumerate(rows):
        middle = 6 + height_of_row * (n + 0.5)
        for k, (value, start, end) in enumerate(row.values):
            if value is None:
                continue
            y = middle + (k - (len(names) - 1) / 2) * step
            tooltip, whisker = f"{names[k]}, {row.label}: {value:.4f}", ""
            if start is not None and end is not None:
                tooltip += f" [{start:.4f}, {end:.4f}]"
                whisker = f'<line class="whisker" x1="{x(start):.1f}" x2="{x(end):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            if bars:
                left, right = sorted((x(0.0), x(value)))
                width = max(right - left, 0.5)
                mark = f'<rect x="{left:.1f}" y="{y - 6:.1f}" width="{width:.1f}" height="12" rx="1.5"/>'
            else:
                mark = f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4"/>'
            classes = f"{series_mark(first_series + k)}{' faint' if row.faint else ''}"
            parts.append(f'<g class="{classes}"><title>{escape(tooltip)}</title>{mark}{whisker}</g>')
        name = row.label if len(row.label) <= _LABEL_CHARACTERS else row.label[: _LABEL_CHARACTERS - 1] + "…"
        parts.append(
            f'<text class="name" x="{_LABELS - 10}" y="{middle - 1:.1f}"><title>{escape(row.label)}</title>'
            f"{escape(name)}</text>"
            f'<text class="note" x="{_LABELS - 10}" y="{middle + 11:.1f}">{escape(row.note)}</text>'
        )
    return _svg(title, bottom + _AXIS - 8, parts)


def calibration_chart(title: str, curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> str:
    """Draws observed over predicted click rates, with the diagonal where both are equal.

    Args:
        title: what it shows, for those who do not see it.
        curves: per series the predicted and the observed rate of each bin.
    """
    largest = max((value for curve in curves for side in curve for value in side), default=1.0) or 1.0
    left, top, side = 52.0, 8.0, _WIDTH - 52 - _RIGHT - 40
    ticks = _ticks(0.0, largest * 1.04, count=5)

    def x(value: float) -> float:
        return left + value / (largest * 1.04) * side

    def y(value: float) -> float:
        return top + side - value / (largest * 1.04) * side

    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{top + side}"/>')
        parts.append(f'<line class="grid" x1="{left}" x2="{left + side}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{top + side + 16}">{_number(tick, ticks)}</text>')
        parts.append(f'<text class="name" x="{left - 8}" y="{y(tick) + 4:.1f}">{_number(tick, ticks)}</text>')
    parts.append(
        f'<line class="zero" x1="{left}" y1="{top + side}" x2="{x(largest * 1.04):.1f}" y2="{y(largest * 1.04):.1f}"/>'
    )
    parts.append(f'<text class="tick" x="{left + side / 2}" y="{top + side + 34}">predicted click rate</text>')
    middle = top + side / 2
    parts.append(
        f'<text class="tick" transform="translate(13 {middle}) rotate(-90)" x="0" y="0">observed click rate</text>'
    )
    for number, (predicted, observed) in enumerate(curves):
        points = [(x(p), y(o)) for p, o in zip(predicted, observed, strict=True)]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in points)
        parts.append(f'<g class="{series_mark(number)}"><polyline points="{line}"/>{dots}</g>')
    return _svg(title, top + side + 40, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    title = escape(title)
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{title}">'
        f"<title>{title}</title>{''.join(parts)}</svg>"
    )


def _grid_x(ticks: Sequence[float], x: Callable[[float], float], bottom: float, *, zero: bool) -> str:
    parts = []
    for tick in ticks:
        line = "zero" if zero and tick == 0 else "grid"
        parts.append(f'<line class="{line}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{bottom:.1f}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 15:.1f}">{_number(tick, ticks)}</text>')
    return "".join(parts)


def _range(rows: Sequence[ChartRow], *, with_zero: bool) -> tuple[float, float]:
    """Ends of the axis: room for all values, and for the intervals of rows that are not faint."""
    values = [triple[0] for row in rows for triple in row.values if triple[0] is not None]
    ends = [
        end
        for row in rows
        if not row.faint
        for triple in row.values
        for end in triple[1:]
        if end is not None and triple[0] is not None
    ]
    shown = [*values, *ends, *([0.0] if with_zero else [])]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    margin = (high - low) * 0.04 or 0.01
    return low - margin, high + margin


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between the ends."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(value: float, ticks: Sequence[float]) -> str:
    """With the decimals that tell the ticks apart."""
    texts = [f"{tick:.10f}".rstrip("0").partition(".")[2] for tick in ticks]
    return f"{value:.{max(map(len, texts), default=0)}f}"
