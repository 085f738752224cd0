import json

import pyarrow as pa
import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.directory import find_tables
from beam_pipelines.logs.rejections import RejectedRow
from tests.beam_pipelines.logs.log_files import DAY, ITEMS, impressions_of, rows_of, write


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
    assert json.loads(rejected[0].to_json()).keys() == set(RejectedRow._fields)


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
    valid, rejected = rows_of(find_tables(logs, {})["items"], "iso")
    assert not rejected
    assert [(r["published_at"], r["stat_price"], r["label_style"]) for r in valid] == [
        (1_699_920_000_000, 9.5, "x"),
        (None, None, ""),
    ]
    assert "other" not in valid[0]
