import socket

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from export import Page, RankerClient
from export.client.predict_client import DeadlineExceeded, RankerBusy, RankerNotFound, RequestRefused
from export.version.reference_pages import scores_in_process


def test_pages_get_the_scores_of_the_ranker_best_first(ranker_client, rows, toy_run):
    run = toy_run
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
    with socket.create_server(("127.0.0.1", 0)) as mute:  # the system takes connections, nobody answers
        silent = f"127.0.0.1:{mute.getsockname()[1]}"
        with RankerClient(silent, timeout=0.1) as asking, pytest.raises(DeadlineExceeded, match="DEADLINE_EXCEEDED"):
            asking.rank(page)
    with pytest.raises(InputError, match="exclude each other"):
        RankerClient(address, version=1, label="x")
    for bare in ("::1:8500", "fe80::1"):  # is 8500 the port?
        with pytest.raises(InputError, match=r"`address` must have brackets around IPv6, as \[::1\]:8500 has"):
            RankerClient(bare)
