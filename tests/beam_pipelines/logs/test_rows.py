import dataclasses
import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.column_counts import ColumnCounts, LostValue
from beam_pipelines.logs.contract import Table
from beam_pipelines.logs.directory import find_tables
from beam_pipelines.logs.file_reader import RawBatch, read_part, table_parts
from beam_pipelines.logs.moments import UNITS, default_time_range
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.rows import normalise
from tests.beam_pipelines.logs.log_files import (
    DAY,
    IMPRESSIONS,
    ITEMS,
    columns_of,
    impressions_of,
    rows_of,
    write,
)


@pytest.mark.parametrize(
    ("column", "values", "reasons"),
    [
        ("page_id", ["", None, "q"], ["missing page_id"] * 2),
        ("user_id", ["u", None, "u"], ["missing user_id"]),
        (
            "timestamp",
            [-1, None, DAY * 1000],
            ["timestamp out of range", "missing timestamp", "timestamp out of range"],
        ),
        ("timestamp", ["soon", "", str(DAY)], ["invalid timestamp", "missing timestamp"]),
        ("timestamp", [DAY // 1000, DAY, DAY * 1000], ["timestamp out of range"] * 2),
        ("position", [-1, 0, 2], ["invalid position"]),
        ("position", [0.5, 1.0, float("nan")], ["invalid position", "missing position"]),
        ("clicked", [2, 1, None], ["invalid clicked", "missing clicked"]),
        ("clicked", ["true", "0", "maybe"], ["invalid clicked"]),
        ("converted", ["sold", "", "1"], ["invalid converted"]),
        ("dwell_seconds", [-1.0, None, 2.5], ["invalid dwell_seconds"]),
        ("split", ["train", "validation", None], ["invalid split", "missing split"]),
    ],
)
def test_bad_values_reject_their_row_with_a_reason(tmp_path, column, values, reasons):
    valid, rejected = impressions_of(tmp_path, **{column: values})
    assert [r.reason for r in rejected] == reasons
    assert len(valid) == 3 - len(reasons)


def test_a_rejected_row_is_found_by_hash_and_not_shown(tmp_path):
    _, rejected = impressions_of(tmp_path, user_id=["alice@example.com", "bob", "eve"], position=[-1, -1, -1])
    assert len({r.row_hash for r in rejected}) == 3
    assert "alice" not in "".join(r.to_json() for r in rejected)
    assert json.loads(rejected[0].to_json()) == {
        "table": "impressions",
        "reason": "invalid position",
        "row_hash": rejected[0].row_hash,
        "file": "impressions.parquet",
        "line": 1,
        "column": "position",
        "value": "-1",
    }


def test_a_rejected_row_says_where_it_is_and_what_is_wrong(logs):
    long = "x\t" * 30
    rows = [
        f"u,01,{DAY},pay",
        f"u,01,{DAY},{long}",
        f"\\N,01,{DAY},pay",
        f",01,{DAY},pay",
        "u,01,5e8,pay",
        "u,01",
    ]
    for name in ("events.csv", "events/market=a/part-0.csv"):
        path = logs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["user_id,item_id,timestamp,event", *rows]) + "\n")
        table = dataclasses.replace(find_tables(logs, {})["events"], files=(path,))
        valid, rejected = rows_of(table)
        assert len(valid) == 1
        assert {row.file for row in rejected} == {name}
        assert sorted((row.reason, row.line, row.column, row.value) for row in rejected) == [
            ("invalid event", 3, "event", "x\\t" * 19 + "x…"),
            ("malformed row", 7, None, None),
            ("missing user_id", 4, "user_id", "\\N"),
            ("missing user_id", 5, "user_id", None),
            ("timestamp out of range", 6, "timestamp", "5e8"),
        ]
        path.unlink()


@pytest.mark.parametrize(
    "values",
    [
        pa.array([-1, DAY, 2**45], pa.timestamp("s")),
        pa.array([-1, DAY, 2**40], pa.timestamp("ns", "Atlantis/Nowhere")),
        pa.array([-1, 3, 4], pa.date32()),
        pa.array(["x", "y", None]).dictionary_encode(),
    ],
)
def test_rows_of_any_type_can_be_rejected(tmp_path, values):
    _, rejected = impressions_of(tmp_path, "iso", timestamp=values)
    assert len(rejected) == 3
    assert len({row.row_hash for row in rejected}) == 3


def test_the_first_broken_column_is_the_reason(tmp_path):
    _, rejected = impressions_of(tmp_path, position=[-1, 0, 0], page_id=["", "p", "p"])
    assert [r.reason for r in rejected] == ["missing page_id"]


def test_one_bad_iso_time_does_not_spoil_the_others(tmp_path):
    valid, rejected = impressions_of(tmp_path, "iso", timestamp=["2023-11-14", "2023-02-30", "2023-11-14T01:00Z"])
    assert [row["timestamp"] for row in valid] == [1_699_920_000_000, 1_699_923_600_000]
    assert [r.reason for r in rejected] == ["invalid timestamp"]


@pytest.mark.parametrize(
    "values",
    [
        ["1994-12-31T23:59:59.999", "2023-11-14", "1995-01-01"],
        pa.array([788_918_399, 1_700_000_000, 788_918_400], pa.timestamp("s")),
        pa.array([9_130, 19_675, 9_131], pa.date32()),
    ],
)
def test_times_before_there_were_logs_are_rejected(tmp_path, values):
    valid, rejected = impressions_of(tmp_path, "iso", timestamp=values)
    assert len(valid) == 2
    assert [r.reason for r in rejected] == ["timestamp out of range"]


def test_ids_are_strings_whatever_the_file_says(tmp_path):
    valid, _ = impressions_of(
        tmp_path, user_id=pa.array([7, 8, 9]), item_id=pa.array(["a", "b", "a"]).dictionary_encode()
    )
    assert [(row["user_id"], row["item_id"]) for row in valid] == [("7", "a"), ("8", "b"), ("9", "a")]
    with pytest.raises(InputError, match=r"impressions.user_id has type double; store IDs as strings"):
        impressions_of(tmp_path, user_id=[7.0, 8.0, None])
    with pytest.raises(InputError, match=r"impressions.query has type list<.*>, which cannot be read as text"):
        impressions_of(tmp_path, query=[["a"], ["b"], ["c"]])


def test_items_keep_what_can_be_read(logs):
    columns = {"published_at": ["2023-11-14", "never"], "stat_price": ["9.5", "free"], "label_style": ["x", None]}
    write(logs / "items.csv", {**ITEMS, **columns, "other": [1, 2]})
    (logs / "items.parquet").unlink()
    table = find_tables(logs, {})["items"]
    valid, rejected = rows_of(table, "iso")
    assert not rejected
    assert [(r["published_at"], r["stat_price"], r["label_style"]) for r in valid] == [
        (1_699_920_000_000, 9.5, "x"),
        (None, None, ""),
    ]
    assert "other" not in valid[0]
    counts = columns_of(table, ReadingRules({}))
    assert counts["published_at"] == ColumnCounts(2, 1, 0, LostValue("items.csv", 3, "never"))
    assert counts["stat_price"] == ColumnCounts(2, 1, 0, LostValue("items.csv", 3, "free"))
    assert counts["label_style"] == ColumnCounts(1, 1)
    assert counts["image"] == ColumnCounts(1, 1)


@pytest.mark.parametrize("marker", ["\\N", "NULL", "null", "nan", "None", "N/A", " - ", "<NA>", "0000-00-00", " "])
def test_markers_of_missing_values_are_none_in_every_column(logs, marker):
    rows = {name: [str(column[0]), marker] for name, column in IMPRESSIONS.items()}
    optional = {"converted": ["yes", marker], "dwell_seconds": ["1", marker], "split": ["train", marker]}
    write(logs / "impressions.csv", {**rows, **optional})
    (logs / "impressions.parquet").unlink()
    table = find_tables(logs, {})["impressions"]
    valid, rejected = rows_of(table)
    assert (len(valid), [row.reason for row in rejected]) == (1, ["missing page_id"])
    is_marker = int(marker != " ")
    counts = columns_of(table, ReadingRules({"impressions.timestamp": "milliseconds"}))
    assert counts == dict.fromkeys(counts, ColumnCounts(1, 1, is_marker))
    assert len(counts) == 9
    write(logs / "items.csv", {**ITEMS, "image": [marker] * 2, "stat_a": ["1", marker], "published_at": [marker] * 2})
    (logs / "items.parquet").unlink()
    valid, rejected = rows_of(find_tables(logs, {})["items"])
    assert [(row["image"].strip(), row["stat_a"], row["published_at"]) for row in valid] == [
        ("", 1, None),
        ("", None, None),
    ]
    assert not rejected


def test_free_text_may_say_what_elsewhere_is_a_marker(logs):
    texts = {"category": ["NA", "\\N"], "title": ["-", "NULL"], "cat_country": ["NA", "nan"]}
    write(logs / "items.csv", {**ITEMS, **texts})
    (logs / "items.parquet").unlink()
    table = find_tables(logs, {})["items"]
    assert [(row["category"], row["title"], row["cat_country"]) for row in rows_of(table)[0]] == [
        ("NA", "-", "NA"),
        ("", "", ""),
    ]
    assert columns_of(table, ReadingRules({}))["title"] == ColumnCounts(1, 1, 1)


def test_markers_can_be_told(tmp_path):
    write(tmp_path / "impressions.parquet", {**IMPRESSIONS, "user_id": [-1, 7, 8], "dwell_seconds": [-1.0, -1.0, 2.0]})
    write(tmp_path / "items.parquet", ITEMS)
    table = find_tables(tmp_path, {})["impressions"]
    rules = ReadingRules({"impressions.timestamp": "milliseconds"}, missing_markers=("-1",))
    (raw,) = read_part(table, *table_parts(table))
    batch = normalise(table, raw, rules)
    assert batch.rows.column("dwell_seconds").to_pylist() == [0, 2]
    assert [(row.reason, row.value) for row in batch.rejected] == [("missing user_id", "-1")]
    assert batch.columns["dwell_seconds"] == ColumnCounts(1, 1, 2)


@pytest.mark.parametrize(
    ("values", "read"),
    [
        (["9.99", " +5 ", "-1e3", ".5", "7."], [9.99, 5, -1000, 0.5, 7]),
        (["$9.99", "10,50", "1e999", "5%", "1 200"], [None] * 5),
        (["inf", "-inf", "1_0", "0x10", "9" * 400], [None] * 5),
        ([3.4e38, 3.5e38, float("inf"), -1e300, float("nan")], [3.4e38, None, None, None, None]),
        ([True, False, None, True, True], [1, 0, None, 1, 1]),
        (pa.array([1, 2, 3, 4, 5], pa.decimal128(20, 2)), [1, 2, 3, 4, 5]),
        (pa.array([1, 2, 3, 4, 5], pa.timestamp("s")), [None] * 5),
    ],
)
def test_numbers_are_read_or_lost(tmp_path, values, read):
    write(tmp_path / "impressions.parquet", IMPRESSIONS)
    write(tmp_path / "items.parquet", {**{name: [column[0]] * 5 for name, column in ITEMS.items()}, "stat_a": values})
    table = find_tables(tmp_path, {})["items"]
    assert [row["stat_a"] for row in rows_of(table)[0]] == read
    counts = columns_of(table, ReadingRules({}))["stat_a"]
    assert counts.read == 5 - read.count(None)
    assert (counts.lost is None) == (counts.read == counts.present)


def test_flags_are_written_in_many_ways(tmp_path):
    ways = ["1", "true", "T", "Yes", "y", "1.0"], ["0", "FALSE", "f", "no", "N", "0.0"]
    for one, zero in zip(*ways, strict=True):
        valid, _ = impressions_of(tmp_path, clicked=[one, zero, f" {one} "])
        assert [row["clicked"] for row in valid] == [True, False, True]


def test_a_minority_in_another_unit_is_lost_where_old_times_are_allowed(logs):
    units = {"seconds": 1, "milliseconds": 1000, "microseconds": 10**6, "nanoseconds": 10**9}
    for unit, per_second in units.items():
        others = [n * 1_700_000_000 for name, n in units.items() if name != unit] + [20231114, 23111422]
        times = [1_700_000_000 * per_second, -(10**9) * per_second, *others]
        many = {name: [column[0]] * len(times) for name, column in ITEMS.items()}
        write(logs / "items.parquet", {**many, "published_at": times})
        valid, _ = rows_of(find_tables(logs, {})["items"], unit)
        assert [row["published_at"] for row in valid] == [DAY, -(10**12)] + [None] * len(others)


@pytest.mark.parametrize("text", [False, True])
def test_a_date_of_1970_is_one_and_a_number_taken_for_nanoseconds_is_not(logs, text):
    taken = [1_700_000_000, 1_700_000_000_000, 1_700_000_000_000_000, 0, 19 * 86_400 * 10**9, 40 * 86_400 * 10**9 + 1]
    times = pa.array(taken, pa.timestamp("ns"))
    many = {name: [column[0]] * len(taken) for name, column in ITEMS.items()}
    write(logs / "items.parquet", {**many, "published_at": times.cast(pa.string()) if text else times})
    valid, _ = rows_of(find_tables(logs, {})["items"], "iso")
    assert [row["published_at"] for row in valid] == [None] * 3 + [0, 19 * 86_400_000, 40 * 86_400_000]


@given(
    st.sampled_from(UNITS),
    st.lists(
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(10**7, 10**14), st.floats()), min_size=1, max_size=9
    ),
)
def test_no_row_is_ever_of_a_time_out_of_range(unit, times):
    first, last = default_time_range()
    path = Path("impressions.csv")
    for column in (
        pa.array([str(time) for time in times]),
        pa.array([t for t in times if isinstance(t, int)], pa.int64()),
    ):
        many = {name: pa.array([str(values[0])] * len(column)) for name, values in IMPRESSIONS.items()}
        table = Table("impressions", (path,), {name: name for name in many})
        raw = RawBatch(
            pa.RecordBatch.from_pydict({**many, "timestamp": column}), [], path, np.arange(len(column)), len(column), 0
        )
        batch = normalise(table, raw, ReadingRules({"impressions.timestamp": unit}))
        assert len(batch.rows) + len(batch.rejected) == len(column)
        assert all(first <= time <= last for time in batch.rows.column("timestamp").to_pylist())
        counts = batch.columns["timestamp"]
        assert counts.read == len(batch.rows)
        assert counts.present + counts.markers == len(column)
