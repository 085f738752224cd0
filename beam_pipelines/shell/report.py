"""How reports are written: as aligned text and as JSON."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def aligned(rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table as text, a line per row.

    Args:
        rows: cells, as many in every row.
        text_columns: how many columns are text, which is aligned to the left; the others are numbers.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def finite(value: Any) -> Any:
    """A report with `None` instead of numbers that JSON does not have: NaN, where a figure is undefined, and infinity.

    Args:
        value: dicts, lists, tuples and what JSON holds.
    """
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, report: Any) -> None:
    """Writes a report as JSON for programs and people, `null` where a figure is undefined; see `finite`."""
    path.write_text(json.dumps(finite(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
