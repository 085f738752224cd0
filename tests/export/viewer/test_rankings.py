import socket

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.records import encode_page
from export import Page
from export.viewer.rankings import Rankings, choices
from tests.export.toy_ranker import toy_rows


@pytest.fixture(scope="module")
def rankings(address, ids):
    with Rankings(address, "ranker", ids, timeout=10) as rankings:
        yield rankings


@pytest.mark.parametrize("choice", ["latest", "version 11"])
def test_scores_are_those_that_a_client_gets(shop, rankings, ranker_client, choice):
    pages = sorted(shop.pages["train"], key=lambda page: int(page["timestamp"][0]))
    for page, row in zip(pages, toy_rows(), strict=True):
        answer = rankings.scores(encode_page(page), choice)
        assert answer["version"] == 11
        expected = ranker_client.rank(Page.from_row(row))
        assert dict(zip(row["item_id"], answer["outputs"]["ctr"], strict=True)) == pytest.approx(expected, abs=1e-6)


def test_what_the_server_says_is_told(shop, rankings):
    long, empty = (encode_page(page) for page in shop.pages["test"])
    assert "click_item_id" in rankings.scores(long, "latest")["error"]  # this server takes rows of 50
    assert rankings.scores(empty, "latest") == {"version": 11, "outputs": {"ctr": []}}
    assert "latest, version 12" not in rankings.scores(empty, "version 12")["error"]
    assert "NOT_FOUND" in rankings.scores(empty, "version 12")["error"]
    assert "label canary: " in rankings.scores(empty, "label canary")["error"]


def test_a_server_that_is_not_there_is_told(shop, ids):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with Rankings(address, "ranker", ids, timeout=5) as rankings:
            error = rankings.scores(encode_page(shop.pages["train"][0]), "latest")["error"]
    assert error.startswith(f"{address} does not answer for ranker, latest: UNAVAILABLE")


@pytest.mark.parametrize(
    "choice", ["", "version", "version x", "version -1", f"version {2**63}", "label ", "label a/b"]
)
def test_a_choice_that_is_none_is_refused(shop, rankings, choice):
    with pytest.raises(ValueError, match="`choice` must be latest, version N or label NAME"):
        rankings.scores(encode_page(shop.pages["train"][0]), choice)


def test_an_address_that_can_be_read_in_two_ways_is_refused(ids):
    with pytest.raises(InputError, match="brackets"):
        Rankings("::1:8500", "ranker", ids, timeout=1)


def test_choices_begin_with_the_latest():
    assert choices([3, 11], ["canary"]) == ["latest", "label canary", "version 11", "version 3"]
