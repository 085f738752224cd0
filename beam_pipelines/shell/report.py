"""How reports are written as text."""

from collections.abc import Sequence


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
