import numpy as np
import pytest
import tensorflow as tf

from export.retrieval.graph import RetrievalModule
from export.retrieval.item_index import BruteForce
from export.retrieval.served_vectors import ServedVectors
from tests.export.toy_ranker import ITEM_IDS, USER_IDS
from tests.export.toy_retriever import make_toy_retriever


def texts(rows):
    longest = max(len(row) for row in rows)
    return np.array([[text.encode() for text in [*row, *[""] * (longest - len(row))]] for row in rows], object)


def ask(module, user_ids, exclude=True, **histories):
    """Items by user, and scores by item."""
    request = {"user_id": np.array([user.encode() for user in user_ids], object), "exclude_seen": np.array([exclude])}
    for name, each in module.inputs.items():
        if each.per in ("click", "pay"):
            request[name] = texts(histories[name]) if name in histories else np.empty((1, 0), object)
    answer = module(request)
    items = [[item.decode() for item in row if item] for row in answer["item_id"].numpy()]
    scores = answer["score"].numpy()
    assert all((row[len(found) :] == 0).all() for row, found in zip(scores, items, strict=True))
    assert all((np.diff(row[: len(found)]) <= 0).all() for row, found in zip(scores, items, strict=True))
    return items, scores


@pytest.fixture(scope="module", params=["two_tower", "bpr"])
def served(request, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("served")
    run = make_toy_retriever(scratch, request.param)
    vectors = ServedVectors.of(run)
    return run, vectors, RetrievalModule(vectors, BruteForce(vectors.items, 20), scratch)


def test_users_get_what_the_run_recommends(served):
    run, vectors, module = served
    items, scores = ask(module, USER_IDS)
    assert items == run.recommend(USER_IDS, 20)
    with_seen, _ = ask(module, USER_IDS, exclude=False)
    for row, user in enumerate(USER_IDS):
        products = vectors.items @ vectors.users[row]
        assert with_seen[row] == [ITEM_IDS[item] for item in np.argsort(-products)[:20]]
        rows = [ITEM_IDS.index(item) for item in items[row]]
        np.testing.assert_allclose(scores[row][: len(rows)], products[rows], atol=1e-6)
        assert ask(module, [user])[0] == [items[row]]
    assert any(one != other for one, other in zip(items, with_seen, strict=True))
    assert min(map(len, items)) < 20 or len(vectors.seen) < 30


def test_histories_count_instead_of_what_is_known(served):
    run, vectors, module = served
    if vectors.tower is None:
        assert not {"click_item_id", "pay_item_id"} & module.inputs.keys()
        assert ask(module, ["nobody"])[0] == [[]]
        return
    click, pay = ["ring-3", "not here", "7"], ["指輪 2"]
    rows = [ITEM_IDS.index("ring-3"), ITEM_IDS.index("7")], [ITEM_IDS.index("指輪 2")]
    user = run.model.encode_users(tf.constant([rows[0]]), tf.constant([rows[1]])).numpy()[0]
    order = np.argsort(-(vectors.items @ user))
    found, _ = ask(module, ["nobody"], click_item_id=[click], pay_item_id=[pay])
    assert found == [[ITEM_IDS[item] for item in order if item not in [*rows[0], *rows[1]]][:20]]
    kept, _ = ask(module, ["nobody"], exclude=False, click_item_id=[click], pay_item_id=[pay])
    assert kept == [[ITEM_IDS[item] for item in order[:20]]]
    # Histories of nothing that is known are none.
    unknown, _ = ask(module, [USER_IDS[0]], click_item_id=[["not here"]])
    assert unknown == ask(module, [USER_IDS[0]])[0]
    empty = run.model.encode_users(tf.zeros([1, 0], tf.int64), tf.zeros([1, 0], tf.int64)).numpy()[0]
    assert ask(module, ["nobody"])[0] == [[ITEM_IDS[item] for item in np.argsort(-(vectors.items @ empty))[:20]]]
    # Each row is told on its own.
    both, _ = ask(module, ["nobody", USER_IDS[0]], click_item_id=[click, []], pay_item_id=[pay, []])
    assert both == [*found, *unknown]


def test_rows_that_do_not_belong_together_are_refused(served):
    _, vectors, module = served
    if vectors.tower is not None:
        with pytest.raises(tf.errors.InvalidArgumentError, match="click_item_id must have one row per user_id"):
            ask(module, ["nobody", "anna"], click_item_id=[["7"]])
    assert ask(module, [])[0] == []
