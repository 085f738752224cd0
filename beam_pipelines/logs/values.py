"""Reads a column of the logs, of whatever Arrow type, as what the contract says it is; what cannot be read is null."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import SPLITS
from beam_pipelines.logs.contract import EVENTS, Kind
from beam_pipelines.logs.moments import LATEST_TIMESTAMP, TimestampUnit, parse_iso


def read_values(kind: Kind, column: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
    """Reads a column as `contract.ARROW_TYPES[kind]`.

    Args:
        kind: what the values must be.
        column: as it is in the file.
        unit: of timestamps that are not of a date type.
        where: the column's name, for errors.

    Returns:
        The values, null where there is none or it is not of that kind.

    Raises:
        InputError: the whole column has an impossible type.
    """
    try:
        return _READERS[kind](column, unit, where)
    except pa.ArrowException as error:
        raise InputError(f"{where} has type {column.type}, which cannot be read as {kind}") from error


def is_empty(array: pa.Array) -> pa.Array:
    """Where a column has no value: null, not a number, or the empty string."""
    array = _decoded(array)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return pc.equal(pc.fill_null(pc.utf8_length(array), 0), 0)
    return pc.is_null(array, nan_is_null=pa.types.is_floating(array.type))


def _decoded(array: pa.Array) -> pa.Array:
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def _texts(array: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
    return _decoded(array).cast(pa.string())


def _ids(array: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
    array = _decoded(array)
    kind = array.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise InputError(f"{where} has type {kind}; store IDs as strings (or integers)")
    text = array.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _numbers(array: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
    array = _decoded(array)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        text = pc.utf8_trim_whitespace(array.cast(pa.string()))
        numeric = pc.match_substring_regex(text, r"^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
        array = pc.if_else(numeric, text, pa.scalar(None, pa.string()))
    elif not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)):
        return pa.nulls(len(array), pa.float64())
    number = array.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_finite(number), number, pa.scalar(None, pa.float64()))


def _amounts(array: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
    number = _numbers(array, unit, where)
    number = pc.add(number, 0.0)  # there is one zero: -0.0 + 0.0 == 0.0
    fits = pc.and_(pc.greater_equal(number, 0.0), pc.less(number, 1e38))
    return pc.if_else(fits, number, pa.scalar(None, pa.float64())).cast(pa.float32(), safe=False)


def _counts(array: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
    number = _numbers(array, unit, where)
    exact = pc.and_(
        pc.equal(pc.floor(number), number), pc.and_(pc.greater_equal(number, 0.0), pc.less(number, 2.0**53))
    )
    return pc.if_else(exact, number, pa.scalar(None, pa.float64())).cast(pa.int64())


def _flags(array: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
    array = _decoded(array)
    number = _numbers(array, unit, where)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        word = pc.utf8_lower(pc.utf8_trim_whitespace(array.cast(pa.string())))
        number = pc.if_else(pc.equal(word, "true"), 1.0, pc.if_else(pc.equal(word, "false"), 0.0, number))
    is_flag = pc.or_(pc.equal(number, 0.0), pc.equal(number, 1.0))
    return pc.equal(pc.if_else(is_flag, number, pa.scalar(None, pa.float64())), 1.0)


def _one_of(allowed: Sequence[str]) -> Callable[[pa.Array, TimestampUnit, str], pa.Array]:
    def read(array: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
        text = _texts(array, unit, where)
        return pc.if_else(pc.is_in(text, pa.array(allowed)), text, pa.scalar(None, pa.string()))

    return read


def _timestamps(array: pa.Array, unit: TimestampUnit, where: str) -> pa.Array:
    array = _decoded(array)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        milliseconds = array.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    elif unit == "iso":
        milliseconds = _iso(array.cast(pa.string()))
    else:
        number = _numbers(array, unit, where)
        number = pc.round(pc.multiply(number, 1000.0)) if unit == "seconds" else number
        fits = pc.and_(pc.greater_equal(number, 0.0), pc.less_equal(number, float(LATEST_TIMESTAMP)))
        milliseconds = pc.if_else(fits, pc.floor(number), pa.scalar(None, pa.float64())).cast(pa.int64())
    valid = pc.and_(pc.greater_equal(milliseconds, 0), pc.less_equal(milliseconds, LATEST_TIMESTAMP))
    return pc.if_else(valid, milliseconds, pa.scalar(None, pa.int64()))


def _iso(text: pa.Array) -> pa.Array:
    """ISO-8601 strings to epoch milliseconds; without a zone they mean UTC."""
    text = pc.utf8_trim_whitespace(text)
    zoned = pc.match_substring_regex(text, r"[T ].*(Z|[+-]\d\d(:?\d\d)?)$")
    absent = pa.scalar(None, pa.string())
    try:
        in_zone = pc.if_else(zoned, text, absent).cast(pa.timestamp("us", "UTC"))
        local = pc.if_else(zoned, absent, text).cast(pa.timestamp("us"))
    except pa.ArrowInvalid:  # some value is no timestamp: find out which, one by one
        return pa.array([parse_iso(value) for value in text.to_pylist()], pa.int64())
    microseconds = pc.coalesce(in_zone.cast(pa.int64()), local.cast(pa.int64()))
    return pc.floor(pc.divide(microseconds.cast(pa.float64()), 1000.0)).cast(pa.int64())


_READERS = {
    "id": _ids,
    "timestamp": _timestamps,
    "count": _counts,
    "flag": _flags,
    "amount": _amounts,
    "event": _one_of(EVENTS),
    "split": _one_of(SPLITS),
    "text": _texts,
    "statistic": _numbers,
}
