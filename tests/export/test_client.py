import io
import json
import re
import shutil

import numpy as np
import pytest

from beam_pipelines.shell.command import CommandError
from export import History, Page, PageError, RankerClient
from export.client import __main__ as client
from export.client.predict_client import DeadlineExceeded, RankerBusy, RankerNotFound, RequestRefused
from export.server.admission import RequestLimits, RequestQueue
from export.server.endpoint import Endpoint
from export.server.model_config import ModelConfig
from export.server.served_models import ServedModels
from export.version.reference_pages import scores_in_process
from export.version.request_rows import request_row
from models.ranker.run import RankerRun
from tests.models.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def base_path(toy_base_path, tmp_path_factory):
    """The toy ranker without what distracts beside it, which this server would try to load later."""
    base = tmp_path_factory.mktemp("client")
    shutil.copytree(toy_base_path / "11", base / "11")
    return base


@pytest.fixture(scope="module")
def address(base_path):
    models = ServedModels([ModelConfig("ranker", base_path)], base_path, poll_seconds=0)
    limits, queue = RequestLimits(row_length=50), RequestQueue(2, 8)
    with Endpoint(models, port=0, rest_port=0, limits=limits, queue=queue) as endpoint:
        yield endpoint.listening.grpc


@pytest.fixture(scope="module")
def ranker_client(address):
    with RankerClient(address) as ranker_client:
        yield ranker_client


@pytest.fixture(scope="module")
def rows(toy_ranker):
    run = RankerRun(toy_ranker.run)
    ids, numbers = run.row_ids(), run.config().ranker.features.candidate
    return [request_row(record, ids, numbers) for record in run.example_records()]


def test_pages_get_the_scores_of_the_ranker_best_first(ranker_client, rows, toy_ranker):
    run = RankerRun(toy_ranker.run)
    expected = scores_in_process(run.ranker(), run.example_records())
    for row, scores in zip(rows, expected, strict=True):
        ranked = ranker_client.rank(Page.from_row(row))
        assert list(ranked.values()) == sorted(ranked.values(), reverse=True)
        np.testing.assert_allclose([ranked[item] for item in row["item_id"]], scores, atol=1e-6)
    assert ranker_client.version == 11


def test_histories_may_be_left_out_and_items_be_new(ranker_client, rows):
    numbers = {name: rows[0][name][:1] * 2 for name in rows[0] if isinstance(rows[0][name], list)}
    numbers = {name: value for name, value in numbers.items() if "_item_id" not in name and "_time" not in name}
    del numbers["item_id"]
    ranked = ranker_client.rank(Page("nobody", ["007", "an item from today"], candidates=numbers))
    assert set(ranked) == {"007", "an item from today"}
    assert ranker_client.rank(Page("nobody", [])) == {}


def test_errors_are_typed(address, rows):
    page = Page.from_row(rows[1])
    for options, kind, text in (
        ({"model": "x"}, RankerNotFound, r"NOT_FOUND: Servable not found for request: Latest\(x\)"),
        ({"version": 7}, RankerNotFound, r"Specific\(ranker, 7\)"),
        ({"label": "best"}, RequestRefused, "Unrecognized servable version label: best"),
        ({"timeout": 1e-9}, DeadlineExceeded, "DEADLINE_EXCEEDED"),
    ):
        with RankerClient(address, **options) as asking, pytest.raises(kind, match=text):
            asking.rank(page)
    with RankerClient(address) as asking:
        with pytest.raises(RequestRefused, match="output tensor alias not found in signature: likes"):
            asking.rank(page, "likes")
        with pytest.raises(RequestRefused, match="RESOURCE_EXHAUSTED: Input click_item_id has shape"):
            asking.rank(Page.from_row({**rows[1], "click_item_id": ["7"] * 51, "click_time": [1] * 51}))
        with pytest.raises(RequestRefused, match=r"Sent extra: \{colour\}"):
            asking.rank(Page("anna", ["7"], candidates={"colour": ["red"]}))
        assert asking.rank(page)
    with RankerClient("127.0.0.1:1", timeout=5) as asking, pytest.raises(RankerBusy):
        asking.rank(page)
    with pytest.raises(ValueError, match="exclude each other"):
        RankerClient(address, version=1, label="x")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({}, "a page must have 'user_id'. Received: nothing"),
        ({"user_id": "a"}, "a page must have 'item_id'. Received: user_id"),
        ({"user_id": 1, "item_id": []}, "user_id: must be text. Received: 1"),
        ({"user_id": "a", "item_id": "7"}, "item_id: must be a list. Received: 7"),
        ({"user_id": "a", "item_id": ["7"], "timestamp": 1.5}, "timestamp: must be a whole number"),
        (
            {"user_id": "a", "item_id": ["7"], "clicks_7d": []},
            "clicks_7d: must have one value per item_id. Received: 0",
        ),
        (
            {"user_id": "a", "item_id": ["7"], "click_item_id": ["7"]},
            "click_time: must have one value per click_item_id",
        ),
        ({"user_id": "a", "item_id": [7]}, "item_id: must be text. Received: [7]"),
        ({"user_id": "a", "item_id": ["7"], "cart_item_id": ["7"], "cart_time": [1.5]}, "cart_time: must be int64"),
    ],
)
def test_what_is_no_page_is_named(ranker_client, row, text):
    with pytest.raises(PageError, match=re.escape(text)):
        ranker_client.rank(Page.from_row(row))


def test_histories_have_their_names():
    with pytest.raises(PageError, match=r"histories: must be of click, pay, cart\. Received: 'likes'"):
        Page("a", ["7"], histories={"likes": History()})


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
        (["--version", "1", "--label", "x"], "--version and --label exclude each other"),
    ],
)
def test_problems_of_the_command_are_named(address, rows, tmp_path, arguments, text):
    (tmp_path / "bad").write_text("{")
    (tmp_path / "list").write_text("[1]")
    (tmp_path / "page").write_text(json.dumps(rows[0]))
    with pytest.raises(CommandError, match=re.escape(text.format(tmp=tmp_path))):
        client.main([*(argument.format(tmp=tmp_path) for argument in arguments), "--address", address])
