"""One pass over impressions and events before the pipeline: which IDs occur."""

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.file_reader import read_part, table_parts
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.values import read_values
from beam_pipelines.shell.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Scan:
    """What must be known of impressions and events before the pipeline starts.

    Attributes:
        rows: table to number of rows.
        item_ids, user_ids: the distinct ones, sorted.
    """

    rows: dict[str, int]
    item_ids: pa.Array
    user_ids: pa.Array


def scan(tables: Sequence[Table], rules: ReadingRules) -> Scan:
    """Streams through the IDs of `impressions` and `events`."""
    rows = {table.name: 0 for table in tables}
    ids = {"item_id": _DistinctIds(), "user_id": _DistinctIds()}
    with progress_bar(desc="scanning logs", unit=" rows", unit_scale=True) as bar:
        for table, part in ((t, p) for t in tables for p in table_parts(t)):
            for raw in read_part(table, part, list(ids)):
                rows[table.name] += raw.rows.num_rows + len(raw.malformed)
                for name, distinct in ids.items():
                    column = raw.rows.column(name)
                    distinct.add(read_values("id", column, rules, f"{table.name}.{name}", part.path).values)
                bar.update(raw.rows.num_rows)
    return Scan(rows, ids["item_id"].sorted(), ids["user_id"].sorted())


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
