"""One pass over impressions and events before the pipeline: which IDs occur, and in what unit timestamps are."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.file_reader import read_part, table_parts
from beam_pipelines.logs.moments import FIRST_MILLISECONDS, TimestampUnit
from beam_pipelines.logs.values import is_empty, read_values
from beam_pipelines.shell.progress import progress_bar


class TimestampUnits:
    """Counts what the timestamps of a log look like, to detect their unit.

    Example:
        >>> units = TimestampUnits()
        >>> units.add("impressions", batch.column("timestamp"))
        >>> units.detect()
        'milliseconds'
    """

    def __init__(self) -> None:
        self._seen: dict[str, Counter[TimestampUnit]] = {}

    def add(self, table: str, timestamps: pa.Array) -> None:
        """Counts the timestamps of a batch. Columns of a date type say their unit themselves."""
        if pa.types.is_dictionary(timestamps.type):
            timestamps = timestamps.cast(timestamps.type.value_type)
        if pa.types.is_timestamp(timestamps.type) or pa.types.is_date(timestamps.type):
            return
        number = read_values("statistic", timestamps, "milliseconds", table)
        is_text = pc.and_not(pc.is_null(number), is_empty(timestamps))
        milliseconds = pc.greater_equal(number, FIRST_MILLISECONDS)
        seconds = pc.less(number, FIRST_MILLISECONDS)
        counts = self._seen.setdefault(table, Counter())
        masks: dict[TimestampUnit, pa.Array] = {"iso": is_text, "milliseconds": milliseconds, "seconds": seconds}
        for unit, mask in masks.items():
            counts[unit] += pc.sum(mask).as_py() or 0

    def detect(self) -> TimestampUnit:
        """The unit of at least 9 in 10 timestamps of every table.

        Raises:
            InputError: there is none.
        """
        found: dict[TimestampUnit, str] = {}
        for table, counts in self._seen.items():
            if not counts.total():
                continue
            unit, count = counts.most_common(1)[0]
            if count < 0.9 * counts.total():
                seen = ", ".join(f"{n} like {u}" for u, n in sorted(counts.items()) if n)
                raise InputError(f"{table}.timestamp mixes units ({seen}); pass `timestamp_unit`")
            found[unit] = table
        if len(found) > 1:
            seen = ", ".join(f"{table} in {unit}" for unit, table in sorted(found.items()))
            raise InputError(f"timestamps are not in one unit ({seen}); store them alike or pass `timestamp_unit`")
        return next(iter(found), "milliseconds")


@dataclasses.dataclass(frozen=True)
class Scan:
    """What must be known of impressions and events before the pipeline starts.

    Attributes:
        rows: table to number of rows.
        item_ids, user_ids: the distinct ones, sorted.
        units: what the timestamps look like.
    """

    rows: dict[str, int]
    item_ids: pa.Array
    user_ids: pa.Array
    units: TimestampUnits


def scan(tables: Sequence[Table]) -> Scan:
    """Streams through the IDs and timestamps of `impressions` and `events`."""
    units = TimestampUnits()
    rows = {table.name: 0 for table in tables}
    ids = {"item_id": _DistinctIds(), "user_id": _DistinctIds()}
    with progress_bar(desc="scanning logs", unit=" rows", unit_scale=True) as bar:
        for table, part in ((t, p) for t in tables for p in table_parts(t)):
            for raw in read_part(table, part, (*ids, "timestamp")):
                rows[table.name] += raw.rows.num_rows + len(raw.malformed)
                units.add(table.name, raw.rows.column("timestamp"))
                for name, distinct in ids.items():
                    distinct.add(read_values("id", raw.rows.column(name), "iso", f"{part.path}: {table.name}.{name}"))
                bar.update(raw.rows.num_rows)
    return Scan(rows, ids["item_id"].sorted(), ids["user_id"].sorted(), units)


class _DistinctIds:
    """Collects distinct strings in little more memory than they need."""

    def __init__(self) -> None:
        self._arrays = [pa.array([], pa.string())]
        self._pending = 0

    def add(self, ids: pa.Array) -> None:
        self._arrays.append(pc.unique(ids.drop_null()))
        self._pending += len(self._arrays[-1])
        if self._pending > max(1 << 20, len(self._arrays[0])):
            self._merge()

    def _merge(self) -> None:
        self._arrays = [pc.unique(pa.concat_arrays(self._arrays))]
        self._pending = 0

    def sorted(self) -> pa.Array:
        self._merge()
        return self._arrays[0].take(pc.sort_indices(self._arrays[0]))
