import gzip

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.datasets import source_tables
from beam_pipelines.datasets.source_files import SourceFiles
from beam_pipelines.datasets.source_tables import Format, Layout, TableFile, find_layout
from beam_pipelines.format.errors import InputError

SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("n", pa.int64()), pa.field("t", pa.string())])
DAT = Format(b"::", ("id", "n", "t"), quoted=False, encoding="latin-1")


def table_of(folder, content, format=source_tables.CSV, name="a.csv"):
    (folder / name).write_bytes(content)
    layout = Layout("a set", {"a": TableFile(name.removesuffix(".gz"), SCHEMA, format=format)})
    with SourceFiles(folder, "downloading it") as files:
        return find_layout(files, [layout])[2]["a"]


def rows_of(folder, content, format=source_tables.CSV, name="a.csv"):
    return [tuple(row.values()) for row in table_of(folder, content, format, name).read().to_pylist()]


@pytest.mark.parametrize(
    "content",
    [
        b'more,id,n,t\n,01,1,"a, ""b"""\n,2,,\n',
        b'more,id,n,t\r\n,01,1,"a, ""b"""\r\n,2,,\r\n',
        b'\xef\xbb\xbfmore,id,n,t\n\n,01,1,"a, ""b"""\n\r\n\n,2,,',
        gzip.compress(b't,n,more,id\n"a, ""b""",1,,01\n,,,2'),
    ],
)
def test_ids_keep_their_zeros_and_what_is_empty_is_missing(tmp_path, content):
    name = "a.csv.gz" if content[:2] == b"\x1f\x8b" else "a.csv"
    assert rows_of(tmp_path, content, name=name) == [("01", 1, 'a, "b"'), ("2", None, None)]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_lines_without_header_quotes_and_with_two_colons(tmp_path, encoding):
    content = '1::2::"Great" Misérables, Les: a\n\n02::::\n'.encode(encoding)
    assert rows_of(tmp_path, content, DAT) == [("1", 2, '"Great" Misérables, Les: a'), ("02", None, None)]


texts = st.text(st.sampled_from('ab,": é'), max_size=4).filter(lambda text: text.strip('"'))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 999), texts), min_size=1, max_size=30), st.integers(1, 40), st.data())
def test_rows_are_the_lines_wherever_blocks_end(tmp_path_factory, rows, block, data):
    dat = data.draw(st.booleans())
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    if dat:
        rows = [(n, text.replace(":", ";")) for n, text in rows]
        lines = [f"{n}::{n}::{text}" for n, text in rows]
    else:
        lines = ["id,n,t", *(f'{n},{n},"{text.replace(chr(34), 2 * chr(34))}"' for n, text in rows)]
    gaps = data.draw(st.lists(st.sampled_from([end, end, end * 2, end * 3]), min_size=len(lines), max_size=len(lines)))
    content = "".join(line + gap for line, gap in zip(lines, gaps, strict=True))
    if data.draw(st.booleans()):
        content = content.rstrip("\r\n")
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_tables, "_BLOCK", max(block, len(lines[0].encode()) + 4))
        assert rows_of(folder, content.encode(), DAT if dat else source_tables.CSV) == [(str(n), n, t) for n, t in rows]


HEADER = b"id,n,t\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no header"),
        (HEADER, "has no rows"),
        (b"id,t\n1,1\n", r"no column 'n' \(columns: id, t\)"),
        (b"id,n,t,n\n1,1,1,1\n", "more than one column 'n'"),
        ("id,n,t\n1,1,1\n".encode("utf-16"), "its header is no line of UTF-8 text"),
        (HEADER + b"1,1,a\n2,x,b\n", "line 3: column 'n' holds 'x', no int64"),
        (HEADER + b"1,1,a\n2,2\n3,3,c\n", "line 3 has 2 values, not 3"),
        (HEADER + b"1,1,a\n2,2,b", None),
        (HEADER + b"1,1,a\n,2,b\n", "column 'id' is empty in row 2"),
        (HEADER + b"1,1,a\n2,2,\xff\n", "line 3 is not UTF-8"),
        # A quote that is not closed would take the lines up to the next one with it.
        (HEADER + b'1,1,a\n2,2,"b\n3,3,c\n4,4,"d"\n5,5,e\n', "line 3: a quote that opens is not closed"),
        (HEADER + b'1,1,a\n2,2,"b\n3,3,c\n', "line 3: a quote that opens is not closed"),
        (HEADER + b'1,1,a\n2,2,"b\n3,3,c"\n4,4,d\n', "line 3: a quote that opens is not closed"),
    ],
)
def test_a_damaged_file_is_one_line_that_says_where(tmp_path, content, message):
    if message is None:
        assert len(rows_of(tmp_path, content)) == 2
        return
    with pytest.raises(InputError, match=message) as error:
        rows_of(tmp_path, content)
    assert str(error.value).startswith(f"{tmp_path}/a.csv")
    assert "\n" not in str(error.value)


def test_a_cut_archive_is_found_out(tmp_path):
    content = gzip.compress(
        HEADER + b"".join(b"%d,%d,%d\n" % (n, n * 7919 % 1000, n * 104729 % 997) for n in range(5000))
    )
    with pytest.raises(InputError, match=r"a\.csv\.gz cannot be read: Compressed file ended"):
        rows_of(tmp_path, content[:-500], name="a.csv.gz")


def test_an_edition_is_found_by_its_files(tmp_path):
    layouts = [
        Layout("one", {"a": TableFile("a.csv", SCHEMA), "b": TableFile("b.csv", SCHEMA, required=False)}),
        Layout("two", {"c": TableFile("c.csv", SCHEMA), "d": TableFile("d.csv", SCHEMA)}),
    ]

    def found():
        with SourceFiles(tmp_path, "downloading it") as files:
            layout, folder, tables = find_layout(files, layouts)
        return layout.name, folder, sorted(tables)

    def add(name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(HEADER)

    with pytest.raises(
        InputError, match=r"expected one: a.csv \(also read: b.csv\); or two: c.csv, d.csv .*; found nothing"
    ):
        found()
    add("set.zip")
    with pytest.raises(InputError, match=r"; found set\.zip; to read set\.zip, name it$"):
        found()
    (tmp_path / "set.zip").unlink()
    add("c.csv")
    with pytest.raises(InputError, match=r"^`source`: no d.csv in .*; expected two: c.csv, d.csv \(.*\); found c.csv$"):
        found()
    add("x/d.csv")
    with pytest.raises(InputError, match="the files are not in one folder of"):
        found()
    add("x/c.csv")
    assert found() == ("two", "x", ["c", "d"])
    add("y/a.csv")
    add("b.csv")  # in another folder: of another data set
    with pytest.raises(InputError, match="holds more than one data set: one in y and two in x; name the folder of one"):
        found()
    (tmp_path / "x/d.csv").unlink()
    assert found() == ("one", "y", ["a"])
