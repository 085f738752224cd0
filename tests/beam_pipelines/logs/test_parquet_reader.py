import datetime
import decimal
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.directory import find_tables
from beam_pipelines.logs.file_reader import read_part, table_parts
from beam_pipelines.logs.parquet_reader import read_row_group
from tests.beam_pipelines.logs.log_files import IMPRESSIONS, write

UUIDS = [uuid.UUID(int=7), uuid.UUID("12345678-1234-5678-1234-567812345678")]
MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5)


def read(path, group=0):
    (batch,) = read_row_group(path, group, {"value": "column"})
    return batch.rows.column("value"), batch


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([u.bytes for u in UUIDS], pa.uuid()), list(map(str, UUIDS))),
        (pa.array([u.bytes for u in UUIDS], pa.binary(16)), list(map(str, UUIDS))),
        (pa.array([b"0123456789abcdef", None], pa.binary(16)), ["0123456789abcdef", None]),
        (pa.array([b"abc", b"007"], pa.binary(3)), ["abc", "007"]),
        (pa.array(["é".encode(), None], pa.binary()), ["é", None]),
        (pa.array([b"a", b"b"], pa.large_binary()), ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([b"a", b"b"], pa.binary()).dictionary_encode(), ["a", "b"]),
        (pa.array([decimal.Decimal(7), decimal.Decimal("12345678901234567890")], pa.decimal128(38, 0)), None),
    ],
)
def test_text_is_text_however_it_is_stored(tmp_path, values, text):
    pq.write_table(pa.table({"column": values}), tmp_path / "some.parquet")
    column, _ = read(tmp_path / "some.parquet")
    assert column.type == pa.string()
    assert column.to_pylist() == (text or ["7", "12345678901234567890"])


def test_a_dictionary_of_strings_stays_one(tmp_path):
    pq.write_table(pa.table({"column": pa.array(["a", "b", "a"]).dictionary_encode()}), tmp_path / "some.parquet")
    column, _ = read(tmp_path / "some.parquet")
    assert pa.types.is_dictionary(column.type)
    assert column.to_pylist() == ["a", "b", "a"]


def test_times_of_hive_are_times(tmp_path):
    table = pa.table({"column": pa.array([MOMENT, datetime.datetime(9999, 12, 31)])})
    pq.write_table(table, tmp_path / "some.parquet", use_deprecated_int96_timestamps=True)
    assert read(tmp_path / "some.parquet")[0].to_pylist() == [MOMENT, datetime.datetime(9999, 12, 31)]


def test_rows_are_numbered_over_row_groups(tmp_path):
    pq.write_table(pa.table({"column": list("abcde")}), tmp_path / "some.parquet", row_group_size=3)
    _, batch = read(tmp_path / "some.parquet", 1)
    assert (batch.lines.tolist(), batch.lines_in, batch.continued) == ([4, 5], 2, 0)


def test_bytes_that_are_no_text_are_named(tmp_path):
    bad = pa.array([b"\xff\xfe"], pa.binary())
    pq.write_table(pa.table({"column": bad}), tmp_path / "some.parquet")
    with pytest.raises(
        InputError, match=r"some.parquet: column 'column' of type binary holds bytes that are not UTF-8"
    ):
        read(tmp_path / "some.parquet")
    pq.write_table(pa.table({"column": bad.view(pa.string())}), tmp_path / "some.parquet")
    with pytest.raises(InputError, match=r"some.parquet: column 'column' .* not UTF-8"):
        read(tmp_path / "some.parquet")


@pytest.mark.parametrize(
    "values",
    [[["a"]] * 3, [{"id": "a"}] * 3, pa.array([1, 2, 3], pa.duration("s")), pa.array([1, 2, 3], pa.time32("s"))],
)
def test_a_type_that_cannot_be_read_is_named_before_anything_is(logs, values):
    write(logs / "impressions.parquet", {**IMPRESSIONS, "query": values})
    with pytest.raises(
        InputError, match=r"impressions.parquet: impressions.query has type .*, which cannot be read as text$"
    ):
        find_tables(logs, {})


def test_a_damaged_row_group_is_named(logs):
    path = write(logs / "impressions.parquet", {k: np.repeat(v, 5000) for k, v in IMPRESSIONS.items()})
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    table = find_tables(logs, {})["impressions"]
    with pytest.raises(InputError, match=r"impressions.parquet cannot be read: [^\n]+$"):
        list(read_part(table, table_parts(table)[0]))
