"""What all tables are made of: Markdown and the notation of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
NOT_MEASURED = "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in cells) for cells in lines)


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """A number with so many decimals, or that it is not there."""
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}{unit}"


def estimate(mean: float | None, low: float | None, high: float | None) -> str:
    """A mean and its interval."""
    if mean is None or low is None or high is None:
        return number(mean)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def difference(mean: float | None, low: float | None, high: float | None) -> str:
    """A difference and its interval, bold where that is on one side of zero."""
    if mean is None:
        return ""
    if low is None or high is None:
        return f"{mean:+.3f}"
    text = f"**{mean:+.3f}**" if low > 0 or high < 0 else f"{mean:+.3f}"
    return f"{text} [{low:+.3f}, {high:+.3f}]"


def times(value: float | None) -> str:
    """A ratio."""
    return NOT_MEASURED if value is None else f"{value:.3g} times"
