import gzip
import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from beam_pipelines.logs.rows import normalise
from beam_pipelines.logs.scan import scan
from beam_pipelines.logs.tables import find_tables, parse_columns, parts, read
from beam_pipelines.shell.command import CommandError

DAY = 1_700_000_000_000
IMPRESSIONS = {
    "page_id": ["p", "p", "q"],
    "user_id": ["007", "007", "u1"],
    "item_id": ["01", "02", "01"],
    "timestamp": [DAY, DAY + 1, DAY + 2],
    "position": [0, 1, 0],
    "clicked": [1, 0, 1],
}
ITEMS = {"item_id": ["01", "02"], "category": ["a", "b"], "title": ["x, y", 'say "z"'], "image": ["1.jpg", ""]}


def write(path, columns):
    table = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if name.endswith("parquet"):
        pq.write_table(table, path)
    elif ".csv" in name:
        with pa.output_stream(path) as stream:
            pa.csv.write_csv(table, stream)
    else:
        text = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    return path


@pytest.fixture
def logs(tmp_path):
    write(tmp_path / "impressions.parquet", IMPRESSIONS)
    write(tmp_path / "items.parquet", ITEMS)
    return tmp_path


def rows_of(table, unit="milliseconds"):
    valid, rejected = [], []
    for part in parts(table):
        for raw in read(table, part):
            batch, bad = normalise(table, raw, unit)
            valid += batch.to_pylist()
            rejected += bad
    return valid, rejected


def impressions_of(tmp_path, unit="milliseconds", **columns):
    write(tmp_path / "impressions.parquet", {**IMPRESSIONS, **columns})
    write(tmp_path / "items.parquet", ITEMS)
    return rows_of(find_tables(tmp_path, {})["impressions"], unit)


@pytest.mark.parametrize("format", ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz"])
@pytest.mark.parametrize("folder", [False, True])
def test_every_format_gives_the_same_rows(tmp_path, format, folder):
    write(tmp_path / "items.parquet", ITEMS)
    expected = impressions_of(tmp_path / "expected")[0]
    if folder:
        write(tmp_path / "impressions" / f"1.{format}", {k: v[:1] for k, v in IMPRESSIONS.items()})
        write(tmp_path / "impressions" / f"2.{format}", {k: v[1:] for k, v in IMPRESSIONS.items()})
        (tmp_path / "impressions" / "_SUCCESS").touch()
        (tmp_path / "impressions" / f"._1.{format}").touch()
    else:
        write(tmp_path / f"impressions.{format}", IMPRESSIONS)
    valid, rejected = rows_of(find_tables(tmp_path, {})["impressions"])
    assert (valid, rejected) == (expected, [])
    assert valid[0] == {
        "page_id": "p",
        "user_id": "007",
        "item_id": "01",
        "timestamp": DAY,
        "position": 0,
        "clicked": True,
        "converted": False,
        "dwell_seconds": 0.0,
        "query": "",
    }


@pytest.mark.parametrize(
    ("column", "values", "reasons"),
    [
        ("page_id", ["", None, "q"], ["missing page_id"] * 2),
        ("user_id", ["u", None, "u"], ["missing user_id"]),
        ("timestamp", [-1, None, DAY * 1000], ["invalid timestamp", "missing timestamp", "invalid timestamp"]),
        ("timestamp", ["soon", "", str(DAY)], ["invalid timestamp", "missing timestamp"]),
        ("position", [-1, 0, 2], ["invalid position"]),
        ("position", [0.5, 1.0, float("nan")], ["invalid position", "missing position"]),
        ("clicked", [2, 1, None], ["invalid clicked", "missing clicked"]),
        ("clicked", ["true", "0", "maybe"], ["invalid clicked"]),
        ("converted", ["no", "", "1"], ["invalid converted"]),
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
    assert json.loads(rejected[0].to_json()).keys() == {"table", "reason", "row_hash"}


def test_the_first_broken_column_is_the_reason(tmp_path):
    _, rejected = impressions_of(tmp_path, position=[-1, 0, 0], page_id=["", "p", "p"])
    assert [r.reason for r in rejected] == ["missing page_id"]


@pytest.mark.parametrize(
    ("unit", "values"),
    [
        ("seconds", [1_700_000_000, 1_700_000_001.5, 0]),
        ("seconds", ["1700000000", "1700000001.5", "0"]),
        ("milliseconds", [1_700_000_000_000, 1_700_000_001_500, 0]),
        ("iso", ["2023-11-14T22:13:20", "2023-11-14 22:13:21.500", "1970-01-01"]),
        ("iso", ["2023-11-14T23:13:20+01:00", "2023-11-14T22:13:21.5Z", "1970-01-01"]),
        ("seconds", pa.array([1_700_000_000_000, 1_700_000_001_500, 0], pa.timestamp("ms"))),
        ("iso", pa.array([1_700_000_000_000_000, 1_700_000_001_500_999, 0], pa.timestamp("us", "Europe/Paris"))),
    ],
)
def test_timestamps_of_every_kind(tmp_path, unit, values):
    if isinstance(values, list) and isinstance(values[0], int):
        values = [float(v) for v in values]
    valid, rejected = impressions_of(tmp_path, unit, timestamp=values)
    assert not rejected
    assert [row["timestamp"] for row in valid] == [1_700_000_000_000, 1_700_000_001_500, 0]


def test_one_bad_iso_time_does_not_spoil_the_others(tmp_path):
    valid, rejected = impressions_of(tmp_path, "iso", timestamp=["2023-11-14", "2023-02-30", "2023-11-14T01:00Z"])
    assert [row["timestamp"] for row in valid] == [1_699_920_000_000, 1_699_923_600_000]
    assert [r.reason for r in rejected] == ["invalid timestamp"]


@pytest.mark.parametrize(
    "values",
    [
        ["1969-12-31", "2023-11-14", "1970-01-01"],
        pa.array([-1, 1_700_000_000, 0], pa.timestamp("s")),
        pa.array([-1, 19_675, 0], pa.date32()),
    ],
)
def test_times_before_1970_are_rejected(tmp_path, values):
    valid, rejected = impressions_of(tmp_path, "iso", timestamp=values)
    assert len(valid) == 2
    assert [r.reason for r in rejected] == ["invalid timestamp"]


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([1_700_000_000] * 3, "seconds"),
        ([DAY] * 3, "milliseconds"),
        ([str(DAY)] * 3, "milliseconds"),
        (["2023-11-14"] * 3, "iso"),
        ([DAY] * 39 + [None, -5], "milliseconds"),
        (pa.array([0, 1, 2], pa.timestamp("s")), "milliseconds"),
    ],
)
def test_the_unit_is_detected(tmp_path, values, unit):
    many = {name: [column[0]] * len(values) for name, column in IMPRESSIONS.items()}
    write(tmp_path / "impressions.parquet", {**many, "timestamp": values})
    write(tmp_path / "items.parquet", ITEMS)
    assert scan([find_tables(tmp_path, {})["impressions"]]).units.detect() == unit


def test_mixed_units_are_an_error(logs):
    write(logs / "impressions.parquet", {**IMPRESSIONS, "timestamp": [DAY, DAY, 1_700_000_000]})
    with pytest.raises(
        CommandError, match=r"impressions.timestamp mixes units \(2 like milliseconds, 1 like seconds\)"
    ):
        scan([find_tables(logs, {})["impressions"]]).units.detect()
    write(logs / "impressions.parquet", IMPRESSIONS)
    events = {"user_id": ["u"], "item_id": ["01"], "timestamp": [1_700_000_000], "event": ["pay"]}
    write(logs / "events.csv", events)
    tables = find_tables(logs, {})
    with pytest.raises(CommandError, match="impressions in milliseconds, events in seconds"):
        scan([tables["impressions"], tables["events"]]).units.detect()


def test_the_scan_finds_all_ids_sorted(logs):
    write(logs / "events.csv", {"user_id": ["u9"], "item_id": ["00"], "timestamp": [DAY], "event": ["pay"]})
    found = scan(list(find_tables(logs, {}).values())[:2])
    assert found.rows == {"impressions": 3, "events": 1}
    assert found.item_ids.to_pylist() == ["00", "01", "02"]
    assert found.user_ids.to_pylist() == ["007", "u1", "u9"]


def test_columns_map_other_names(tmp_path):
    renamed = {"article" if k == "item_id" else k: v for k, v in IMPRESSIONS.items()}
    write(tmp_path / "impressions.csv", {**renamed, "item_id": ["not", "this", "one"]})
    write(tmp_path / "items.parquet", {**ITEMS, "preis": [1.0, 2.0]})
    names = parse_columns(["impressions.item_id=article", "items.stat_price=preis"])
    tables = find_tables(tmp_path, names)
    assert [row["item_id"] for row in rows_of(tables["impressions"])[0]] == ["01", "02", "01"]
    assert [row["stat_price"] for row in rows_of(tables["items"])[0]] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("article", "is not TABLE.COLUMN=NAME"),
        ("impressions.item_id=", "is not TABLE.COLUMN=NAME"),
        ("orders.item_id=x", "no table 'orders'"),
        ("items.colour=x", "items has no column 'colour'"),
        ("impressions.item_id=sku", "no column 'sku'"),
        ("impressions.query=words", "no file of impressions has a column 'words'"),
        ("users.stat_age=age", "has no such table"),
    ],
)
def test_wrong_column_options(logs, option, message):
    with pytest.raises(CommandError, match=message):
        find_tables(logs, parse_columns([option]))


@pytest.mark.parametrize("column", ["page_id", "user_id", "item_id", "timestamp", "position", "clicked"])
def test_a_missing_column_is_named_with_the_fix(logs, column):
    write(logs / "impressions.parquet", {k: v for k, v in IMPRESSIONS.items() if k != column})
    with pytest.raises(CommandError, match=rf"no column '{column}'.*--columns impressions.{column}=NAME"):
        find_tables(logs, {})


@pytest.mark.parametrize("column", ["item_id", "category", "title", "image"])
def test_items_must_have_their_columns(logs, column):
    write(logs / "items.parquet", {k: v for k, v in ITEMS.items() if k != column})
    with pytest.raises(CommandError, match=f"items.parquet: no column '{column}'"):
        find_tables(logs, {})


def test_missing_double_and_empty_tables(logs):
    (logs / "impressions.parquet").rename(logs / "impression.parquet")
    with pytest.raises(CommandError, match="no table impressions"):
        find_tables(logs, {})
    (logs / "impressions").mkdir()
    with pytest.raises(CommandError, match="impressions: no parquet, csv"):
        find_tables(logs, {})
    write(logs / "impressions.csv", IMPRESSIONS)
    with pytest.raises(CommandError, match=r"exists twice \(impressions.csv, impressions\)"):
        find_tables(logs, {})


@pytest.mark.parametrize("format", ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz"])
def test_an_empty_file_is_named(logs, format):
    (logs / "impressions.parquet").unlink()
    (logs / f"impressions.{format}").touch()
    with pytest.raises(CommandError, match=rf"impressions.{format} is empty"):
        find_tables(logs, {})


@pytest.mark.parametrize("format", ["parquet", "csv.gz", "jsonl.gz"])
def test_a_truncated_file_is_named(logs, format):
    (logs / "impressions.parquet").unlink()
    path = write(logs / f"impressions.{format}", {k: v * 5000 for k, v in IMPRESSIONS.items()})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CommandError, match=rf"impressions.{format} cannot be read"):
        rows_of(find_tables(logs, {})["impressions"])


def test_a_file_of_another_format_is_named(logs):
    (logs / "impressions.parquet").write_text("page_id,user_id\n" * 100)
    with pytest.raises(CommandError, match=r"impressions.parquet cannot be read"):
        find_tables(logs, {})
    (logs / "impressions.parquet").unlink()
    (logs / "impressions.csv").write_bytes(",".join(IMPRESSIONS).encode() + b"\n\xff\xfe,a,b,1,1,1\n")
    with pytest.raises(CommandError, match=r"impressions.csv cannot be read"):
        rows_of(find_tables(logs, {})["impressions"])


def test_malformed_lines_are_rejected_rows(tmp_path):
    write(tmp_path / "items.parquet", ITEMS)
    path = write(tmp_path / "impressions.csv", IMPRESSIONS)
    path.write_text(path.read_text() + '"p","u"\n' + "1,2,3,4,5,6,7,8\n")
    valid, rejected = rows_of(find_tables(tmp_path, {})["impressions"])
    assert len(valid) == 3
    assert [r.reason for r in rejected] == ["malformed row"] * 2
    path.unlink()
    path = write(tmp_path / "impressions.jsonl", IMPRESSIONS)
    path.write_text(path.read_text() + '{"page_id": \n[1, 2]\n\n{"page_id": "\\ud800"}\n')
    valid, rejected = rows_of(find_tables(tmp_path, {})["impressions"])
    assert len(valid) == 3
    assert [r.reason for r in rejected] == ["malformed row"] * 3


def test_ids_are_strings_whatever_the_file_says(tmp_path):
    valid, _ = impressions_of(
        tmp_path, user_id=pa.array([7, 8, 9]), item_id=pa.array(["a", "b", "a"]).dictionary_encode()
    )
    assert [(row["user_id"], row["item_id"]) for row in valid] == [("7", "a"), ("8", "b"), ("9", "a")]
    with pytest.raises(CommandError, match=r"impressions.user_id has type double; store IDs as strings"):
        impressions_of(tmp_path, user_id=[7.0, 8.0, None])
    with pytest.raises(CommandError, match=r"impressions.query has type list<.*>, which cannot be read as text"):
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
