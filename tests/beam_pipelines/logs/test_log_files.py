import bz2
import gzip
import os
import shutil

import pyarrow as pa
import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.directory import find_tables
from tests.beam_pipelines.logs.log_files import IMPRESSIONS, ITEMS, rows_of, write

EVENTS = {
    "user_id": ["007", "u1"],
    "item_id": ["01", "02"],
    "timestamp": [1_700_000_000_000] * 2,
    "event": ["pay", "cart"],
}
CSV = b"page_id,user_id,item_id,timestamp,position,clicked\np,u,i,1700000000000,0,1\n"
JSON = b'{"page_id": "p", "user_id": "u", "item_id": "i", "timestamp": 1700000000000, "position": 0, "clicked": 1}\n'


def compressed(content, codec):
    return pa.Codec(codec).compress(content, asbytes=True)


@pytest.fixture
def folder(tmp_path):
    """The folder `impressions` of logs."""
    write(tmp_path / "items.parquet", ITEMS)
    (tmp_path / "impressions").mkdir()
    return tmp_path / "impressions"


def impressions(folder):
    return rows_of(find_tables(folder.parent, {})["impressions"])[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("1.CSV", CSV),
        ("1.csv.GZ", gzip.compress(CSV)),
        ("1.csv.gz", gzip.compress(CSV[:60]) + gzip.compress(CSV[60:])),
        ("1.csv.bz2", bz2.compress(CSV)),
        ("1.csv.zst", compressed(CSV, "zstd")),
        ("1.csv.lz4", None),
        ("1.csv.gz", CSV),
        ("1.csv", gzip.compress(CSV)),
        ("1.tsv", CSV.replace(b",", b"\t")),
        ("1.ndjson", JSON),
        ("1.json", JSON),
        ("1.JsonL.gz", gzip.compress(JSON)),
        ("part-00000", CSV),
        ("part-r-00000.gz", gzip.compress(CSV)),
        ("part-00000-0f1e-c000", JSON),
    ],
)
def test_a_file_is_read_as_what_it_is(folder, name, content):
    if content is None:
        with pa.output_stream(folder / name, compression="lz4") as stream:
            stream.write(CSV)
    else:
        (folder / name).write_bytes(content)
    assert [row["page_id"] for row in impressions(folder)] == ["p"]


@pytest.mark.parametrize("name", ["1.parquet", "1.Parquet", "1.snappy.parquet", "part-00000", "1.csv"])
def test_parquet_is_known_by_its_first_bytes(folder, name):
    write(folder / "1.parquet", IMPRESSIONS).rename(folder / name)
    assert len(impressions(folder)) == 3


@pytest.mark.parametrize("codec", ["bz2", "zst", "lz4"])
def test_a_truncated_compressed_file_is_named(folder, codec):
    whole = CSV + b"p,u,i,1700000000000,0,1\n" * 200_000
    with pa.output_stream(folder / f"1.csv.{codec}", compression={"zst": "zstd"}.get(codec, codec)) as stream:
        stream.write(whole)
    content = (folder / f"1.csv.{codec}").read_bytes()
    (folder / f"1.csv.{codec}").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"1\.csv\.{codec} cannot be read: [^\n]+$"):
        impressions(folder)


def test_what_is_marked_as_no_data_is_passed_over(folder):
    (folder / "1.csv").write_bytes(CSV)
    for name in ("_temporary/0/part-1.csv", ".ipynb_checkpoints/1-checkpoint.csv", "__MACOSX/._1.csv", ".1.csv.crc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CSV)
    (folder / "_SUCCESS").touch()
    assert len(impressions(folder)) == 1


@pytest.mark.parametrize("name", ["1.csv.tmp", "1.csv~", "1.txt", "1.csv.xz", "README.md", "000000_0", "2024/1.avro"])
def test_anything_else_in_a_table_is_refused_by_name(folder, name):
    (folder / "1.csv").write_bytes(CSV)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(CSV)
    with pytest.raises(InputError, match=rf"impressions/{name}: a table's files end in \.parquet, \.csv"):
        find_tables(folder.parent, {})


@pytest.mark.parametrize(
    ("magic", "what"),
    [
        (b"ORC", "an ORC file"),
        (b"Obj\x01", "an Avro file"),
        (b"ARROW1\0\0", "Feather"),
        (b"PK\x03\x04", "Excel workbook"),
    ],
)
def test_another_format_under_a_known_name_is_named(folder, magic, what):
    (folder / "1.csv").write_bytes(magic + bytes(100))
    with pytest.raises(InputError, match=rf"1\.csv is .*{what}.*; store it as Parquet, CSV or JSON lines"):
        find_tables(folder.parent, {})


def test_links_are_followed(folder, tmp_path):
    (tmp_path / "elsewhere" / "day").mkdir(parents=True)
    (tmp_path / "elsewhere" / "1.csv").write_bytes(CSV)
    (tmp_path / "elsewhere" / "day" / "2.csv").write_bytes(CSV)
    logs = tmp_path / "logs"
    (logs / "impressions").mkdir(parents=True)
    (logs / "impressions" / "1.csv").symlink_to(tmp_path / "elsewhere" / "1.csv")
    (logs / "impressions" / "day").symlink_to(tmp_path / "elsewhere" / "day")
    (logs / "items.parquet").symlink_to(tmp_path / "items.parquet")
    assert len(impressions(logs / "impressions")) == 2


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("2.csv", "nowhere.csv", "2.csv is a link to nowhere.csv, which does not exist"),
        ("again", ".", "again is a link to a folder that it is in"),
        ("2.csv", "1.csv", "2.csv is the same file as .*1.csv; keep one"),
    ],
)
def test_links_that_lead_nowhere_or_back_are_named(folder, name, target, message):
    (folder / "1.csv").write_bytes(CSV)
    (folder / name).symlink_to(target)
    with pytest.raises(InputError, match=message):
        find_tables(folder.parent, {})


def test_what_is_no_file_is_named(folder):
    os.mkfifo(folder / "1.csv")
    with pytest.raises(InputError, match=r"1\.csv is neither a file nor a folder"):
        find_tables(folder.parent, {})


def test_folders_give_columns(logs):
    for event, user in [("pay", "a"), ("cart", "b")]:
        columns = {name: values[:1] for name, values in EVENTS.items() if name not in ("event", "user_id")}
        write(logs / "events" / f"event={event}" / f"user_id={user}%2F1" / "dt=2024-01-01" / "part-0.csv", columns)
    rows, rejected = rows_of(find_tables(logs, {})["events"])
    assert [(row["event"], row["user_id"]) for row in rows] == [("cart", "b/1"), ("pay", "a/1")]
    assert rejected == []


def test_a_folder_may_say_that_a_value_is_missing(logs):
    shutil.rmtree(logs / "users", ignore_errors=True)
    write(logs / "users" / "cat_market=__HIVE_DEFAULT_PARTITION__" / "1.csv", {"user_id": ["u1"]})
    write(logs / "users" / "cat_market=M0" / "1.parquet", {"user_id": ["u2"], "cat_market": ["M0"]})
    assert {row["user_id"]: row["cat_market"] for row in rows_of(find_tables(logs, {})["users"])[0]} == {
        "u1": "",
        "u2": "M0",
    }


def test_folders_and_files_must_agree(logs):
    write(logs / "events" / "event=pay" / "1.csv", EVENTS)
    with pytest.raises(InputError, match=r"1.csv: the folder says that event is pay, but .* another value in line 3"):
        rows_of(find_tables(logs, {})["events"])
    write(logs / "events" / "2.csv", EVENTS)
    with pytest.raises(InputError, match=r"2.csv gives? the columns|its folders give the columns"):
        find_tables(logs, {})


def test_a_table_may_be_a_folder_with_an_ending(logs):
    (logs / "impressions.parquet").rename(logs / "other")
    (logs / "IMPRESSIONS.parquet").mkdir()
    (logs / "other").rename(logs / "IMPRESSIONS.parquet" / "part-0.parquet")
    assert len(rows_of(find_tables(logs, {})["impressions"])[0]) == 3


@pytest.mark.parametrize("second", ["impressions.csv", "Impressions.parquet", "impressions"])
def test_a_table_is_there_once(logs, second):
    write(logs / second / "1.csv" if "." not in second else logs / second, IMPRESSIONS)
    with pytest.raises(InputError, match="table impressions exists twice"):
        find_tables(logs, {})


@pytest.mark.parametrize(
    "name", ["impressions_2024.csv", "events.csv.part", "items (1).csv", "users.xlsx", "impressions.orc"]
)
def test_what_looks_like_part_of_a_table_is_refused(logs, name):
    (logs / name).write_bytes(CSV)
    with pytest.raises(InputError, match="is not read, but its name begins like that of the table"):
        find_tables(logs, {})


@pytest.mark.parametrize(("name", "table"), [("event.csv", "events"), ("User.parquet", "users")])
def test_a_misspelled_table_is_told(logs, name, table):
    write(logs / name, {"user_id": ["u"]})
    with pytest.raises(InputError, match=f"no table {table}; if it is {name}, rename that"):
        find_tables(logs, {})


def test_other_data_is_named_once_and_not_read(logs):
    write(logs / "clicks.csv", EVENTS)
    (logs / "README.md").touch()
    (logs / "images").mkdir()
    with pytest.warns(UserWarning, match=r"clicks\.csv not read; tables are impressions, events, items, users"):
        assert list(find_tables(logs, {})) == ["impressions", "items"]
