"""What reading a part of a log file gives, before any value is looked at."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location


class MalformedLine(NamedTuple):
    """A line that is no row: its number in the file, from 1; why; what it says, as far as it can be shown."""

    line: int
    reason: str
    text: str


class RawBatch(NamedTuple):
    """Rows as they are in a file, and lines that are no rows at all.

    Lines are conserved: `lines_in - continued == rows.num_rows + len(malformed)`, where the left side is counted
    without the parser that finds the rows. Sums over the batches of a file are the file's.

    Attributes:
        rows: under the contract's column names.
        malformed: what is between them.
        path: the file.
        lines: int64 `(rows,)`: where each row begins, as the number of a line (of a row in Parquet), from 1.
        lines_in: lines of the file that the batch covers (rows in Parquet), without blank ones and the header.
        continued: how many of these are inside a value that runs over several lines.
    """

    rows: pa.RecordBatch
    malformed: list[MalformedLine]
    path: Location
    lines: np.ndarray
    lines_in: int
    continued: int

    def check_conserved(self) -> None:
        """Checks that every line became a row or was rejected.

        Raises:
            InputError: it is not so.
        """
        found = self.rows.num_rows + len(self.malformed)
        if found != self.lines_in - self.continued or self.rows.num_rows != len(self.lines):
            first = min([*self.lines[:1].tolist(), *(line.line for line in self.malformed[:1])], default=0)
            raise InputError(
                f"{self.path}: {self.lines_in - self.continued} rows were to come from line {first} on, "
                f"but {found} were found; the file is damaged there"
            )


def make_rows(columns: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
    """A record batch of `count` rows, also where it has no columns."""
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
