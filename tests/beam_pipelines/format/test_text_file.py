import json
import math
import os

import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.text_file import finite, read_json, read_text, write_json


def test_undefined_figures_are_null(tmp_path):
    report = {"a": [1.5, math.nan, {"b": -math.inf}], "c": (math.nan, 2), "日本": "ü", "d": True, "e": None}
    expected = {"a": [1.5, None, {"b": None}], "c": [None, 2], "日本": "ü", "d": True, "e": None}
    assert finite(report) == expected
    write_json(tmp_path / "report.json", report)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == expected
    assert "日本" in text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_are_read_in_the_encodings_that_say_what_they_are(tmp_path, encoding):
    (tmp_path / "text").write_text("größe: 3\n", encoding=encoding)
    assert read_text(tmp_path / "text") == "größe: 3\n"


def test_what_is_no_text_file_is_refused_by_its_path(tmp_path):
    (tmp_path / "latin1").write_bytes(b"a: 1\n# gr\xf6\xdfe\n")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("latin1", r"latin1: must be UTF-8, or UTF-16 .* 0xf6 in line 2 .byte 10 of the file"),
        ("pipe", "pipe: must be a file. Received: a pipe or a device"),
        ("", "must be a file. Received: a directory"),
        ("nowhere", "nowhere: cannot be read: No such file or directory"),
        ("x" * 300, "cannot be read: File name too long"),
    ):
        with pytest.raises(InputError, match=message):
            read_text(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_file_without_permission_is_refused_by_its_path(tmp_path):
    (tmp_path / "secret").write_text("a: 1")
    (tmp_path / "secret").chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="secret: cannot be read: Permission denied"):
            read_text(tmp_path / "secret")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": [-Infinity]}', '{"a": 1, "a": 2}', "{", "", "[" * 100_000])
def test_what_is_no_strict_json_is_refused(tmp_path, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"file\.json: is no JSON: "):
        read_json(tmp_path / "file.json")
