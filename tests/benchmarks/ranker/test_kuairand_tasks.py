import numpy as np
import pytest

from benchmarks.ranker.kuairand_tasks import per_user, protocol


def ndcg_5(scores, positive):
    if not positive.any():
        return 0.0
    gains = positive[np.argsort(-scores)][:5]
    best = np.sort(positive)[::-1][:5]
    return sum(gains / np.log2(np.arange(len(gains)) + 2)) / sum(best / np.log2(np.arange(len(best)) + 2))


def pair_auc(scores, positive):
    pairs = scores[positive][:, None] - scores[~positive][None]
    return (np.sign(pairs) / 2 + 0.5).mean()


@pytest.fixture(scope="module")
def impressions():
    rng = np.random.default_rng(0)
    user = rng.permutation(np.concatenate([np.arange(30), rng.integers(0, 30, 200)]))
    return rng.random(230), rng.random(230) < 0.3, user


def test_per_user_metrics_are_those_of_their_definitions(impressions):
    scores, positive, user = impressions
    found = per_user(scores, positive, user)
    for number in range(30):
        mine = user == number
        assert found.ndcg[number] == pytest.approx(ndcg_5(scores[mine], positive[mine]))
        both = 0 < positive[mine].sum() < mine.sum()
        assert found.weight[number] == (positive[mine].sum() if both else 0)
        if both:
            assert found.auc[number] == pytest.approx(positive[mine].sum() * pair_auc(scores[mine], positive[mine]))
    assert 0 < (found.weight == 0).sum() < 30


def test_the_protocol_compares_with_the_first_system(impressions):
    scores, positive, user = impressions
    found = protocol({"fm": [scores, 1 - scores], "ours": [positive + 0.1 * scores]}, positive, user)
    assert found["fm"]["gauc"] == {"value": pytest.approx(0.5)}
    assert found["ours"]["gauc"]["value"] == 1
    assert found["ours"]["ndcg_5"]["value"] == pytest.approx((np.bincount(user, positive) > 0).mean())
    gap = found["ours"]["gauc"]
    assert gap["low"] <= gap["difference"] <= gap["high"]
    assert gap["low"] > 0
