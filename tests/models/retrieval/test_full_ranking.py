import itertools

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.retrieval import full_ranking
from models.retrieval.full_ranking import measure_ranking
from models.retrieval.interactions import Pairs


def pairs(*rows):
    users, items = np.array(rows, np.int32).reshape(-1, 2).T
    return Pairs(users, items)


def counted(scores, relevant, seen, k):
    """Sorts and counts, user by user; no equal scores."""
    recalls, gains = [], []
    for user in range(len(scores)):
        known = {int(item) for item in seen.items[seen.users == user]}
        wanted = {int(item) for item in relevant.items[relevant.users == user]} - known
        if not wanted or not known:
            continue
        order = [item for item in np.argsort(-scores[user]) if item not in known][:k]
        hits = [item in wanted for item in order]
        ideal = sum(1 / np.log2(place + 2) for place in range(min(k, len(wanted))))
        recalls.append(sum(hits) / len(wanted))
        gains.append(sum(hit / np.log2(place + 2) for place, hit in enumerate(hits)) / ideal)
    return np.mean(recalls), np.mean(gains)


def draw(users, items, dim, seed):
    random = np.random.default_rng(seed)
    vectors = [random.normal(size=(n, dim)).astype(np.float32) for n in (users, items)]
    chosen = random.random((2, users, items)) < 0.15
    relevant, seen = (pairs(*np.argwhere(each)) for each in chosen)
    return *vectors, relevant, seen


@pytest.mark.parametrize(("users", "items", "together"), [(1, 5, 1), (20, 30, 1 << 24), (40, 9, 50), (17, 60, 400)])
def test_metrics_are_those_of_sorting_and_counting(users, items, together, monkeypatch):
    monkeypatch.setattr(full_ranking, "_VALUES_TOGETHER", together)  # several blocks
    user_vectors, item_vectors, relevant, seen = draw(users, items, 4, seed=users)
    if users == 1:
        relevant, seen = pairs((0, 1), (0, 3)), pairs((0, 0), (0, 3))
    measured = measure_ranking(user_vectors, item_vectors, relevant, seen, (1, 3, 100))
    for k in (1, 3, 100):
        expected = counted(user_vectors @ item_vectors.T, relevant, seen, k)
        assert (measured[f"recall@{k}"], measured[f"ndcg@{k}"]) == pytest.approx(expected, rel=1e-6)


def test_equal_scores_give_the_mean_over_all_their_orders():
    user = np.ones((1, 1), np.float32)
    scores = np.array([3, 2, 2, 2, 1], np.float32)
    relevant, seen = pairs((0, 1), (0, 4)), pairs((0, 0))
    scores[0] = 9
    orders = [(*middle, 4) for middle in itertools.permutations((1, 2, 3))]
    for k in (1, 2, 3, 4):
        measured = measure_ranking(user, scores[:, None], relevant, seen, (k,))
        ideal = sum(1 / np.log2(place + 2) for place in range(min(k, 2)))
        assert measured[f"recall@{k}"] == pytest.approx(np.mean([sum(i in (1, 4) for i in o[:k]) / 2 for o in orders]))
        gain = np.mean([sum((i in (1, 4)) / np.log2(n + 2) for n, i in enumerate(o[:k])) / ideal for o in orders])
        assert measured[f"ndcg@{k}"] == pytest.approx(gain)


def test_constant_scores_give_what_chance_gives():
    measured = measure_ranking(np.zeros((3, 2)), np.ones((11, 2)), pairs((0, 4), (1, 0)), pairs((0, 1), (1, 2)), (5,))
    assert measured["recall@5"] == pytest.approx(5 / 10)


def test_another_order_of_items_changes_nothing():
    user_vectors, item_vectors, relevant, seen = draw(20, 30, 4, seed=2)
    item_vectors = np.round(item_vectors)  # many equal scores
    order = np.random.default_rng(0).permutation(30)
    place = np.argsort(order)
    renamed = (Pairs(each.users, place[each.items].astype(np.int32)) for each in (relevant, seen))
    expected = measure_ranking(user_vectors.round(), item_vectors, relevant, seen)
    assert measure_ranking(user_vectors.round(), item_vectors[order], *renamed) == pytest.approx(expected, rel=1e-6)


def test_what_was_learned_from_is_neither_a_candidate_nor_looked_for():
    vectors = np.array([[4.0], [3], [2], [1]], np.float32)
    user = np.ones((2, 1), np.float32)
    measured = measure_ranking(user, vectors, pairs((0, 0), (0, 2), (1, 0)), pairs((0, 0), (0, 1)), (1,))
    assert (measured["recall@1"], measured["users"], measured["pairs"]) == (1, 1, 1)  # the second user learned nothing


def test_without_users_there_is_no_figure_and_without_order_an_error():
    assert np.isnan(measure_ranking(np.ones((1, 1)), np.ones((3, 1)), pairs(), pairs((0, 0)))["recall@20"])
    with pytest.raises(InputError, match="not finite"):
        measure_ranking(np.full((1, 1), np.nan), np.ones((3, 1)), pairs((0, 1)), pairs((0, 0)))
