import numpy as np
import pytest

from models.embeddings.identity_recall import RANKS, counterpart_ranks, counterparts, identity_recall


def test_counterparts_are_the_groups_of_exactly_two():
    assert counterparts(np.array([4, 7, 4, 9, 9, 9, -1, -1])).tolist() == [2, -1, 0, -1, -1, -1, -1, -1]
    assert counterparts(np.zeros(0, np.int64)).tolist() == []


def test_exact_ranks():
    neighbours = np.array([[5, 3, 8], [5, 3, 8], [5, 3, 8]])
    assert counterpart_ranks(neighbours, np.array([5, 8, 1])).tolist() == [1, 3, 0]


def test_exact_recall():
    ranks = np.array([1, 2, 5, 6, 0, 20, 15, 11])
    result = identity_recall(ranks)
    assert result.recall == {1: 1 / 8, 5: 3 / 8, 10: 4 / 8, 15: 6 / 8, 20: 7 / 8}
    assert result.queries == 8
    assert result.standard_error[10] == pytest.approx(np.sqrt(0.5 * 0.5 / 8))


def test_recall_never_falls_with_k_and_equals_a_loop():
    rng = np.random.default_rng(0)
    neighbours = np.array([rng.permutation(100)[:20] for _ in range(200)])
    counterpart = rng.integers(0, 100, 200)
    recall = identity_recall(counterpart_ranks(neighbours, counterpart)).recall
    for k in RANKS:
        assert recall[k] == np.mean([c in row[:k] for row, c in zip(neighbours, counterpart, strict=True)])
    assert list(recall.values()) == sorted(recall.values())
    assert recall[20] == pytest.approx(0.2, abs=0.1)  # chance


def test_no_query_has_no_recall():
    result = identity_recall(np.zeros(0, np.int64))
    assert result.queries == 0
    assert np.isnan(list(result.recall.values())).all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"Received: \(2, 3\) and \(3,\)"):
        counterpart_ranks(np.zeros((2, 3)), np.zeros(3))
