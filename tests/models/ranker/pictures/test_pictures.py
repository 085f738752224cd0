"""What each picture feature gives to the item tower and to comparisons."""

import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError, InputError
from models.features.spec import FeatureSizes
from models.ranker.config import IMAGE_FEATURES, image_features_of
from models.ranker.pictures.pictures import PICTURE_FEATURES, Pictures
from models.ranker.pictures.semantic_id import PrefixEmbedding

SIZES = FeatureSizes(items=3, users=1, item={}, user={}, image_dims=(2,), clusters=2, levels=2, center_dim=2)
# Items 0 and 1 are of clusters 2 and 1, item 2 has no picture; the last row is the unknown item.
TABLES = {
    "image": np.array([[1, 0], [0, 1], [0, 0], [0, 0]], np.float32),
    "image_similarity": np.array([0.5, 0.25], np.float32),
    "image_1": np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], np.float32),
    "image_1_similarity": np.array([0.0, 0.5], np.float32),
    "cluster": np.array([2, 1, 0, 0], np.int32),
    "center": np.array([[0, 0], [0, 1], [1, 0]], np.float32),
    "center_similarity": np.array([0.25, 0.5], np.float32),
    "semantic": np.array([4, 1, 0, 0], np.int64),  # clusters 2 and 2, and 1 and 1
}
ROWS = tf.constant([1, 0, 2, 3, 9], tf.int64)  # 9 is beyond the table: unknown, too
VECTORS = [[0, 1], [1, 0], [0, 0], [0, 0], [0, 0]]


def filled(names, sizes=SIZES, **options):
    pictures = Pictures(names, sizes, **options)
    pictures.fill(TABLES)
    return pictures


def compared(pictures, candidates, steps, mask):
    """Rows of one page's candidates and steps."""
    vectors = [[each[None] for each in pictures(tf.constant(rows)).vectors] for rows in (candidates, steps)]
    return pictures.compare(*vectors, tf.constant([mask], tf.bool))


@pytest.mark.parametrize("names", [*IMAGE_FEATURES, "vector,simtier,simscore,semantic_id,cluster_id"])
def test_every_name_has_a_feature_that_gives_what_it_says(names):
    assert set(PICTURE_FEATURES) == set(IMAGE_FEATURES)
    pictures = filled(names)
    values = pictures(ROWS)
    assert len(values.ids) == pictures.id_count
    encoder = pictures.item_encoder(5)
    assert (encoder is not None) == (values.item is not None)
    if encoder is not None:
        assert encoder(values.item).shape == (5, 5)
        assert pictures.item_encoder(5, "mixed_bfloat16")(values.item).dtype == tf.bfloat16
    comparison = compared(pictures, [0, 1], [1, 2, 0], [True, True, False])
    assert [each.shape for each in comparison.pairs] == [(1, 2, 3)] * pictures.pair_features
    assert sum(each.shape[-1] for each in comparison.pooled) == pictures.pooled_dim
    again = Pictures.from_config(pictures.get_config())
    assert again.get_config() == pictures.get_config()
    assert [v.shape for v in again.variables] == [v.shape for v in pictures.variables]
    assert pictures.trainable_variables == []
    assert all(table.dtype in ("float32", "int32", "int64") for table in pictures.tables.values())


def test_names_are_joined_by_commas_or_a_sequence():
    assert image_features_of("simscore,vector") == image_features_of(["simscore", "vector"]) == ("simscore", "vector")
    for names, message in (("", "must be of none, vector"), ("vector,pixels", "Received: vector, pixels")):
        with pytest.raises(InputError, match=message):
            image_features_of(names)
    for names in ("none,vector", "vector,vector"):
        with pytest.raises(InputError, match="each name once, and `none` alone"):
            image_features_of(names)


def test_vectors_enter_the_item_tower_and_similarities_the_comparisons():
    np.testing.assert_array_equal(filled("vector")(ROWS).item, VECTORS)
    simscore = filled("simscore")
    np.testing.assert_array_equal(simscore(ROWS).vectors[0], VECTORS)
    comparison = compared(simscore, [0, 2], [0, 1, 2], [True, True, True])
    np.testing.assert_array_equal(comparison.pairs[0], [[[2, -2, 0], [0, 0, 0]]])


def test_clusters_are_ids_whose_centers_are_compared():
    pictures = filled("cluster_id")
    values = pictures(ROWS)
    np.testing.assert_array_equal(values.ids[0], [1, 2, 0, 0, 0])
    np.testing.assert_array_equal(values.item, values.ids[0])
    np.testing.assert_array_equal(values.vectors[0], VECTORS)
    # Row 4 is the first new item, of cluster 2; row 3 is still unknown.
    of_one_level = filled("cluster_id", SIZES.model_copy(update={"levels": 1}))
    new = of_one_level(tf.constant([3, 4], tf.int64), new_picture_ids=tf.constant([2], tf.int32))
    np.testing.assert_array_equal(new.ids[0], [0, 2])
    np.testing.assert_array_equal(new.vectors[0], [[0, 0], [1, 0]])
    plain = filled("cluster_id", embed_clusters=False)
    assert plain.item_encoder(5) is None
    assert plain(ROWS).item is None


def test_clusters_may_be_embedded_alone_as_in_the_paper():
    alone = filled("cluster_id", compare_clusters=False)
    assert [*alone.tables] == ["cluster"]
    values = alone(ROWS)
    np.testing.assert_array_equal(values.item, [1, 2, 0, 0, 0])
    assert (values.ids, values.vectors, alone.pair_features, alone.pooled_dim) == ((), (), 0, 0)
    with pytest.raises(ConfigurationError, match="compare_clusters: one must be true for the image feature cluster_id"):
        filled("cluster_id", embed_clusters=False, compare_clusters=False)


def test_prefixes_of_semantic_ids_are_ids_of_ever_finer_clusters():
    pictures = filled("cluster_id,semantic_id")
    first, prefix, whole = pictures(ROWS).ids
    np.testing.assert_array_equal(first, [1, 2, 0, 0, 0])
    np.testing.assert_array_equal(prefix, first)
    np.testing.assert_array_equal(whole, [1, 4, 0, 0, 0])
    # Of a new item, cluster 2 and then 1: its cluster is known, too.
    new = pictures(tf.constant([3, 4], tf.int64), new_picture_ids=tf.constant([3], tf.int64))
    np.testing.assert_array_equal(new.ids, [[0, 2], [0, 2], [0, 3]])
    np.testing.assert_array_equal(new.item[1], [0, 3])
    plain = filled("semantic_id", embed_clusters=False)
    assert plain.item_encoder(5) is plain(ROWS).item is None
    alone = filled("semantic_id", compare_clusters=False)
    assert alone(ROWS).ids == ()
    with pytest.raises(ConfigurationError, match="compare_clusters: one must be true for the image feature semantic"):
        filled("semantic_id", embed_clusters=False, compare_clusters=False)


@pytest.mark.parametrize(("clusters", "levels", "buckets"), [(2, 2, 100), (100, 3, 10_000), (2**15, 4, 7)])
def test_prefixes_share_a_table_by_hash(clusters, levels, buckets):
    """Against plain integers: hashes of Python, sums of rows."""

    def row(length, prefix):
        x = prefix + 1 + sum(clusters**n for n in range(1, length))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            x = (x ^ (x >> shift)) * factor % 2**64
        return (x >> 33) % buckets + 1

    rng = np.random.default_rng(0)
    numbers = [clusters**levels - 1, 0, *(int(n) for n in rng.integers(0, clusters**levels, 300))]
    layer = PrefixEmbedding(clusters, levels, buckets, 3)
    expected = [
        [row(length, number // clusters ** (levels - length)) for length in range(1, levels + 1)] for number in numbers
    ]
    given = tf.constant([number + 1 for number in numbers] + [0], tf.int64)
    rows = layer.rows(given).numpy()
    np.testing.assert_array_equal(rows, [*expected, [0] * levels])
    table = layer.embedding.embeddings.numpy()
    np.testing.assert_allclose(layer(given), table[rows].sum(axis=1), rtol=1e-5, atol=1e-6)
    # Pictures with a common first cluster have its row in common, and only by chance a longer prefix.
    if clusters == 100:
        assert len(np.unique(rows[:-1, 2])) > 290
    again = PrefixEmbedding.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_a_step_with_a_longer_common_prefix_matches_more_often(make, page):
    """The share of a history with the same prefix falls with its length, as NumPy counts it."""
    ranker = make("semantic_id")
    numbers = ranker.items.pictures.tables["semantic"].numpy() - 1
    clusters = ranker.sizes.clusters
    rows, steps = np.array([0, 5, 9, 13]), np.arange(20)
    both = [
        ranker.matcher.compared(tf.constant(each), ranker.items(tf.constant(each))).at(tf.range(len(each))[None])
        for each in (rows, steps)
    ]
    mask = np.arange(20) % 4 != 1
    ages = tf.fill((1, 20), tf.constant(1, tf.int64))
    pairs, pooled, _ = ranker.matcher.match(*both, tf.constant(mask[None]), ages)
    for length, match in zip((1, 2), pairs[-2:], strict=True):
        prefixes = np.where(numbers < 0, -1, numbers // clusters ** (2 - length))
        same = (prefixes[rows][:, None] == prefixes[steps]) & (prefixes[steps] >= 0) & mask
        np.testing.assert_array_equal(match[0], same)
        np.testing.assert_allclose(pooled[0][0, :, length - 3], same.sum(axis=1) / mask.sum(), rtol=1e-6)
    assert (pooled[0][0, :, -1] <= pooled[0][0, :, -2]).numpy().all()
    assert pooled[0][0, :, -2].numpy().max() > pooled[0][0, :, -1].numpy().max() > 0


def test_several_features_share_tables_and_each_embedding_has_its_own():
    sizes = SIZES.model_copy(update={"image_dims": (2, 3)})
    pictures = filled("vector,simscore,simtier", sizes)
    assert [*pictures.tables] == ["image", "image_1", "image_similarity", "image_1_similarity"]
    values = pictures(ROWS)
    assert [each.shape[1] for each in values.item] == [each.shape[1] for each in values.vectors] == [2, 3]
    comparison = compared(pictures, [0], [0, 1], [True, True])
    np.testing.assert_array_equal(np.concatenate(comparison.pairs)[:, 0], [[2, -2], [2, 2]])
    encoder = pictures.item_encoder(4)
    alone = [each(values.item[n]) for n, each in enumerate(encoder.encoders)]
    np.testing.assert_allclose(encoder(values.item), alone[0] + alone[1], rtol=1e-6)


def test_tiers_count_the_steps_by_standardised_cosine():
    rng = np.random.default_rng(0)
    mean, deviation = 0.1, 0.15
    tables = {"image": rng.normal(0.3, 1, (60, 4)).astype(np.float32), "image_similarity": [mean, deviation]}
    tables["image"][[5, 9, 59]] = 0
    tables["image"] /= np.maximum(np.linalg.norm(tables["image"], axis=1, keepdims=True), 1e-9)
    pictures = Pictures("simtier", FeatureSizes(items=59, users=1, item={}, user={}, image_dims=(4,)))
    pictures.fill(tables)
    rows, steps = np.arange(8), rng.integers(0, 60, 40)
    for mask in (rng.random(40) < 0.7, np.zeros(40, bool)):
        (histogram,) = compared(pictures, rows, steps, mask).pooled
        assert histogram.shape == (1, 8, pictures.pooled_dim)
        for candidate in rows:
            present = mask & tables["image"][steps].any(axis=1) & tables["image"][candidate].any()
            cosines = tables["image"][steps[present]] @ tables["image"][candidate]
            edges = [-np.inf, *np.arange(-2, 4.25, 0.5), np.inf]
            counts = np.histogram((cosines - mean) / deviation, edges)[0]
            np.testing.assert_allclose(histogram[0, candidate], np.log1p(counts), rtol=1e-5)
    assert compared(pictures, rows, steps[:0], mask[:0]).pooled[0].shape == (1, 8, pictures.pooled_dim)
