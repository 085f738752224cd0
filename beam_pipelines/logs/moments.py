"""Moments: epoch milliseconds, and how people write them.

A moment is written as an epoch number (`seconds` … `nanoseconds`), as ISO-8601 (`iso`), or as a compact date, named
after its digits (`yyyymmdd` …). Which of them a column has is its unit. Everything is exact: no number passes through a
floating-point type unless the file has it in one.
"""

import datetime
import re
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.errors import InputError

TimestampUnit = Literal[
    "seconds",
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "iso",
    "yyyymmdd",
    "yymmddhh",
    "yyyymmddhh",
    "yyyymmddhhmm",
    "yyyymmddhhmmss",
]
UNITS: tuple[TimestampUnit, ...] = get_args(TimestampUnit)
TIME_FORMS = (
    "epoch seconds, milliseconds, microseconds or nanoseconds, ISO-8601 such as 2026-03-01T12:30:00Z, or a date as "
    "yyyymmdd, yymmddhh, yyyymmddhh, yyyymmddhhmm or yyyymmddhhmmss"
)

_POWER = {"seconds": 3, "milliseconds": 0, "microseconds": -3, "nanoseconds": -6}
"""A number in a unit times ten to this power is in milliseconds."""
_LIMIT = 253_402_300_799_999
"""The end of the year 9999; numbers beyond it, which are a unit mistaken for another, are taken as this moment."""
_EXACT = 2.0**53
"""Below it, a double holds every whole number."""
_DAYS_IN_MONTH = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
_NUMBER = r"^(?P<sign>[+-]?)(?P<whole>\d{1,38})(?:\.(?P<fraction>\d*))?(?:[eE](?P<exponent>[+-]?\d{1,2}))?$"
_ISO_TAIL = r"^(?:[.,](?P<fraction>\d+))?(?: ?(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?))?$"
_LONGEST = 64
"""Bytes of a text that may be a time in ISO-8601."""
_UTC_TAILS = pa.array([b"", b"Z", b" UTC", b"+00:00", b"+00", b"+0000", b" +00:00", b" +0000"])

_REFUSED = {
    r"^\d{1,2}[/.-]\d{1,2}[/.-](\d{2}|\d{4})\b": "a date that does not say which is the day; write year-month-day",
    r"^\d{4}[/.-](\d[/.-]|\d\d[/.-]\d\b)": "a date without leading zeros; write 2026-03-01",
    r"^\d{4}\D.*\d ?[AaPp]\.?[Mm]\.?$": "a time on a clock of 12 hours; write it on one of 24",
    r"^\d{4}\D.*([A-Z]{3,}|\[.+\])$": "a time in a zone that only has a name; write its offset, such as +01:00",
    r"[A-Za-z]{3} \d|\d[ /-][A-Za-z]{3}": "a date with the name of a month; write year-month-day",
    r"^(1[89]|20)\d\d(\.0*)?$": "a year alone; write year-month-day",
    r"^[2-5]\d{4}(\.\d*)?$": "a day number of a spreadsheet; write year-month-day",
}
"""Ways to write times that are not read, and what they are."""


class _Read(NamedTuple):
    """int64 numbers, and bool where they are any."""

    numbers: np.ndarray
    valid: np.ndarray


def default_time_range() -> tuple[int, int]:
    """The moments that logs are plausibly of: from 1995 to the end of next year, in epoch milliseconds, inclusive."""
    next_year = datetime.datetime.now(datetime.UTC).year + 1
    return year_begins(1995), year_begins(next_year + 1) - 1


def year_begins(year: int) -> int:
    """The first moment of a year in UTC, in epoch milliseconds."""
    return int(np.datetime64(f"{year:04d}", "ms").astype(np.int64))


def format_moment(moment: int) -> str:
    """Epoch milliseconds as ISO-8601 in UTC.

    Example:
        >>> format_moment(1_700_000_000_000)
        '2023-11-14T22:13:20Z'
    """
    text = str(np.datetime64(moment, "ms"))
    return f"{text.removesuffix('.000')}Z"


def parse_moment(text: str) -> int | None:
    """A moment in any unit in which it is of a plausible time, or of any time in ISO-8601, as epoch milliseconds.

    Returns:
        The moment; `None` if there is no or more than one way to read it.
    """
    column = pa.array([text])
    if (moment := read_moments(column, "iso", "")[0]).is_valid:
        return cast(int, moment.as_py())
    units = _plausible_units(text)
    return cast(int, read_moments(column, units[0], "")[0].as_py()) if len(units) == 1 else None


def appearance(text: str) -> str | None:
    """What a text that is no time in the expected unit looks like, for errors; `None` if like nothing known.

    Example:
        >>> appearance("1700000000")
        'seconds: 2023-11-14T22:13:20Z'
    """
    found = []
    for unit in _plausible_units(text):
        found.append(f"{unit}: {format_moment(read_moments(pa.array([text]), unit, '')[0].as_py())}")
    found += [name for form, name in _REFUSED.items() if re.search(form, text)]
    return " or ".join(found) or None


def _plausible_units(text: str) -> list[TimestampUnit]:
    column = pa.array([text])
    first, last = default_time_range()
    moments = {unit: read_moments(column, unit, "")[0].as_py() for unit in UNITS}
    return [unit for unit, moment in moments.items() if moment is not None and first <= moment <= last]


def read_moments(column: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
    """Reads a column of times.

    Args:
        column: of a date type, which says its unit itself; or numbers or texts. Without a zone they are in UTC.
        unit: of numbers and texts.
        where: the column's name, for errors.

    Returns:
        Epoch milliseconds, rounded down; null where a value does not have the form of the unit. They are of any time.

    Raises:
        InputError: the type cannot be read as times, or does not hold times in this unit exactly.
    """
    kind = column.type
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(kind):
        power = {"s": 3, "ms": 0, "us": -3, "ns": -6}[kind.unit]
        read = _scaled(_Read(_integers(column.cast(pa.int64())), valid), power)
    elif pa.types.is_date(kind):
        days = _integers(column.cast(pa.date32()).cast(pa.int32())).astype(np.int64)
        read = _Read(days * 86_400_000, valid)
    elif pa.types.is_null(kind):
        read = _Read(np.zeros(len(column), np.int64), valid)
    elif _is_text(kind) or pa.types.is_decimal(kind):
        text = pc.ascii_trim_whitespace(column.cast(pa.string()))
        read = _iso(text) if unit == "iso" else _from_text(text, unit)
    elif unit == "iso" and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        read = _Read(np.zeros(len(column), np.int64), np.zeros(len(column), bool))
    elif pa.types.is_integer(kind):
        read = _from_integers(_clipped(column), valid, unit)
    elif pa.types.is_floating(kind):
        if kind != pa.float64() or unit == "nanoseconds":
            raise InputError(
                f"{where} has type {kind}, which cannot hold times exactly, so that different moments become "
                "one; store times as int64, as text or as a date type"
            )
        read = _from_doubles(column.to_numpy(zero_copy_only=False), unit)
    else:
        raise InputError(f"{where} has type {kind}, which cannot be read as a time")
    return pa.array(read.numbers, mask=~read.valid)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _integers(column: pa.Array) -> np.ndarray:
    return pc.fill_null(column, 0).to_numpy(zero_copy_only=False)


def _clipped(column: pa.Array) -> np.ndarray:
    """Integers of any type as int64; what is too large for it becomes the largest."""
    numbers = _integers(column)
    if numbers.dtype == np.uint64:
        numbers = np.minimum(numbers, np.uint64(np.iinfo(np.int64).max))
    return numbers.astype(np.int64)


def _scaled(read: _Read, power: int) -> _Read:
    """Numbers times ten to a power, rounded down, no further from 1970 than the year 9999."""
    factor = 10 ** abs(power)
    if power < 0:
        return _Read(np.clip(read.numbers // factor, -_LIMIT, _LIMIT), read.valid)
    bound = _LIMIT // factor
    moments = np.clip(read.numbers, -bound - 1, bound + 1) * factor
    return _Read(np.clip(moments, -_LIMIT, _LIMIT), read.valid)


def _from_integers(numbers: np.ndarray, valid: np.ndarray, unit: TimestampUnit) -> _Read:
    if unit in _POWER:
        return _scaled(_Read(numbers, valid), _POWER[unit])
    return _compact(_Read(numbers, valid), unit)


def _from_doubles(numbers: np.ndarray, unit: TimestampUnit) -> _Read:
    """Doubles hold microseconds of today exactly, so they are counted in these before they are rounded down."""
    valid = np.isfinite(numbers)
    numbers = np.where(valid, numbers, 0.0)
    if unit in _POWER:
        microseconds = np.clip(numbers, -1e18, 1e18) * 10.0 ** (_POWER[unit] + 3)
        microseconds = np.clip(microseconds, -1000.0 * _LIMIT, 1000.0 * _LIMIT)
        return _scaled(_Read(np.rint(microseconds).astype(np.int64), valid), -3)
    valid &= (numbers == np.floor(numbers)) & (np.abs(numbers) < _EXACT)
    return _compact(_Read(np.where(valid, numbers, 0.0).astype(np.int64), valid), unit)


def _from_text(text: pa.Array, unit: TimestampUnit) -> _Read:
    digits = pc.and_(pc.ascii_is_decimal(text), pc.less_equal(pc.binary_length(text), 18))
    plain = pc.fill_null(digits, False).to_numpy(zero_copy_only=False)
    numbers = np.zeros(len(text), np.int64)
    numbers[plain] = text.filter(pa.array(plain)).cast(pa.int64()).to_numpy(zero_copy_only=False)
    read = _from_integers(numbers, plain, unit)
    others = ~plain & text.is_valid().to_numpy(zero_copy_only=False)
    if others.any():
        rest = text.filter(pa.array(others))
        if unit in _POWER:
            few, _ = _decimals(rest, _POWER[unit])
        else:
            whole, exact = _decimals(rest, 0)
            few = _compact(_Read(whole.numbers, exact), unit)
        read.numbers[others], read.valid[others] = few
    return read


def _decimals(text: pa.Array, power: int) -> tuple[_Read, np.ndarray]:
    """Numbers with a fraction or an exponent times ten to a power, rounded down; and where that lost nothing."""
    parts = pc.extract_regex(text, _NUMBER)
    valid = parts.is_valid().to_numpy(zero_copy_only=False)
    sign, whole, fraction, exponent = (
        pc.fill_null(parts.field(name), "") for name in ("sign", "whole", "fraction", "exponent")
    )
    fraction = pc.utf8_slice_codeunits(fraction, 0, 18)
    digits = pc.utf8_ltrim(pc.binary_join_element_wise(whole, fraction, ""), "0")
    length = pc.binary_length(digits).to_numpy(zero_copy_only=False).astype(np.int64)
    digits = pc.if_else(pc.equal(digits, ""), "0", pc.utf8_slice_codeunits(digits, 0, 18))
    numbers = digits.cast(pa.int64()).to_numpy(zero_copy_only=False)
    numbers = np.where(pc.equal(sign, "-").to_numpy(zero_copy_only=False), -numbers, numbers)
    exponents = pc.if_else(pc.equal(exponent, ""), "0", pc.utf8_ltrim(exponent, "+")).cast(pa.int64())
    powers = power + exponents.to_numpy(zero_copy_only=False) + np.maximum(length - 18, 0)
    powers -= pc.binary_length(fraction).to_numpy(zero_copy_only=False)
    up, down = 10 ** np.clip(powers, 0, 18), 10 ** np.clip(-powers, 0, 18)
    bound = np.iinfo(np.int64).max // up
    scaled = np.clip(numbers, -bound, bound) * up // down
    read = _Read(np.clip(scaled, -_LIMIT, _LIMIT), valid)
    return read, valid & (numbers % down == 0) & (np.abs(numbers) <= bound)


def _compact(read: _Read, unit: TimestampUnit) -> _Read:
    """Numbers whose decimal digits are those of a date."""
    rest, fields = read.numbers, dict.fromkeys(("hh", "mm", "ss"), np.zeros(len(read.numbers), np.int64))
    date = "yyyymmdd" if unit.startswith("yyyy") else "yymmdd"
    clock = unit.removeprefix(date)
    for name in ("ss", "mm", "hh"):
        if name in clock:
            rest, fields[name] = rest // 100, rest % 100
    year, month, day = rest // 10_000, rest // 100 % 100, rest % 100
    in_form = (year >= 1000) & (year <= 9999) if date == "yyyymmdd" else (year >= 0) & (year <= 99)
    moments = _moments(year if date == "yyyymmdd" else 2000 + year, month, day, **fields)
    return _Read(moments.numbers, moments.valid & in_form & read.valid)


def _moments(
    year: np.ndarray,
    month: np.ndarray,
    day: np.ndarray,
    hh: np.ndarray | int = 0,
    mm: np.ndarray | int = 0,
    ss: np.ndarray | int = 0,
) -> _Read:
    """Moments of the calendar, in UTC."""
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    in_year = (month >= 1) & (month <= 12)
    month = np.where(in_year, month, 1)
    days_in_month = _DAYS_IN_MONTH[month] + (leap & (month == 2))
    valid = in_year & (day >= 1) & (day <= days_in_month) & (hh < 24) & (mm < 60) & (ss < 60)
    months = np.clip((year - 1970) * 12 + month - 1, -24_000, 100_000)
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    seconds = ((first + day - 1) * 24 + hh) * 3600 + mm * 60 + ss
    return _Read(np.where(valid, seconds * 1000, 0), valid)


def _iso(text: pa.Array) -> _Read:
    """ISO-8601: `-` or `/` between the parts of the date, `T` or a space before the time, a zone or none."""
    column = text.cast(pa.binary())
    length = pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
    read = _Read(np.zeros(len(text), np.int64), np.zeros(len(text), bool))
    for width, chosen in ((10, length == 10), (19, (length >= 19) & (length <= _LONGEST))):
        if chosen.any():
            read.numbers[chosen], read.valid[chosen] = _fixed_iso(column.filter(pa.array(chosen)), width)
    others = (length > 0) & (length <= _LONGEST) & ~read.valid
    if others.any():  # without seconds or minutes, or without separators
        rest = text.filter(pa.array(others))
        full = pc.replace_substring_regex(
            rest, r"^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)([^\d].*)?$", r"\1-\2-\3T\4:\5:\6\7"
        )
        full = pc.replace_substring_regex(full, r"^([\d/-]{10}[T ]\d\d)( ?[A-Z+-].*)?$", r"\1:00\2")
        full = pc.replace_substring_regex(full, r"^([\d/-]{10}[T ]\d\d:\d\d)( ?[A-Z+-].*)?$", r"\1:00\2")
        changed = pc.not_equal(full, rest).to_numpy(zero_copy_only=False)
        if changed.any():
            place = np.flatnonzero(others)[changed]
            full = full.filter(pa.array(changed)).cast(pa.binary())
            read.numbers[place], read.valid[place] = _fixed_iso(full, 19)
    return read


def _fixed_iso(column: pa.Array, width: int) -> _Read:
    """Texts that begin with a date of 10 bytes, or a date and time of 19."""
    head = pc.binary_slice(column, 0, width)
    try:  # Arrow reads most of what people write, and several times faster, but stops at the first value that it cannot
        text = head.cast(pa.string())
        seconds = text.cast(pa.date32()).cast(pa.timestamp("s")) if width == 10 else text.cast(pa.timestamp("s"))
        read = _Read(1000 * seconds.cast(pa.int64()).to_numpy(), np.ones(len(column), bool))
    except pa.ArrowInvalid:
        read = _calendar_iso(head, width)
    if width == 10:
        return read
    after = _iso_tail(pc.binary_slice(column, width, _LONGEST))
    return _Read(read.numbers + after.numbers, read.valid & after.valid)


def _calendar_iso(head: pa.Array, width: int) -> _Read:
    """The same for any bytes, digit by digit."""
    data = np.frombuffer(head.cast(pa.binary(width)).buffers()[1], np.uint8)
    characters = np.ascontiguousarray(data[: len(head) * width].reshape(-1, width).T)
    digits = [c for c in range(width) if c not in (4, 7, 10, 13, 16)]
    values = characters - ord("0")
    valid = (values[digits] <= 9).all(0)
    separator = characters[4]
    valid &= ((separator == ord("-")) | (separator == ord("/"))) & (characters[7] == separator)

    def number(*places: int) -> np.ndarray:
        total = np.zeros(len(head), np.int64)
        for place in places:
            total = 10 * total + values[place]
        return total

    clock = {}
    if width > 10:
        valid &= (characters[10] == ord("T")) | (characters[10] == ord(" "))
        valid &= (characters[13] == ord(":")) & (characters[16] == ord(":"))
        clock = {"hh": number(11, 12), "mm": number(14, 15), "ss": number(17, 18)}
    moments = _moments(number(0, 1, 2, 3), number(5, 6), number(8, 9), **clock)
    return _Read(moments.numbers, moments.valid & valid)


def _iso_tail(tail: pa.Array) -> _Read:
    """What is to be added, in milliseconds, for a fraction of a second and a zone."""
    valid = pc.is_in(tail, _UTC_TAILS).to_numpy(zero_copy_only=False)
    added = np.zeros(len(tail), np.int64)
    others = ~valid
    if others.any():
        text = tail.filter(pa.array(others)).cast(pa.string(), safe=False)
        parts = pc.extract_regex(text, _ISO_TAIL)
        fraction = pc.utf8_slice_codeunits(pc.fill_null(parts.field("fraction"), ""), 0, 3)
        milliseconds = pc.utf8_rpad(fraction, 3, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
        zone = pc.fill_null(parts.field("zone"), "").dictionary_encode()
        offsets = np.array([_zone_offset(name) for name in zone.dictionary.to_pylist()], np.int64)
        offset = offsets[zone.indices.to_numpy(zero_copy_only=False)]
        added[others] = milliseconds - offset
        valid[others] = parts.is_valid().to_numpy(zero_copy_only=False) & (np.abs(offset) < 86_400_000)
    return _Read(added, valid)


def _zone_offset(zone: str) -> int:
    """Milliseconds that a zone is ahead of UTC; a whole day if there is no such zone."""
    if zone[:1] not in ("+", "-"):
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:].removeprefix(":") or "0")
    if hours > 23 or minutes > 59:
        return 86_400_000
    return (1 if zone[0] == "+" else -1) * (60 * hours + minutes) * 60_000
