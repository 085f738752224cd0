"""One pass over all tables before the pipeline: what a build will use of them, what it will not, and why."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.location import Location
from beam_pipelines.logs.column_counts import ColumnCounts
from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.directory import FileCounts
from beam_pipelines.logs.file_reader import FilePart, read_part, table_parts
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.rejections import RejectedRow, RejectionSummary
from beam_pipelines.logs.rows import normalise
from beam_pipelines.shell.progress import progress_bar

KEYS = {"items": "item_id", "users": "user_id"}
"""The tables that describe something, and the ID of what they describe."""
_IDS = {"impressions": ("item_id", "user_id"), "events": ("item_id", "user_id")}
"""The tables that say what happened, and the IDs that they name."""
_NAMED = pa.schema([("id", pa.string()), ("rows", pa.int64())])


@dataclasses.dataclass(frozen=True)
class TableSurvey:
    """What the files of a table hold.

    Attributes:
        files: what became of their rows.
        columns: what became of the values of each column of the contract that occurs in a file.
        rejected: rows that break the contract, by reason.
        dead_letters: those of items and users, one by one; the pipeline finds those of other tables again.
        ids: `item_id` and `user_id`, for impressions and events, to a table with the columns `id` and `rows`: each ID
            that valid rows name, sorted, and how many do.
        valid: the valid rows of items or users, in the order of files and lines; `None` for other tables.
    """

    files: tuple[FileCounts, ...]
    columns: Mapping[str, ColumnCounts]
    rejected: RejectionSummary
    dead_letters: list[RejectedRow]
    ids: Mapping[str, pa.Table]
    valid: pa.Table | None

    @property
    def rows(self) -> int:
        """All rows, the rejected ones included."""
        return sum(file.rows for file in self.files)

    def conservation(self, name: str) -> str:
        """What became of the rows of table `name`, in words."""
        rejected, continued = self.rejected.rows(), sum(file.continued for file in self.files)
        lines = f" ({continued:,} more lines continue values)" if continued else ""
        return f"{name}: {self.rows:,} rows = {self.rows - rejected:,} used + {rejected:,} rejected{lines}"


def survey_tables(tables: Mapping[str, Table], rules: ReadingRules) -> dict[str, TableSurvey]:
    """Reads all rows of all tables and counts what the pipeline will find.

    Args:
        tables: of a log directory.
        rules: how values are read.

    Raises:
        InputError: a file is damaged, or a column has an impossible type.
    """
    parts = [(table, part) for table in tables.values() for part in table_parts(table)]
    found: dict[str, list[_PartSurvey]] = {name: [] for name in tables}
    with (
        progress_bar(desc="checking logs", unit=" rows", unit_scale=True) as bar,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        for (table, _), part in zip(parts, pool.map(lambda of: _survey_part(of[0], of[1], rules), parts), strict=True):
            found[table.name].append(part)
            bar.update(part.lines)
    return {name: _merged(tables[name], surveys) for name, surveys in found.items()}


def named_ids(survey: Mapping[str, TableSurvey], key: str) -> pa.Array:
    """The distinct IDs that valid rows of impressions and events name, sorted.

    Args:
        survey: of all tables.
        key: `item_id` or `user_id`.
    """
    columns = [table.ids[key]["id"] for table in survey.values() if key in table.ids]
    ids = pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()))
    return ids.take(pc.sort_indices(ids))


class _PartSurvey(NamedTuple):
    path: Location
    lines: int
    continued: int
    columns: dict[str, ColumnCounts]
    rejected: RejectionSummary
    dead_letters: list[RejectedRow]
    ids: dict[str, pa.Table]
    valid: list[pa.RecordBatch]


def _survey_part(table: Table, part: FilePart, rules: ReadingRules) -> _PartSurvey:
    lines = continued = 0
    columns: dict[str, ColumnCounts] = {}
    rejected = RejectionSummary()
    dead_letters: list[RejectedRow] = []
    ids = {key: _NamedIds() for key in _IDS.get(table.name, ())}
    valid = []
    for raw in read_part(table, part):
        batch = normalise(table, raw, rules)
        lines += raw.lines_in
        continued += raw.continued
        for name, counts in batch.columns.items():
            columns[name] = columns[name].merge(counts) if name in columns else counts
        rejected.add(batch.rejected)
        for key, named in ids.items():
            named.add(batch.rows.column(key))
        if table.name in KEYS:
            valid.append(batch.rows)
            dead_letters += batch.rejected
    named_rows = {key: named.table() for key, named in ids.items()}
    return _PartSurvey(part.path, lines, continued, columns, rejected, dead_letters, named_rows, valid)


def _merged(table: Table, parts: Iterable[_PartSurvey]) -> TableSurvey:
    lines: Counter[Location] = Counter()
    continued: Counter[Location] = Counter()
    bad: Counter[Location] = Counter()
    columns: dict[str, ColumnCounts] = {}
    rejected = RejectionSummary()
    dead_letters: list[RejectedRow] = []
    batches = []
    named = {key: _NamedIds() for key in _IDS.get(table.name, ())}
    for part in parts:
        lines[part.path] += part.lines
        continued[part.path] += part.continued
        bad[part.path] += part.rejected.rows()
        for name, counts in part.columns.items():
            columns[name] = columns[name].merge(counts) if name in columns else counts
        rejected.merge(part.rejected)
        dead_letters += part.dead_letters
        batches += part.valid
        for key, ids in part.ids.items():
            named[key].add_counted(ids)
    return TableSurvey(
        files=tuple(FileCounts(path, lines[path], continued[path], bad[path]) for path in table.files),
        columns={name: columns[name] for name in table.rules() if name in columns},
        rejected=rejected,
        dead_letters=dead_letters,
        ids={key: ids.table() for key, ids in named.items()},
        valid=pa.Table.from_batches(batches, table.schema()) if table.name in KEYS else None,
    )


class _NamedIds:
    """Counts distinct strings in little more memory than they need."""

    def __init__(self) -> None:
        self._tables = [_NAMED.empty_table()]
        self._pending = 0

    def add(self, ids: pa.Array) -> None:
        counted = pc.value_counts(ids)
        self.add_counted(pa.Table.from_arrays([counted.field("values"), counted.field("counts")], schema=_NAMED))

    def add_counted(self, ids: pa.Table) -> None:
        self._tables.append(ids)
        self._pending += len(ids)
        if self._pending > max(1 << 20, len(self._tables[0])):
            self._merge()

    def _merge(self) -> None:
        rows = pa.concat_tables(self._tables).group_by("id").aggregate([("rows", "sum")])
        self._tables = [rows.rename_columns({"rows_sum": "rows"}).select(_NAMED.names)]
        self._pending = 0

    def table(self) -> pa.Table:
        self._merge()
        return self._tables[0].sort_by("id").combine_chunks()
