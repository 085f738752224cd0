import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.format.errors import InputError
from beam_pipelines.logs.jsonl_reader import BATCH_ROWS, jsonl_keys, read_jsonl


def read(path, *names):
    rows, malformed, lines, lines_in = [], [], [], 0
    for batch in read_jsonl(path, {name: name for name in names}):
        rows += [tuple(row.values()) for row in batch.rows.to_pylist()]
        malformed += [(line.line, line.reason) for line in batch.malformed]
        lines += batch.lines.tolist()
        lines_in += batch.lines_in
    assert lines_in == len(rows) + len(malformed)
    return rows, malformed, lines


values = st.none() | st.text(max_size=8) | st.sampled_from(['"a":1', "x : y", "[", "é", "\u2028"])


@given(st.lists(st.tuples(values, values), min_size=1, max_size=8), st.booleans(), st.sampled_from([", ", ","]))
def test_what_a_json_writer_writes_is_read(tmp_path_factory, rows, ensure_ascii, separator):
    path = tmp_path_factory.mktemp("json") / "some.jsonl"
    form = {"ensure_ascii": ensure_ascii, "separators": (separator, separator.replace(",", ":"))}
    path.write_text("\n".join(json.dumps({"a": a, "b": b}, **form) for a, b in rows), newline="")
    assert read(path, "a", "b") == (rows, [], list(range(1, len(rows) + 1)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("12345678901234567890123", "12345678901234567890123"),
        ("1.10", "1.10"),
        ("-0", "-0"),
        ("1e400", "1e400"),
        ("NaN", "NaN"),
        ("true", "true"),
        ("null", None),
        ('"007"', "007"),
        ('[1, "é", 2.5]', '[1, "é", 2.5]'),
        ('{"b": 1}', '{"b": 1}'),
        ("[]", "[]"),
        ("{}", "{}"),
        ('"\\ud83d\\ude00"', "😀"),
    ],
)
def test_values_come_as_the_text_that_stands_there(tmp_path, value, text):
    path = tmp_path / "some.jsonl"
    path.write_text(f'{{"a": {value}, "c": "x"}}\n{{"a": "y"}}\n')
    assert read(path, "a", "c")[0] == [(text, "x"), ("y", None)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1, "a": 2}', "key twice"),
        (b'{"a": 1, "a" :2}', "key twice"),
        (b'{"a": 1}{"a": 2}', "more than one object"),
        (b'{"a": 1},{"a": 2}', "more than one object"),
        (b'{"a": 1', "malformed row"),
        (b'{"a": 1}]', "more than one object"),
        (b'["a", 1]', "malformed row"),
        (b'{"a": "\xe9"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "malformed row"),
        (b'{"a": "\0"}', "malformed row"),
        (b'{"a": ' + b"9" * 5000 + b"}", None),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', "longer than 1 MiB"),
    ],
)
def test_a_line_that_is_no_object_says_why(tmp_path, line, reason):
    path = tmp_path / "some.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n' + line + b'\n \n{"a": 2}')
    rows, malformed, lines = read(path, "a")
    if reason is None:
        assert (len(rows), lines) == (3, [1, 3, 5])
    else:
        assert (rows, malformed, lines) == ([("1",), ("2",)], [(3, reason)], [1, 5])


def test_two_broken_lines_do_not_make_one_row(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"a": [{"b": 1}\n{"b": 2}]}\n{"a": 3},{"a": 4}\n{"a": 5}\n')
    assert read(path, "a") == (
        [("5",)],
        [(1, "malformed row"), (2, "more than one object"), (3, "more than one object")],
        [4],
    )


def test_no_line_is_lost_between_batches(tmp_path):
    path = tmp_path / "some.jsonl.gz"
    count = 2 * BATCH_ROWS + 3
    path.write_bytes(gzip.compress(b"".join(b'{"a": %d}\n' % i for i in range(count)), 1))
    rows, malformed, lines = read(path, "a")
    assert rows == [(str(i),) for i in range(count)]
    assert (malformed, lines) == ([], list(range(1, count + 1)))


def test_a_key_is_found_wherever_it_stands(tmp_path):
    path = tmp_path / "some.jsonl"
    rows = [{"a": 1, "c": {"nested": 1}, "d": '"text": 1'}] * 5000 + [{"late": 2}, {"a": 1}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert jsonl_keys(path) == ["a", "c", "d", "late"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1},\n{"a": 2}]', "is one JSON array, not one JSON object per line"),
        (json.dumps([{"a": 1}], indent=2), "is one JSON array"),
        (json.dumps({"a": 1, "b": 2}, indent=2), "is JSON over several lines, not one JSON object per line"),
        ("a,b\n1,2\n", "is no JSON, not one"),
        ("\n\n", "blank"),
    ],
)
def test_another_form_of_json_is_named(tmp_path, content, message):
    path = tmp_path / "some.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"some\.jsonl.* {message}"):
        jsonl_keys(path)


def test_lines_with_a_key_twice_are_named_for_that(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"user_id": "u", "user_id": "v"}\n' * 3)
    with pytest.raises(InputError, match=r"events.jsonl: all objects of its first MiB have a key twice"):
        jsonl_keys(tmp_path / "events.jsonl")
