import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.csv_reader import CsvHeader, read_csv

NAMES = ["page_id", "number", "query", "clicked"]
ROWS = [[f"p{i}", str(i), "red shoes" if i % 3 else "shoes, red", str(i % 2)] for i in range(40)]


def written(rows, **form):
    text = io.StringIO(newline="")
    csv.writer(text, **form).writerows(rows)
    return text.getvalue().encode()


def read(path, block_bytes=1 << 23, names=None):
    """Rows, `(line, reason)` of the others, and the lines that the rows begin in."""
    names = names or CsvHeader.read(path).names
    rows, malformed, lines, lines_in, continued = [], [], [], 0, 0
    for batch in read_csv(path, {name: name for name in names}, block_bytes=block_bytes):
        rows += [list(row.values()) for row in batch.rows.to_pylist()]
        malformed += [(line.line, line.reason) for line in batch.malformed]
        lines += batch.lines.tolist()
        lines_in += batch.lines_in
        continued += batch.continued
    assert lines_in - continued == len(rows) + len(malformed)
    return rows, malformed, lines


def damaged(tmp_path, change, quoting=csv.QUOTE_MINIMAL):
    """Reads `ROWS` after a change of the lines, of which the first is the header."""
    lines = written([NAMES, *ROWS], quoting=quoting, lineterminator="\n").splitlines()
    change(lines)
    path = tmp_path / "some.csv"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return read(path)


text = st.text(
    st.sampled_from("ab é,\"\n\r\t;0'\\") | st.characters(codec="utf-8", exclude_characters="\0"), max_size=9
)
tables = st.lists(st.tuples(text, st.integers(0, 10**13).map(str), text, text).map(list), min_size=1, max_size=12)


@given(
    tables,
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from([1, 7, 64, 1 << 20]),
)
def test_what_a_csv_writer_writes_is_read(tmp_path_factory, rows, end, quoting, block_bytes):
    # In a file whose lines end with a line feed, Python 3.11 leaves a carriage return at the end of a line unquoted.
    if end == "\n":
        rows = [[field.replace("\r", " ") for field in row] for row in rows]
    path = tmp_path_factory.mktemp("csv") / "some.csv"
    path.write_bytes(written([NAMES, *rows], quoting=quoting, lineterminator=end))
    found, malformed, _ = read(path, block_bytes)
    assert malformed == []
    assert found == [[field or None for field in row] for row in rows]


@given(
    st.integers(1, 40),
    st.integers(0, 3),
    st.sampled_from(["begin", "end", "pair"]),
    st.integers(1, 40),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from([50, 1 << 20]),
)
def test_a_stray_quote_costs_its_line(tmp_path_factory, line, field, place, other, quoting, block_bytes):
    lines = written([NAMES, *ROWS], quoting=quoting, lineterminator="\n").splitlines()

    def insert(number, at_end):
        fields = next(csv.reader([lines[number].decode()]))
        plain = written([fields[:field]], quoting=quoting, lineterminator="").decode() + "," if field else ""
        position = len(plain.encode())
        if at_end:
            position += len(written([[fields[field]]], quoting=quoting, lineterminator=""))
        lines[number] = lines[number][:position] + b'"' + lines[number][position:]

    touched = {line}
    insert(line, place == "end")
    if place == "pair" and other != line:
        touched.add(other)
        insert(other, True)
    path = tmp_path_factory.mktemp("csv") / "some.csv"
    path.write_bytes(b"\n".join(lines) + b"\n")
    rows, malformed, numbers = read(path, block_bytes)
    by_line = dict(zip(numbers, rows, strict=True))
    for number, row in enumerate(ROWS, 1):
        if number not in touched:
            assert by_line[number + 1] == row
    assert {number - 1 for number, _ in malformed} <= touched


def test_a_quote_that_never_closes_costs_its_line(tmp_path):
    def change(lines):
        lines[5] = b'p4,4,"red shoes,0'

    rows, malformed, lines = damaged(tmp_path, change)
    assert rows == ROWS[:4] + ROWS[5:]
    assert malformed == [(6, "unclosed quote")]
    assert lines == [2, 3, 4, 5, *range(7, 42)]


def test_two_stray_quotes_cost_two_lines(tmp_path):
    def change(lines):
        lines[5] = b'p4,4,"red shoes,0'
        lines[6] = b'p5,5,red shoes",1'

    rows, malformed, _ = damaged(tmp_path, change)
    assert rows == [row for number, row in enumerate(ROWS) if number not in (4, 5)]
    assert malformed == [(6, "stray quote"), (7, "stray quote")]


def test_two_stray_quotes_may_be_read_in_two_pieces(tmp_path):
    path = tmp_path / "some.csv"
    path.write_bytes(b'a,b,c\n1,2,"x\n1,"2,x\n1,2,x\n3,4,y"\n' + b"5,6,z\n" * 20)
    whole = read(path)
    assert all(read(path, block_bytes) == whole for block_bytes in range(1, 60))


def test_a_value_may_run_over_lines_that_are_no_rows(tmp_path):
    def change(lines):
        lines[5] = b'p4,4,"red\n\nshoes, blue\n",0'

    rows, malformed, lines = damaged(tmp_path, change)
    assert rows == [*ROWS[:4], ["p4", "4", "red\n\nshoes, blue\n", "0"], *ROWS[5:]]
    assert (malformed, lines[4:6]) == ([], [6, 10])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"p,1,x", "malformed row"),
        (b"p,1,x,0,", "malformed row"),
        (b'"p,1,x",0', "malformed row"),
        (b"caf\xe9,1", "malformed row"),
        (b"p,1,caf\xe9,0", "not UTF-8"),
        (b"p,1,x\0,0", "NUL byte"),
        (b'p,1,"red" shoes,0', "text after a closing quote"),
        (b'p,1,"say \\"red\\"",0', "quote escaped by a backslash"),
        (b'"p",1",x,0', "stray quote"),
        (b"page_id,number,query,clicked", "repeated header"),
        (b'\xef\xbb\xbf"page_id","number","query","clicked"', "repeated header"),
        (b"p,1," + b"x" * (1 << 20) + b",0", "longer than 1 MiB"),
        (b'p,1,"' + b"x\n" * 1000 + b'",0', None),
    ],
)
def test_a_line_that_is_no_row_says_why(tmp_path, line, reason):
    rows, malformed, _ = damaged(tmp_path, lambda lines: lines.insert(3, line))
    assert rows == ROWS
    if reason is not None:
        assert malformed == [(4, reason)]
    else:
        assert malformed[0] == (4, "unclosed quote")
        assert len(malformed) == 1001


def test_quotes_in_a_field_without_quotes_are_text(tmp_path):
    rows, malformed, _ = damaged(tmp_path, lambda lines: lines.append(b'p,1,5" monitor,0'))
    assert (rows[-1], malformed) == (["p", "1", '5" monitor', "0"], [])


@pytest.mark.parametrize("block_bytes", [5, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\r\r\n"])
def test_lines_end_as_they_do(tmp_path, end, block_bytes):
    path = tmp_path / "some.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b" + end + end + b'1,"x' + end + b'y"' + end + b"2,3" + end + b"4,5")
    rows, malformed, lines = read(path, block_bytes)
    assert rows == [["1", f"x{end.decode()}y"], ["2", "3"], ["4", "5"]]
    assert (malformed, lines) == ([], [3, 5, 6])


def test_line_ends_may_be_mixed(tmp_path):
    path = tmp_path / "some.csv"
    path.write_bytes(b"a,b\n1,2\r\n3,4\r5,6\n7,x\ry\n")
    rows, malformed, lines = read(path)
    assert rows == [["1", "2"], ["3", "4"], ["5", "6"], ["7", "x\ry"]]
    assert (malformed, lines) == ([], [2, 3, 3, 4])


def test_a_long_file_is_read_in_pieces_as_at_once(tmp_path):
    path = tmp_path / "some.csv"
    rows = [[str(i), f'x "{i}"\n,' if i % 50 == 0 else f"x{i}"] for i in range(3000)]
    path.write_bytes(written([["a", "b"], *rows]) + b'5,"open\r\n' + written(rows[1:50]))
    whole = read(path)
    assert whole[0] == rows + rows[1:50]
    assert whole[1] == [(3062, "unclosed quote")]
    assert all(read(path, block_bytes) == whole for block_bytes in (100, 1000, 10_000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n".encode("utf-16"), "is not UTF-8 but looks like UTF-16; store it as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "looks like UTF-16"),
        ("a,b\n1,2\n".encode("utf-32"), "looks like UTF-32"),
        ("a,b\n1,café\n2,thé\n3,Bär\n".encode("latin-1"), r"looks like Windows-1252 \(Latin-1\)"),
        ("a,b\n1,红色的鞋\n2,蓝色的包\n3,绿色裙子\n".encode("gbk"), r"looks like GB18030 \(GBK\)"),
        (b"caf\xe9,b\n1,2\n", "is not UTF-8"),
        (b"a;b\n1;2\n", "columns seem to be separated by semicolons, not by commas; the header is 'a;b'"),
        (b"a\tb\n1\t2\n", "separated by tabs"),
        (b'a,"b\n1,2\n', r"unclosed quote in the header \(line 1\)"),
        (b"\n\n\n", "no header"),
        (b"\xef\xbb\xbf", "no header"),
        (b"a\0,b\n1,2\n", "is no text"),
        (b"a,b\n1,2\nb,a\n3,4\n", "line 3 is another header, with the columns in another order"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "some.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"some\.csv.*{message}"):
        read(path)


def test_a_header_has_the_names_as_they_are(tmp_path):
    path = tmp_path / "some.csv"
    path.write_bytes(b'\xef\xbb\xbf\n"a, b", c,,"d ""e"""\n1,2,3,4\n')
    assert CsvHeader.read(path).names == ["a, b", " c", "", 'd "e"']
    rows, _, lines = read(path, names=['d "e"', "a, b"])
    assert (rows, lines) == ([["4", "1"]], [3])
