"""Both stages in one call, against a loop in Python, with real servers."""

import re

import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from export import History, Page, RankerClient, RetrievalClient
from export.client import __main__ as client
from export.client.predict_client import RankerNotFound
from tests.export.toy_ranker import ITEM_IDS, USER_IDS
from tests.models.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def asking(both_stages):
    with RankerClient(both_stages) as asking:
        yield asking


def in_a_loop(run, asking, user, histories, count, seen=()):
    """What the two stages give, one after the other: all items compared in Python, the best ones ranked."""
    model, vectors = run.model, np.array(run.item_vectors)
    if histories:
        steps = [[ITEM_IDS.index(item) for item in histories[name].item_ids] for name in ("click", "pay")]
        vector = model.encode_users(*(tf.constant([rows], tf.int64) for rows in steps)).numpy()[0]
        seen = {*seen, *steps[0], *steps[1]}
    else:
        vector = np.array(run.user_vectors)[USER_IDS.index(user)]
    best = [item for item in np.argsort(-(vectors @ vector)) if item not in seen][:count]
    page = Page(user, [ITEM_IDS[item] for item in best], 1_700_000_000_000, histories=histories)
    return page.item_ids, asking.rank(page)


@pytest.mark.parametrize("user", USER_IDS)
@pytest.mark.parametrize("told", [False, True], ids=["by the user alone", "with histories"])
def test_the_answer_is_that_of_a_loop(asking, toy_retrieval, user, told):
    run = toy_retrieval.run
    seen = set(run.model.seen.items[run.model.seen.users == USER_IDS.index(user)].tolist())
    histories = {}
    if told:
        histories = {"click": History(["ring-4", "007"], [5, 4]), "pay": History(["7"], [3])}
    candidates, expected = in_a_loop(run, asking, user, histories, 9, seen)
    page = Page(user, (), 1_700_000_000_000, histories=histories)
    found = asking.recommend(page, 5, candidates=9)
    assert list(found.candidates) == candidates
    assert list(found.scores.items()) == list(expected.items())[:5]
    assert (found.retrieval_version, found.ranker_version) == (1, 11)
    assert min(found.retrieval_seconds, found.ranking_seconds) > 0


def test_what_is_known_of_candidates_is_asked_for_once_they_are_there(asking):
    asked = []

    def describe(items):
        asked.append(list(items))
        return {"clicks_7d": [len(item) for item in items], "impressions_7d": [30] * len(items)}

    page = Page("anna", (), 1_700_000_000_000)
    found = asking.recommend(page, describe=describe)
    assert asked == [list(found.candidates)]
    described = asking.rank(Page("anna", asked[0], page.timestamp, candidates=describe(asked[0])))
    assert found.scores == described
    assert found.scores != asking.recommend(page).scores


def test_seen_items_may_be_wanted_again(asking, toy_retrieval):
    run = toy_retrieval.run
    seen = {ITEM_IDS[item] for item in run.model.seen.items[run.model.seen.users == 0]}
    assert not seen & asking.recommend(USER_IDS[0]).candidates.keys()
    assert seen & asking.recommend(USER_IDS[0], exclude_seen=False).candidates.keys()


def test_errors_say_which_stage(both_stages, asking):
    with (
        RankerClient(both_stages, retriever=RetrievalClient(both_stages, "x")) as other,
        pytest.raises(RankerNotFound, match=r"Latest\(x\)"),
    ):
        other.recommend("anna")
    with pytest.raises(InputError, match=r"`user` must be a page without items. Received: 1 of them"):
        asking.recommend(Page("anna", ["7"]))


def test_the_command_prints_places_and_latency(both_stages, asking, tmp_path, capsys):
    data = write_tiny_dataset(tmp_path, items=20, users=5, pages=12).data
    line = client.main(["--user", "anna", "--k", "4", "--address", both_stages, "--data", str(data)])
    assert re.fullmatch(r"12 candidates of version 1 in \d+\.\d ms, ranked by version 11 in \d+\.\d ms", line)
    printed = capsys.readouterr().out
    items = re.findall(r"^ *\d+  (\S.*?) +\d\.\d{6} +\d+$", printed, re.MULTILINE)
    assert items == list(asking.recommend("anna", 4).scores)
    line = client.main(["--user", "user00001", "--address", both_stages, "--data", str(data)])
    assert re.search(r"user user00001, history: [1-9]\d* click", capsys.readouterr().out)
