"""The units of the times in a log, each column's found from samples of its files."""

import datetime
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.logs.contract import TIME_COLUMNS, Table
from beam_pipelines.logs.file_reader import read_part, table_parts
from beam_pipelines.logs.moments import (
    TIME_FORMS,
    UNITS,
    TimestampUnit,
    appearance,
    default_time_range,
    format_moment,
    read_moments,
    year_begins,
)
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.rejections import shown
from beam_pipelines.logs.values import present_values

_FILES = 8
_VALUES = 20_000
_SHARE = 0.9
"""Of the values that are plausible times in some unit, those that must be so in a column's unit."""
_DIGITS_OF_FLOAT32 = 9
_FIRST_NUMBER = 1980
"""From this year on, the numbers of no two units are the same."""


class DetectedUnit(NamedTuple):
    """The unit of a column.

    Attributes:
        unit: it; `iso` for a date type, which is shown like this.
        value, moment: an example from the files, and what it is in epoch milliseconds; `None` if none could be read.
        told: whether the unit was told, not found.
    """

    unit: TimestampUnit
    value: str | None
    moment: int | None
    told: bool

    def __str__(self) -> str:
        example = f", e.g. {self.value} is {format_moment(self.moment)}" if self.moment is not None else ""
        return f"{self.unit} ({'told' if self.told else 'detected'}{example})"


def detect_units(tables: Mapping[str, Table], rules: ReadingRules) -> dict[str, DetectedUnit]:
    """Finds the unit of each column of times.

    Args:
        tables: of the logs.
        rules: how values are read; their units are those that were told.

    Returns:
        `TABLE.COLUMN` to its unit. Columns without any value that were not told one are left out.

    Raises:
        InputError: the values of a column are plausible in no unit, in more than one, or some in one and some in
            another; or the type of a column cannot hold its times.
    """
    found = {}
    for name in TIME_COLUMNS:
        table, column = name.split(".")
        if table not in tables or column not in tables[table].columns:
            continue
        sample = list(_sample(tables[table], column, rules))
        told = rules.units.get(name)
        if sample or told:
            _check_digits(name, sample)
            unit = told or _detect(name, sample, rules.range_of(table))
            found[name] = DetectedUnit(unit, *_example(name, sample, unit), told is not None)
    return found


def _sample(table: Table, column: str, rules: ReadingRules) -> Iterator[tuple[Location, pa.Array]]:
    """Values of some files, evenly spread; of each from the first batch that has any."""
    by_file = {path: list(parts) for path, parts in itertools.groupby(table_parts(table), key=lambda part: part.path)}
    paths = list(by_file)
    chosen = [paths[place] for place in _spread(len(paths), _FILES)]
    for path in chosen:
        for raw in (raw for part in by_file[path] for raw in read_part(table, part, [column])):
            if column not in raw.rows.schema.names:
                break
            values = present_values("timestamp", raw.rows.column(column), rules)
            if len(values):
                yield path, values.take(pa.array(_spread(len(values), _VALUES)))
                break


def _check_digits(name: str, sample: list[tuple[Location, pa.Array]]) -> None:
    """Refuses times in powers of ten of which no more digits are left than a spreadsheet or float32 shows."""
    for path, column in sample:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        powers = column.filter(pc.match_substring_regex(column, r"^\s*\d[.\d]*[eE]\+?\d{1,2}\s*$")).to_pylist()
        digits = [(len(mantissa.replace(".", "")), int(power)) for mantissa, power in map(_split_power, powers)]
        if digits and max(digits)[0] <= min(_DIGITS_OF_FLOAT32, max(power for _, power in digits)):
            raise InputError(
                f"{path}: {name} has times such as '{powers[0].strip()}', whose last digits are lost; store times as "
                "whole numbers, as ISO-8601 or as a date type"
            )


def _split_power(text: str) -> tuple[str, str]:
    mantissa, power = re.split("[eE]", text.strip())
    return mantissa, power


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many of the numbers from 0 to `count`, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _detect(name: str, sample: list[tuple[Location, pa.Array]], time_range: tuple[int, int]) -> TimestampUnit:
    first, last = time_range
    narrow = max(first, year_begins(_FIRST_NUMBER)), min(last, default_time_range()[1])
    for numbers_range in (narrow, time_range):
        hits = _plausible(name, sample, numbers_range, time_range)
        if total := int(np.logical_or.reduce(list(hits.values())).sum()):
            break
    else:
        raise InputError(_unreadable(name, sample, time_range))
    counts = {unit: int(mask.sum()) for unit, mask in hits.items() if mask.any()}
    fitting = [unit for unit, count in counts.items() if count >= _SHARE * total]
    if len(fitting) == 1:
        return fitting[0]
    values = np.concatenate([np.array(_texts(column), object) for _, column in sample])
    seen = []
    for unit in fitting or sorted(counts, key=lambda unit: -counts[unit])[:3]:
        value = str(values[hits[unit]][0])
        moment = read_moments(pa.array([value]), unit, name)[0].as_py()
        seen.append(f"{'' if fitting else f'{counts[unit]} '}{unit} ('{value}' is {format_moment(moment)})")
    if fitting:
        raise InputError(f"{name} can be read as {' or '.join(seen)}; pass `timestamp_unit` {name}=UNIT")
    raise InputError(f"{name} mixes units: of {total} sampled values, {', '.join(seen)}; store them alike")


def _plausible(
    name: str, sample: list[tuple[Location, pa.Array]], numbers_range: tuple[int, int], dates_range: tuple[int, int]
) -> dict[TimestampUnit, np.ndarray]:
    """Which of the sampled values are plausible times in each unit."""
    hits = {}
    for unit in UNITS:
        first, last = numbers_range if unit.endswith("seconds") else dates_range
        masks = []
        for path, column in sample:
            if pa.types.is_floating(column.type) and unit == "nanoseconds":
                column = pc.floor(column).cast(pa.int64(), safe=False)  # whether or not it holds them exactly
            if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
                masks.append(np.full(len(column), unit == "iso"))
                continue
            moments = read_moments(column, unit, f"{path}: {name}")
            in_range = pc.and_(pc.greater_equal(moments, first), pc.less_equal(moments, last))
            masks.append(pc.fill_null(in_range, False).to_numpy(zero_copy_only=False))
        hits[unit] = np.concatenate(masks)
    return hits


def _example(name: str, sample: list[tuple[Location, pa.Array]], unit: TimestampUnit) -> tuple[str | None, int | None]:
    for path, column in sample:
        moments = read_moments(column, unit, f"{path}: {name}")
        if moments.null_count < len(moments):
            place = pc.index(moments.is_valid(), True).as_py()
            return shown("timestamp", _texts(column.slice(place, 1))[0]), moments[place].as_py()
    return None, None


def _unreadable(name: str, sample: list[tuple[Location, pa.Array]], time_range: tuple[int, int]) -> str:
    values = list(dict.fromkeys(text for _, column in sample for text in _texts(column.slice(0, 100))))[:2]
    looks = [look for value in values if (look := appearance(value))]
    such = " and ".join(f"'{shown('timestamp', value)}'" for value in values)
    first, last = (datetime.datetime.fromisoformat(format_moment(moment)).date() for moment in time_range)
    return (
        f"{name} has no times that can be read, but {such}{f' (looks like {looks[0]})' if looks else ''}; "
        f"accepted: {TIME_FORMS}, from {first} to {last} (`time_range`)"
    )


def _texts(column: pa.Array) -> list[str]:
    if pa.types.is_floating(column.type):  # without an exponent
        return [f"{value:.3f}".rstrip("0").rstrip(".") for value in column.to_pylist()]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit))
    texts: list[str] = column.cast(pa.string()).to_pylist()
    return texts
