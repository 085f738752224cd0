"""Reads a column of the logs, of whatever Arrow type, as what the contract says it is; what cannot be read is null."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location
from beam_pipelines.format.manifest import SPLITS
from beam_pipelines.logs.contract import EVENTS, FLAGS, Kind
from beam_pipelines.logs.moments import read_moments
from beam_pipelines.logs.reading_rules import ReadingRules

_AS_WRITTEN = ("id", "text", "path")
"""Kinds whose values keep the spaces around them."""
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"


class ReadValues(NamedTuple):
    """A column as it was read.

    Attributes:
        values: as `contract.ARROW_TYPES[kind]`, null where there is none or it is not of that kind.
        missing: bool: where there is none: null, not a number, blank, or a marker of a missing value.
        markers: how many are such markers.
    """

    values: pa.Array
    missing: pa.Array
    markers: int


def read_values(kind: Kind, column: pa.Array, rules: ReadingRules, name: str, path: Location) -> ReadValues:
    """Reads a column.

    Args:
        kind: what the values must be.
        column: as it is in the file.
        rules: how values are read.
        name: the column's, as `TABLE.COLUMN`.
        path: the file, for errors.

    Returns:
        What was read. Times are of any time, also of one that `rules` do not allow.

    Raises:
        InputError: the whole column has an impossible type.
    """
    column = _decoded(column)
    where = f"{path}: {name}"
    try:
        trimmed, missing, markers = _missing(column, rules.markers(kind))
        column = column if kind in _AS_WRITTEN else trimmed
        if missing.true_count > column.null_count:
            column = pc.if_else(missing, pa.scalar(None, column.type), column)
        if kind == "timestamp":
            return ReadValues(read_moments(column, rules.units.get(name, "iso"), where), missing, markers)
        return ReadValues(_READERS[kind](column, where), missing, markers)
    except pa.ArrowException as error:
        raise InputError(f"{where} has type {column.type}, which cannot be read as {kind}") from error


def present_values(kind: Kind, column: pa.Array, rules: ReadingRules) -> pa.Array:
    """The values of a column that are not missing, as they are in the file."""
    column = _decoded(column)
    _, missing, _ = _missing(column, rules.markers(kind))
    return column.filter(pc.invert(missing))


def _decoded(column: pa.Array) -> pa.Array:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _missing(column: pa.Array, markers: Collection[str]) -> tuple[pa.Array, pa.Array, int]:
    """A column without spaces around its texts, where it has no value, and how many of these are markers."""
    kind = column.type
    missing = pc.is_null(column, nan_is_null=pa.types.is_floating(kind))
    if _is_text(kind):
        text = column = pc.utf8_trim_whitespace(column)
        length = pc.binary_length(text)
        missing = pc.or_(missing, pc.fill_null(pc.equal(length, 0), True))
        longest = max((len(marker.encode()) for marker in markers), default=0)
        if (pc.min(length).as_py() or 0) > longest:  # most columns have no text that short, and this is soon seen
            return column, missing, 0
    else:  # only a number can be a marker, one that a user has named
        markers = [marker for marker in markers if marker.removeprefix("-").isdecimal()]
        if not markers or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return column, missing, 0
        text = column.cast(pa.string())
    is_marker = pc.is_in(text, value_set=pa.array(markers, text.type))
    return column, pc.or_(missing, is_marker), is_marker.true_count


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _texts(column: pa.Array, where: str) -> pa.Array:
    return column.cast(pa.string())


def _ids(column: pa.Array, where: str) -> pa.Array:
    kind = column.type
    whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)
    if not (_is_text(kind) or whole or pa.types.is_null(kind)):
        raise InputError(f"{where} has type {kind}; store IDs as strings (or integers)")
    return column.cast(pa.string())


def _numbers(column: pa.Array, where: str) -> pa.Array:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif _is_text(kind):
        if pc.ascii_is_decimal(column).false_count:  # most are whole numbers, and that is soon seen
            column = _where(pc.match_substring_regex(column, _NUMBER), column)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return pa.nulls(len(column), pa.float64())
    number = column.cast(pa.float64(), safe=False)
    return _where(pc.is_finite(number), number)


def _statistics(column: pa.Array, where: str) -> pa.Array:
    """Models compute in float32."""
    number = _numbers(column, where)
    return _where(pc.less_equal(pc.abs(number), float(np.finfo(np.float32).max)), number)


def _amounts(column: pa.Array, where: str) -> pa.Array:
    number = pc.add(_numbers(column, where), 0.0)  # there is one zero: -0.0 + 0.0 == 0.0
    fits = pc.and_(pc.greater_equal(number, 0.0), pc.less(number, 1e38))
    return _where(fits, number).cast(pa.float32(), safe=False)


def _counts(column: pa.Array, where: str) -> pa.Array:
    number = _numbers(column, where)
    exact = pc.and_(
        pc.equal(pc.floor(number), number), pc.and_(pc.greater_equal(number, 0.0), pc.less(number, 2.0**53))
    )
    return _where(exact, number).cast(pa.int64())


def _flags(column: pa.Array, where: str) -> pa.Array:
    number = _numbers(column, where)
    flag = pc.equal(_where(pc.or_(pc.equal(number, 0.0), pc.equal(number, 1.0)), number), 1.0)
    if _is_text(column.type) and flag.null_count > column.null_count:
        word = pc.utf8_lower(column.cast(pa.string()))
        written = pc.index_in(word, value_set=pa.array(list(FLAGS)))
        flag = pc.coalesce(flag, pc.take(pa.array(list(FLAGS.values())), written))
    return flag


def _one_of(allowed: Collection[str]) -> Callable[[pa.Array, str], pa.Array]:
    def read(column: pa.Array, where: str) -> pa.Array:
        text = column.cast(pa.string())
        return _where(pc.is_in(text, value_set=pa.array(allowed)), text)

    return read


def _where(mask: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(mask, values, pa.scalar(None, values.type))


_READERS: dict[Kind, Callable[[pa.Array, str], pa.Array]] = {
    "id": _ids,
    "count": _counts,
    "flag": _flags,
    "amount": _amounts,
    "event": _one_of(EVENTS),
    "split": _one_of(SPLITS),
    "text": _texts,
    "path": _texts,
    "statistic": _statistics,
}
