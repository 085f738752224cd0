import numpy as np
import pytest
import tensorflow as tf

from models.embeddings.embeddings import Embeddings
from models.embeddings.vectors import l2_normalize
from models.features.adapt import adapt_features, similarity_scale
from models.layers import matches
from tests.models.ranker.ranker_pages import CONFIG, ctr

DAY = 86_400_000
AGES = tf.constant([[DAY, 2 * DAY, 3 * DAY]], tf.int64)


def compared_by(ranker, page_of_items):
    (rows,) = page_of_items
    return ranker.matcher.compared(rows, ranker.items(rows)).at(tf.range(len(rows))[None])


def test_unknown_steps_match_no_unknown_candidate(make):
    ranker = make("none")
    items = tf.constant([[ranker.sizes.items, 3]], tf.int64)
    compared = compared_by(ranker, items)
    pairs, pooled, _ = ranker.matcher.match(compared, compared, tf.constant([[True, True]]), AGES[:, :2])
    np.testing.assert_array_equal(pairs[0][0], [[0, 0], [0, 1]])
    share, number, _ = pooled
    np.testing.assert_array_equal(share[0, :, 0], [0, 0.5])
    np.testing.assert_allclose(number[0, :, 0], np.log1p([0, 1]), rtol=1e-6)


def test_the_newest_match_is_the_youngest_step_of_the_same_id():
    rng = np.random.default_rng(0)
    candidates, steps = rng.integers(0, 4, (5, 3)), rng.integers(0, 4, (5, 6))
    known, ages = (rng.random((5, 6)) < 0.7) & (steps > 0), rng.integers(-5, 90, (5, 6)) * DAY // 7
    known[2] = False
    has, days = matches.newest_match(matches.same_id(candidates, steps, known), tf.constant(ages))
    for b, c in np.ndindex(5, 3):
        same = ages[b][known[b] & (steps[b] == candidates[b, c])]
        assert has[b, c] == bool(len(same))
        expected = np.log(max(same.min(), 60_000) / DAY) if len(same) else 0
        assert float(days[b, c]) == pytest.approx(expected, abs=1e-5)
    empty = matches.newest_match(tf.zeros((2, 3, 0)), tf.zeros((2, 0), tf.int64))
    np.testing.assert_array_equal(empty, np.zeros((2, 2, 3)))


def test_recency_is_said_of_every_comparison_of_ids(make):
    ranker = make("cluster_id")
    compared = compared_by(ranker, tf.constant([[0, 3, 4]], tf.int64))
    mask = tf.constant([[False, True, True]])
    _, (share, _, newest, cosines), _ = ranker.matcher.match(compared, compared, mask, AGES)
    assert share.shape[-1] == 3  # item, category, cluster
    assert ranker.matcher.pooled_dim == 12 + 3 == sum(each.shape[-1] for each in (share, share, newest, cosines))
    np.testing.assert_allclose(newest[0, :, :2], [[0, 0], [1, np.log(2)], [1, np.log(3)]], rtol=1e-5)
    np.testing.assert_array_equal(newest[0, :, ::2], share[0] > 0)
    plain = make("cluster_id", CONFIG.model_copy(update={"match_recency": False}))
    assert plain.matcher.pooled_dim == 6 + 3


def test_clusters_may_be_compared_without_an_embedding(make, page):
    ranker = make("cluster_id", CONFIG.model_copy(update={"embed_clusters": False}))
    assert ranker.members[0].items.picture_encoder is None
    before, cluster = ctr(ranker, page), ranker.items.pictures.tables["cluster"]
    history = page | {"click_item": page["click_item"][:, :0], "click_time": page["click_time"][:, :0]}
    history |= {name: page[name][:, :0] for name in ("pay_item", "pay_time")}
    alone = ctr(ranker, history)
    cluster.assign(np.roll(cluster.numpy(), 1))
    assert np.abs(ctr(ranker, page) - before).max() > 1e-3
    np.testing.assert_array_equal(ctr(ranker, history), alone)  # a cluster by itself says nothing


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_half_precision_vectors_fill_the_same_table_whatever_their_scale(tiny, dataset, counts, resolve, scale):
    vectors = Embeddings.load(tiny.embeddings).vectors
    tables = [
        adapt_features(
            resolve(CONFIG).features,
            dataset.items(),
            dataset.users(),
            counts,
            token_buckets=50,
            image_embeddings=[images],
        ).pictures["image"]
        for images in (vectors, (vectors * scale).astype(np.float16))
    ]
    assert tables[1].dtype == np.float32
    np.testing.assert_allclose(tables[1], tables[0], atol=2e-3)


def test_histories_and_images_move_the_scores(make, page):
    tables = [("vector", "image"), ("simscore", "image"), ("cluster_id", "cluster"), ("cluster_id", "center")]
    tables += [("simtier", "image"), ("semantic_id", "semantic"), ("make", "image")]
    for image_feature, table in tables:
        ranker = make(image_feature)
        before = ctr(ranker, page)
        variable = ranker.items.pictures.tables[table]
        variable.assign(np.roll(variable.numpy(), 1, axis=0))
        assert np.abs(ctr(ranker, page) - before).max() > 1e-3
    for history in ("click", "pay"):
        blank = page | {f"{history}_item": tf.fill(page[f"{history}_item"].shape, tf.constant(-1, tf.int64))}
        assert np.abs(ctr(ranker, blank) - ctr(ranker, page)).max() > 1e-3


def test_matches_equal_their_definition():
    rng = np.random.default_rng(0)
    candidates, steps = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 7, 5))
    candidates[0, 1], steps[:, 2] = 0, 0
    unit = [v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9) for v in (candidates, steps)]
    similarity = matches.cosine(*unit).numpy()
    mask = rng.random((3, 1, 7)) < 0.5
    mask[1] = False
    for b, c in np.ndindex(3, 4):
        for t in range(7):
            norm = np.linalg.norm(candidates[b, c]) * np.linalg.norm(steps[b, t])
            assert similarity[b, c, t] == pytest.approx(candidates[b, c] @ steps[b, t] / norm if norm else 0, abs=1e-9)
        valid = np.sort(similarity[b, c][mask[b, 0]])[::-1]
        for count in (1, 3, 10):
            ours = float(matches.mean_of_largest(similarity, mask, count)[b, c])
            assert ours == pytest.approx(valid[:count].mean() if len(valid) else 0, abs=1e-9)
        mean = float(matches.mean_match(similarity, mask[:, 0])[b, c])
        assert mean == pytest.approx(valid.mean() if len(valid) else 0, abs=1e-9)
    ids = np.array([[1, 2, 0]]), np.array([[2, 2, 0, 1]])
    same = matches.same_id(*ids, np.array([[True, False, False, True]]))
    np.testing.assert_array_equal(same, [[[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]])
    assert matches.mean_of_largest(similarity[:, :, :0], mask[:, :, :0], 2).shape == (3, 4)


@pytest.mark.parametrize(("image_feature", "place"), [("simscore", 2), ("cluster_id", 3)])
def test_similarity_is_in_standard_deviations_and_leaves_out_missing_pictures(make, image_feature, place):
    """Of embeddings, and of the centers of clusters."""
    ranker = make(image_feature)
    rows = tf.constant([[0, 1, 2]], tf.int64)
    images = ranker.items(rows[0]).pictures.vectors[0].numpy()
    assert not images[0].any()  # item 0 has no picture
    compared = compared_by(ranker, rows)
    pairs, pooled, _ = ranker.matcher.match(compared, compared, tf.constant([[True, True, True]]), AGES)
    (scale,) = [table for name, table in ranker.items.pictures.tables.items() if name.endswith("_similarity")]
    mean, deviation = scale.numpy()
    cosine, one = (images[1] @ images[2] - mean) / deviation, (1 - mean) / deviation
    np.testing.assert_allclose(pairs[place][0], [[0, 0, 0], [0, one, cosine], [0, cosine, one]], atol=1e-5)
    both = (one + cosine) / 2
    expected = [[0, 0, 0], [one, both, both], [one, both, both]]
    np.testing.assert_allclose(pooled[-1][0], expected, atol=1e-5)
    _, of_nothing, _ = ranker.matcher.match(compared, compared, tf.constant([[True, False, False]]), AGES)
    np.testing.assert_array_equal(of_nothing[-1], np.zeros((1, 3, 3)))


def test_the_scale_of_similarity_is_that_of_all_pairs_of_items():
    rng = np.random.default_rng(0)
    vectors = l2_normalize(rng.normal(0.5, 1, size=(7, 4)))
    vectors[[2, 5]] = 0
    counts = np.array([3, 1, 9, 0, 2, 1, 4])
    items = np.repeat(np.arange(7), np.where(vectors.any(axis=1), counts, 0))
    cosines = [vectors[a] @ vectors[b] for i, a in enumerate(items) for j, b in enumerate(items) if i != j]
    expected = [np.mean(cosines), np.std(cosines)]
    np.testing.assert_allclose(similarity_scale(vectors, counts), expected, rtol=1e-5)
    order = rng.permutation(7)
    np.testing.assert_allclose(similarity_scale(vectors[order], counts[order]), expected, rtol=1e-5)
    np.testing.assert_allclose(similarity_scale(vectors[items], np.ones(len(items))), expected, rtol=1e-5)
    np.testing.assert_array_equal(similarity_scale(vectors[:1], np.array([1])), [0, 1])
    np.testing.assert_array_equal(similarity_scale(vectors * 0, counts), [0, 1])
    same = similarity_scale(vectors[:1], np.array([5]))
    np.testing.assert_allclose(same, [1, 1], rtol=1e-6)
