import numpy as np
import pytest

from models.metrics.effective_rank import effective_rank, mean_cosine


def draw(n=40, dim=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) * rng.uniform(0.1, 3.0, dim)


@pytest.mark.parametrize(("n", "dim"), [(1, 4), (5, 5), (40, 7), (6, 30), (200, 3)])
def test_equals_the_definition(n, dim):
    embeddings = draw(n, dim)
    rows = [row / np.sqrt(sum(x * x for x in row)) for row in embeddings]
    singular = np.linalg.svd(np.array(rows), compute_uv=False)
    entropy = -sum(p * np.log(p) for p in singular / singular.sum() if p > 0)
    assert effective_rank(embeddings) == pytest.approx(np.exp(entropy), rel=1e-6)
    assert 1 - 1e-9 <= effective_rank(embeddings) <= min(n, dim) + 1e-9
    if n > 1:
        cosines = [rows[i] @ rows[j] for i in range(n) for j in range(n) if i != j]
        assert mean_cosine(embeddings) == pytest.approx(np.mean(cosines), abs=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 9])
def test_directions_used_alike_all_count(dim):
    assert effective_rank(np.tile(np.eye(dim), (3, 1))) == pytest.approx(dim)


def test_one_direction_is_rank_one_also_in_float32_with_noise():
    direction = np.random.default_rng(1).normal(size=16).astype(np.float32)
    line = np.linspace(-2, 2, 50, dtype=np.float32)[:, None] * direction
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-5)
    alike = direction + 1e-6 * np.random.default_rng(2).normal(size=(50, 16)).astype(np.float32)
    assert effective_rank(alike) == pytest.approx(1.0, abs=1e-3)  # with the mean removed it would be that of the noise
    assert mean_cosine(alike) == pytest.approx(1.0)


def test_shares_of_two_directions_give_the_entropy_of_their_singular_values():
    embeddings = np.array([[1.0, 0.0]] * 9 + [[0.0, 5.0]])  # singular values 3 and 1
    assert effective_rank(embeddings) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))


def test_rotation_lengths_and_order_do_not_matter():
    embeddings, rng = draw(), np.random.default_rng(3)
    rotation, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    for same in (embeddings @ rotation, embeddings * rng.uniform(0.01, 9, (40, 1)), rng.permutation(embeddings)):
        assert effective_rank(same) == pytest.approx(effective_rank(embeddings))
        assert mean_cosine(same) == pytest.approx(mean_cosine(embeddings))


def test_degenerate_embeddings():
    assert effective_rank(np.zeros((4, 3))) == 0.0
    assert np.isnan(effective_rank(np.array([[1.0, np.nan]])))
    assert np.isnan(mean_cosine(np.ones((1, 3))))
    assert mean_cosine(np.eye(4)) == pytest.approx(0.0)
    with pytest.raises(ValueError, match=r"`embeddings` must have shape \(n, dim\)"):
        effective_rank(np.ones(3))
