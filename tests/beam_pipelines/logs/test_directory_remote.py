"""Log directories by URI: what is read there is what a local copy gives, by few requests."""

import bz2
import gzip
import io
import tempfile
import uuid
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from beam_pipelines.datasets.sample_logs import write_sample_logs
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import as_location
from beam_pipelines.logs.directory import LogDirectory
from beam_pipelines.logs.file_reader import table_parts
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.logs.survey import survey_tables
from tests.beam_pipelines.logs.log_files import DAY, IMPRESSIONS, ITEMS, rows_of, write
from tests.beam_pipelines.remote import copied, count_requests

RULES = ReadingRules(dict.fromkeys(("impressions.timestamp", "events.timestamp", "items.published_at"), "milliseconds"))


def place() -> str:
    return f"memory://{uuid.uuid4().hex}/logs"


def impressions(first, count):
    numbers = range(first, first + count)
    return {
        "page_id": [f"p{n}" for n in numbers],
        "user_id": [f"u{n % 3}" for n in numbers],
        "item_id": ["01"] * count,
        "timestamp": [DAY + n for n in numbers],
        "position": [0] * count,
        "clicked": [n % 2 for n in numbers],
    }


def encoded(columns, ending):
    table = pa.table(columns)
    out = io.BytesIO()
    if ending == "parquet":
        pq.write_table(table, out, row_group_size=3)
    elif ending.startswith("csv"):
        pa.csv.write_csv(table, out)
        out.write(b"only,one\n")
    else:
        out.write("".join(f"{row}\n" for row in table.to_pylist()).replace("'", '"').encode() + b"{no JSON\n")
    compress = {
        "gz": lambda content: gzip.compress(content, mtime=0),
        "bz2": bz2.compress,
        "zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
    }.get(ending.rpartition(".")[2], bytes)
    return compress(out.getvalue())


def outcome(logs):
    """All that a build takes from a log directory, without its place."""
    opened = LogDirectory.open(logs, {})
    survey = survey_tables(opened.tables, RULES)
    counts = {file.path: file for table in survey.values() for file in table.files}
    rows = {name: rows_of(table) for name, table in opened.tables.items()}
    told = [
        (name, table.columns, table.rejected.by_reason(), table.dead_letters, table.conservation(name))
        for name, table in survey.items()
    ]
    parts = [
        (part.table, part.path.name, part.row_group) for table in opened.tables.values() for part in table_parts(table)
    ]
    return rows, told, parts, opened.sources(counts), opened.notice


ENDINGS = ("parquet", "csv", "csv.gz", "csv.bz2", "csv.zst", "jsonl", "jsonl.gz")
FOLDERS = ("", "a/", "a-b/", "_temporary/", ".hidden/")


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(ENDINGS), st.integers(1, 9)), min_size=1),
    st.sampled_from(["Impressions", "Impressions/split=train", "impression"]),
)
def test_what_lies_at_a_uri_is_read_like_a_local_copy(files, table):
    with tempfile.TemporaryDirectory() as directory:
        logs = Path(directory)
        write(logs / "items.csv", ITEMS)
        (logs / "logs.json").write_text('{"notice": "made up"}')
        for number, (folder, ending, count) in enumerate(files):
            path = logs / table / folder / f"{number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(impressions(number * 10, count), ending))
        remote = copied(logs, place())

        def result(where):
            try:
                return outcome(where)
            except InputError as error:
                return str(error).replace(str(where), "LOGS")

        assert result(remote) == result(logs)


def test_what_a_command_wrote_there_is_found(tmp_path):
    options = {"photos": 100, "users": 20, "pages": 20}
    there = place()
    write_sample_logs(there, **options)
    write_sample_logs(tmp_path / "logs", **options)
    assert outcome(as_location(there)) == outcome(tmp_path / "logs")


def test_the_number_of_requests_depends_on_files_alone(tmp_path, monkeypatch):
    def requests(rows):
        logs = tmp_path / str(rows)
        write(logs / "items.csv", ITEMS)
        for day in range(8):
            write(logs / "impressions" / f"day={day}" / "0.csv", impressions(day * rows, rows))
            write(logs / "impressions" / f"day={day}" / "1.parquet", impressions(day * rows, rows))
        remote = copied(logs, place())
        with monkeypatch.context() as patch:
            counts = count_requests(patch)
            opened = LogDirectory.open(remote, {})
            survey = survey_tables(opened.tables, RULES)
            opened.check_unchanged()
            opened.sources({file.path: file for table in survey.values() for file in table.files})
        return counts

    counts = requests(5)
    assert counts == requests(2000)
    assert counts["ls"] + counts["find"] <= 8  # however many files and folders there are
    assert counts["info"] <= 5 * 17
    assert counts["cat_file"] <= 8 * 17


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_change_of_a_file_is_noticed(logs, change):
    remote = copied(logs, place())
    opened = LogDirectory.open(remote, {})
    opened.check_unchanged()
    if change == "gone":
        (remote / "items.parquet").unlink()
    else:
        (remote / "items.parquet").write_bytes((remote / "items.parquet").read_bytes())
    with pytest.raises(InputError, match=r"memory://.*/items.parquet changed while it was read"):
        opened.check_unchanged()


def test_a_file_that_vanished_is_named(logs):
    write(logs / "events.csv", {"user_id": ["u1"], "item_id": ["01"], "timestamp": [DAY], "event": ["pay"]})
    remote = copied(logs, place())
    opened = LogDirectory.open(remote, {})
    for name in ("events.csv", "items.parquet"):
        (remote / name).unlink()
        with pytest.raises(InputError, match=rf"^memory://.*/{name}: not found"):
            rows_of(opened.tables[name.partition(".")[0]])


def test_an_s3_is_read_like_a_local_copy(logs, s3_server):
    write(logs / "events" / "day=1" / "0.csv.gz", {
        "user_id": ["u1"], "item_id": ["01"], "timestamp": [DAY], "event": ["pay"],
    })  # fmt: skip
    (logs / "logs.json").write_text('{"notice": "made up"}')
    remote = copied(logs, f"{s3_server}/logs")
    (remote / "events" / "day=2").fs.pipe_file("shop/logs/events/day=2/", b"")  # a folder, as a console makes one
    assert outcome(remote) == outcome(logs)
    opened = LogDirectory.open(remote, {})
    opened.check_unchanged()
    write(logs / "impressions.parquet", {**IMPRESSIONS, "position": [1, 0, 1]})
    copied(logs, str(remote))
    with pytest.raises(InputError, match=r"impressions\.parquet changed while it was read"):
        opened.check_unchanged()


def test_what_an_s3_refuses_is_said_in_one_line(s3_server):
    for uri, said in (("s3://nowhere/logs", "bucket does not exist"), (f"{s3_server}/none", "not found")):
        with pytest.raises(InputError, match=f"^{uri}: .*{said}") as error:
            LogDirectory.open(as_location(uri), {})
        assert "\n" not in str(error.value)


def test_a_key_that_is_denied_is_said_in_one_line(s3_server, s3_denies):
    with pytest.raises(InputError, match=f"^{s3_server}/logs: access denied"):
        LogDirectory.open(as_location(f"{s3_server}/logs"), {})
