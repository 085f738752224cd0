import io
import json
import re

import pytest

from beam_pipelines.shell.command import CommandError
from export import Page
from export.client import __main__ as client
from tests.models.tiny_dataset import write_tiny_dataset


def printed_items(text):
    return re.findall(r"^ *\d+  (\S.*?) +\d\.\d{6}$", text, re.MULTILINE)


def test_the_command_ranks_json_pages(address, rows, tmp_path, capsys, monkeypatch, ranker_client):
    expected = list(ranker_client.rank(Page.from_row(rows[1])))
    (tmp_path / "page.json").write_text(json.dumps(rows[1]))
    assert client.main([str(tmp_path / "page.json"), "--address", address]).startswith("ranked 1 page with ranker at")
    printed = capsys.readouterr().out
    assert printed_items(printed) == expected
    assert "version 11; ctr by item" in printed
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"instances": rows[:2]})))
    assert client.main(["-", "--address", address]).startswith("ranked 2 pages")
    assert printed_items(capsys.readouterr().out)[-len(expected) :] == expected


def test_the_command_ranks_pages_of_a_dataset(address, tmp_path, capsys):
    data = write_tiny_dataset(tmp_path, items=20, users=5, pages=12).data
    assert "ranked 3 pages" in client.main(["--data", str(data), "--pages", "3", "--address", address])
    assert len(re.findall("^user ", capsys.readouterr().out, re.MULTILINE)) == 3


def test_the_command_ranks_pages_in_an_experiment(address, tmp_path, capsys):
    data = write_tiny_dataset(tmp_path, items=20, users=5, pages=12).data
    arms = [{"name": "control", "version": 11}, {"name": "pictures"}]
    (tmp_path / "e.json").write_text(json.dumps({"name": "pictures", "arms": arms}))
    options = ["--experiment", str(tmp_path / "e.json"), "--exposures", str(tmp_path / "log")]
    client.main(["--data", str(data), "--pages", "3", "--address", address, *options])
    entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(entries) == 3
    assert all(entry["page_id"] and entry["version"] == 11 for entry in entries)
    printed = re.findall(r"^user (\S+), .*; version 11, arm (\w+); ctr", capsys.readouterr().out, re.MULTILINE)
    assert printed == [(entry["user_id"], entry["arm"]) for entry in entries]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{tmp}/none"], "page: {tmp}/none cannot be read"),
        (["{tmp}/bad"], "page: {tmp}/bad is no JSON"),
        (["{tmp}/list"], "page: {tmp}/list must hold a page"),
        (["{tmp}/page", "--version", "7"], "has not ranked the page: NOT_FOUND"),
        (["--data", "{tmp}/none"], "--data: no directory"),
        (["--pages", "0"], "--pages must be at least 1. Received: 0"),
        (["--timeout", "0"], "--timeout must be more than 0. Received: 0.0"),
        (["--version", "1", "--label", "x"], "--version, --label and --experiment exclude each other"),
        (["--experiment", "e.json"], "--experiment and --exposures need each other"),
        (["--experiment", "{tmp}/bad", "--exposures", "{tmp}/log"], "--experiment: {tmp}/bad: is no JSON"),
    ],
)
def test_problems_of_the_command_are_named(address, rows, tmp_path, arguments, text):
    (tmp_path / "bad").write_text("{")
    (tmp_path / "list").write_text("[1]")
    (tmp_path / "page").write_text(json.dumps(rows[0]))
    with pytest.raises(CommandError, match=re.escape(text.format(tmp=tmp_path))):
        client.main([*(argument.format(tmp=tmp_path) for argument in arguments), "--address", address])
