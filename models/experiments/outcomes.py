"""What the users of an experiment have done, summed by user and day, read from logs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.logs.catalog import newest_values
from beam_pipelines.logs.contract import TABLES, Table, find_column
from beam_pipelines.logs.directory import LogDirectory
from beam_pipelines.logs.file_reader import read_part, table_parts
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.rejections import RejectionSummary, check_bad_fraction
from beam_pipelines.logs.rows import normalise
from beam_pipelines.logs.time_units import detect_units
from beam_pipelines.shell.progress import progress_bar
from models.experiments.exposures import Exposures

PARTS = ("impressions", "clicks", "orders", "value")
DAY = 86_400_000

_SLACK = 60_000  # ms: logs of one page may round its time, or have another clock
_MAX_BAD = 0.1  # of the rows of a table, as in the data job
_MIN_JOINED = 0.5  # of the users, likewise
_MAX_EARLY = 0.01
_MIN_VALUED = 0.95


class Outcomes(NamedTuple):
    """What users did.

    Attributes:
        after: of `PARTS`, those that the logs have: sums by user and day from the first exposure on, float64
            `(n, days)`.
        before: sums in the days before the first exposure, float64 `(n,)`; empty if these were not asked for.
        first_day: the day of a user's first exposure, int `(n,)`; 0 if days are not told apart.
        start: when day 0 begins, epoch milliseconds.
        notice: of the logs.
        counts: of the rows, users and pages that were read, joined and left out.
    """

    after: dict[str, np.ndarray]
    before: dict[str, np.ndarray]
    first_day: np.ndarray
    start: int
    notice: str
    counts: dict[str, Any]


def read_outcomes(
    logs: Location,
    exposures: Exposures,
    *,
    value: str | None = None,
    before_days: int = 14,
    days: int | None = None,
    columns: Mapping[str, str] | None = None,
    rules: ReadingRules | None = None,
) -> Outcomes:
    """Reads what the exposed users have done.

    Everything counts that a user does from the first exposure on, on whatever page. Rows of one page and item count
    once. Orders are `pay` events if there are any, else impressions that have converted.

    Args:
        logs: log directory; docs/data-contract.md says what lies in it.
        exposures: of the experiment.
        value: the column `stat_*` of `items` that says what an order of an item is worth.
        before_days: how long before the first exposure counts as before; 0 leaves it out.
        days: planned days of the experiment, from the midnight (UTC) before the first exposure: days are told apart,
            and what comes after them is left out. `None`: all days are one.
        columns: columns that have other names, as in `BuildOptions`.
        rules: how values are read; units of times that are not told are detected.

    Raises:
        InputError: the logs cannot be read, and exposures and logs do not belong together: other users, or exposures
            that are later than the pages that they are of.
    """
    directory = LogDirectory.open(logs, columns or {})
    told = rules or ReadingRules({})
    units = {name: time.unit for name, time in detect_units(directory.tables, told).items()}
    reader = _Reader(directory, ReadingRules(units, told.missing_markers, told.text_markers, told.time_range))
    if value is not None:
        _check_value(directory, value)
    impressions, counts = _impressions(reader, exposures)
    _check_overlap(impressions, exposures, counts)
    counts["exposed_pages_in_logs"] = _check_times(impressions, exposures)
    users = impressions["user"].to_numpy()
    times = impressions["timestamp"].to_numpy()
    clicked = impressions["clicked"].to_numpy().astype(np.float64)
    start = int(exposures.first.min()) // DAY * DAY
    clock = _Clock(exposures.first, start, before_days * DAY, days)
    sums = {"impressions": clock.sums(users, times, np.ones(len(users)))}
    sums["clicks"] = clock.sums(users, times, clicked)
    orders = _pay_events(reader, exposures)
    counts["orders_are"] = "pay events" if orders is not None else "converted impressions"
    if orders is None:
        orders = impressions.filter(impressions["converted"]) if "converted" in impressions.column_names else None
    if orders is not None and len(orders):
        user, moment = orders["user"].to_numpy(), orders["timestamp"].to_numpy()
        sums["orders"] = clock.sums(user, moment, np.ones(len(user)))
        if value is not None:
            sums["value"] = clock.sums(user, moment, _values(reader, orders["item_id"], value, counts))
    elif value is not None:
        raise InputError(f"`value`: there are no orders of the exposed users in {logs} to sum {value} of")
    if not sums["impressions"].after.any():
        raise InputError(
            f"`exposures`: all {len(users)} impressions of the exposed users are earlier than their exposures"
        )
    counts["impressions_after"] = int(sums["impressions"].after.sum())
    counts["impressions_before"] = int(sums["impressions"].before.sum())
    return Outcomes(
        {name: each.after for name, each in sums.items()},
        {name: each.before for name, each in sums.items()} if before_days else {},
        clock.first_day,
        start,
        directory.notice,
        counts,
    )


class _Reader(NamedTuple):
    directory: LogDirectory
    rules: ReadingRules

    def rows(self, name: str, *more: str) -> Iterator[pa.RecordBatch]:
        """The valid rows of a table: the columns that it must have, and some more."""
        table: Table = self.directory.tables[name]
        wanted = [*(rule.name for rule in TABLES[name] if rule.required), *more]
        rejected, total = RejectionSummary(), 0
        with progress_bar(desc=f"reading {name}", unit=" rows", unit_scale=True) as bar:
            for part in table_parts(table):
                for raw in read_part(table, part, wanted):
                    batch = normalise(table, raw, self.rules)
                    rejected.add(batch.rejected)
                    total += len(batch.rows) + len(batch.rejected)
                    bar.update(len(batch.rows))
                    yield batch.rows
        reasons = rejected.by_reason()
        counted = Counter({reason: rows.rows for reason, rows in reasons.items()})
        check_bad_fraction(f"rows of {name}", counted, total, _MAX_BAD, [*map(str, reasons.values())])

    def of_users(self, name: str, exposures: Exposures, *more: str) -> tuple[pa.Table, int]:
        """Rows of exposed users, with their number as `user`, and how many rows there were."""
        found, total = [], 0
        for batch in self.rows(name, *more):
            total += len(batch)
            user = pc.index_in(batch["user_id"], exposures.user_ids)
            table = pa.Table.from_batches([batch]).append_column("user", user)
            found.append(table.filter(pc.is_valid(user)).drop_columns("user_id"))
        if not found:
            raise InputError(f"`logs`: the table {name} has no rows")
        return pa.concat_tables(found), total


class _Sums(NamedTuple):
    after: np.ndarray
    before: np.ndarray


class _Clock:
    """Sorts what users did into days after, and into the time before, their first exposure."""

    def __init__(self, first: np.ndarray, start: int, before: int, days: int | None) -> None:
        self._from = first - _SLACK
        self._before = before
        self._start = start
        self._days = days
        self.first_day = (first - start) // DAY if days is not None else np.zeros(len(first), np.int64)

    def sums(self, user: np.ndarray, moment: np.ndarray, amount: np.ndarray) -> _Sums:
        since = self._from[user]
        n, columns = len(self._from), self._days or 1
        # What the slack lets in before midnight is of the day of the exposure.
        day = np.maximum((moment - self._start) // DAY, self.first_day[user]) if self._days else np.zeros_like(moment)
        kept = (moment >= since) & (day < columns)
        after = np.bincount(user[kept] * columns + day[kept], amount[kept], minlength=n * columns)
        kept = (moment < since) & (moment >= since - self._before)
        return _Sums(after.reshape(n, columns), np.bincount(user[kept], amount[kept], minlength=n))


def _impressions(reader: _Reader, exposures: Exposures) -> tuple[pa.Table, dict[str, Any]]:
    has_converted = "converted" in reader.directory.tables["impressions"].columns
    more = ["converted"] if has_converted else []
    rows, total = reader.of_users("impressions", exposures, *more)
    flags = ["clicked", *more]
    once = rows.group_by(["page_id", "item_id", "user"]).aggregate(
        [*((flag, "max") for flag in flags), ("timestamp", "min")]
    )
    names = {**{f"{flag}_max": flag for flag in flags}, "timestamp_min": "timestamp"}
    once = once.rename_columns([names.get(name, name) for name in once.column_names])
    counts = {
        "impressions": total,
        "impressions_of_others": total - len(rows),
        "impressions_repeated": len(rows) - len(once),
    }
    return once, counts


def _check_overlap(impressions: pa.Table, exposures: Exposures, counts: dict[str, Any]) -> None:
    exposed = len(exposures.user_ids)
    seen = len(pc.unique(impressions["user"]))
    counts["users_in_logs"], counts["users_not_in_logs"] = seen, exposed - seen
    if seen < _MIN_JOINED * exposed:
        raise InputError(
            f"`exposures`: {seen} of {exposed} exposed users have impressions in the logs; exposures and logs must be "
            f"of the same users and days (an exposed user: {exposures.user_ids[0].as_py()[:40]!r})"
        )


def _check_times(impressions: pa.Table, exposures: Exposures) -> int:
    """Compares the times of pages in both logs; returns how many exposed pages the logs have."""
    page = pc.index_in(impressions["page_id"], exposures.page_ids)
    known = impressions.append_column("page", page).filter(pc.is_valid(page))
    shown = known.group_by("page").aggregate([("timestamp", "min")])
    number, moment = shown["page"].to_numpy(), shown["timestamp_min"].to_numpy()
    early = moment < exposures.page_times[number] - _SLACK
    if early.sum() > _MAX_EARLY * len(number):
        at = int(early.argmax())
        exposed = exposures.page_times[number[at]]
        raise InputError(
            f"`exposures`: {early.sum()} of {len(number)} exposed pages are in the logs from before their exposure: "
            f"{exposures.page_ids[int(number[at])].as_py()[:40]!r} was shown {(exposed - moment[at]) / 1000:,.0f} s "
            "earlier; an exposure must have the time of its page, in UTC"
        )
    return len(number)


def _pay_events(reader: _Reader, exposures: Exposures) -> pa.Table | None:
    """The orders of exposed users, if the logs have events of orders at all."""
    if "events" not in reader.directory.tables:
        return None
    rows, _ = reader.of_users("events", exposures)
    orders = rows.filter(pc.equal(rows["event"], "pay"))
    return orders if len(orders) else None


def _check_value(directory: LogDirectory, value: str) -> None:
    numbers = [name for name in directory.tables["items"].columns if name.startswith("stat_")]
    if value not in numbers or find_column("items", value) is None:
        raise InputError(
            f"`value` must be a column stat_* of items. Received: {value} (there are: {', '.join(numbers) or 'none'})"
        )


def _values(reader: _Reader, item_ids: pa.ChunkedArray, value: str, counts: dict[str, Any]) -> np.ndarray:
    table = reader.directory.tables["items"]
    rows = pa.Table.from_batches(reader.rows("items", *(set(table.columns) - {"item_id"})), table.schema())
    items = newest_values("items", rows, Counter())
    prices = items[value].combine_chunks()
    row = pc.index_in(item_ids, items["item_id"].combine_chunks())
    found = prices.take(row.combine_chunks() if isinstance(row, pa.ChunkedArray) else row)
    values = pc.fill_null(found, float("nan")).to_numpy(zero_copy_only=False).astype(np.float64)
    missing = int(np.isnan(values).sum())
    counts["orders_without_value"] = missing
    if missing > (1 - _MIN_VALUED) * len(values):
        raise InputError(f"`value`: {missing} of {len(values)} orders are of items without {value}; at most 5 % may be")
    return np.nan_to_num(values)
