"""Times in another unit than a ranker's: a page in 1970, or in the year 56000, is a mistake of the client."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np

from export.server.serving_error import ServingError
from export.version.base_path import RANKER_METADATA_FILE

_TIMESTAMP, _TIME_SUFFIX = "timestamp", "_time"
_FIRST_YEAR, _LAST_YEAR = 1990, 2100
_UNITS = {"seconds": 1e-3, "microseconds": 1e3, "nanoseconds": 1e6}
"""Units that are mistaken for milliseconds, and how many of each a millisecond has."""


def _milliseconds(year: int) -> int:
    return int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp() * 1000)


_FIRST, _END = _milliseconds(_FIRST_YEAR), _milliseconds(_LAST_YEAR)


class EpochTimes(NamedTuple):
    """The times that a ranker reads: epoch milliseconds, as those of its training pages are.

    A page may be years younger than the training pages, and its histories years older. So what is refused is only what
    cannot be a moment in this unit: anything outside of 1990 to 2100, which seconds, microseconds and nanoseconds of
    these years are.

    Attributes:
        first: the moment of the first training page.
        last: that of the last one.
    """

    first: int
    last: int

    @classmethod
    def of_version(cls, version: Path) -> "EpochTimes | None":
        """Reads them from a version.

        Returns:
            `None` if it does not tell, or was trained on times of another kind.
        """
        try:
            window = json.loads((version / RANKER_METADATA_FILE).read_text("utf-8"))["window"]
            times = cls(int(window["first"]), int(window["last"]))
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return times if _FIRST <= times.first <= times.last < _END else None

    def check(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Refuses a page, or a step of its histories, at a moment in another unit.

        Args:
            inputs: of a request, by name; those that are not times are not looked at. Steps without a time, 0 or less,
                pass.

        Raises:
            ServingError: INVALID_ARGUMENT, with the input, the value and the unit that it seems to be in.
        """
        for name, values in inputs.items():
            is_page = name == _TIMESTAMP
            if values.dtype != np.int64 or not (is_page or name.endswith(_TIME_SUFFIX)):
                continue
            wrong = ((values < _FIRST) & (is_page | (values > 0))) | (values >= _END)
            if wrong.any():
                raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, self._message(name, int(values[wrong][0])))

    def _message(self, name: str, value: int) -> str:
        units = [unit for unit, per_millisecond in _UNITS.items() if _FIRST <= value / per_millisecond < _END]
        seems = f"looks like {units[0]}" if units else f"is no moment between {_FIRST_YEAR} and {_LAST_YEAR}"
        first, last = (datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).date() for ms in self)
        return f"`{name}` {value} {seems}; the model expects epoch milliseconds (trained on pages of {first} to {last})"
