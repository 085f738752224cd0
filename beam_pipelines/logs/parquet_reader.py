"""Reads Parquet files; text comes as text, however it is stored."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, is_remote
from beam_pipelines.format.remote_file import RemoteFile
from beam_pipelines.logs.raw_batch import RawBatch, make_rows

BATCH_ROWS = 1 << 17


def parquet_types(path: Location) -> tuple[dict[str, pa.DataType], int]:
    """The columns of a file and their types, and the number of its row groups.

    Raises:
        InputError: two columns have one name.
    """
    with _open(path) as file:
        schema, row_groups = file.schema.to_arrow_schema(), file.num_row_groups
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise InputError(f"{path}: two columns are named {name!r}; rename or remove one")
    return dict(zip(schema.names, schema.types, strict=True)), row_groups


def _open(path: Location) -> pq.ParquetFile:
    """A remote file is read as few large ranges: what is wanted of a row group, and the end that says where that is."""
    return pq.ParquetFile(
        RemoteFile(path) if is_remote(path) else path,
        pre_buffer=is_remote(path),
        coerce_int96_timestamp_unit="us",
        page_checksum_verification=True,
    )


def is_readable(kind: pa.DataType) -> bool:
    """Whether a column of a type can be read: text, numbers, flags and times can, also as dictionaries."""
    kind = _plain(kind)
    return (
        _is_text(kind)
        or _is_bytes(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_date(kind)
        or pa.types.is_null(kind)
    )


def read_row_group(path: Location, row_group: int, columns: Mapping[str, str]) -> Iterator[RawBatch]:
    """Reads a row group of a file.

    Args:
        path: the file.
        row_group: its number.
        columns: new names of the columns wanted to those in the file.

    Raises:
        InputError: a column holds bytes that are no text, or the row group has not as many rows as the file says.
    """
    with _open(path) as file:
        before = sum(file.metadata.row_group(group).num_rows for group in range(row_group))
        expected = file.metadata.row_group(row_group).num_rows
        first = before + 1
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[row_group], columns=list(columns.values())):
            arrays = {
                column: _readable_array(batch.column(name), f"{path}: column {name!r}")
                for column, name in columns.items()
            }
            rows = make_rows(arrays, len(batch))
            yield RawBatch(rows, [], path, np.arange(first, first + len(batch)), len(batch), 0)
            first += len(batch)
        if first - before - 1 != expected:
            raise InputError(f"{path}: row group {row_group} has {first - before - 1} rows, not {expected} as it says")


def _plain(kind: pa.DataType) -> pa.DataType:
    while isinstance(kind, (pa.BaseExtensionType, pa.DictionaryType)):
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
    return kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _readable_array(array: pa.Array, where: str) -> pa.Array:
    """A column as strings, numbers, flags or times; a dictionary stays one."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        if pa.types.is_string(array.type.value_type):
            _check_text(array.dictionary, where)
            return array
        array = array.dictionary_decode()
        return _readable_array(array, where)
    kind = array.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16 and not _holds_ascii(array):
        return _uuids(array)
    if _is_text(kind) or _is_bytes(kind):
        try:
            if not pa.types.is_string(kind):
                array = array.cast(pa.string())
            _check_text(array, where)
        except pa.ArrowInvalid as error:
            raise InputError(f"{where} of type {kind} holds bytes that are not UTF-8 text") from error
        return array
    if pa.types.is_decimal(kind) and kind.scale <= 0:
        return array.cast(pa.decimal256(76, 0)).cast(pa.string())
    return array


def _check_text(array: pa.Array, where: str) -> None:
    """Arrow takes the word of a file that its strings are UTF-8."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"{where} holds text that is not UTF-8") from error


def _holds_ascii(array: pa.Array) -> bool:
    """Whether values are printable text and not random bytes, as those of UUIDs are."""
    values = np.frombuffer(b"".join(value for value in array.drop_null().to_pylist()), np.uint8)
    return bool(((values >= 0x20) & (values < 0x7F)).all())


def _uuids(array: pa.Array) -> pa.Array:
    """UUIDs in their usual form of 36 characters."""
    text = [None if value is None else value.hex() for value in array.to_pylist()]
    pattern = r"(.{8})(.{4})(.{4})(.{4})(.{12})"
    return pc.replace_substring_regex(pa.array(text, pa.string()), pattern, r"\1-\2-\3-\4-\5")
