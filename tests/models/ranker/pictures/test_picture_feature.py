"""What each picture feature gives to the item tower and to comparisons."""

import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError
from models.features.spec import FeatureSizes
from models.ranker.config import IMAGE_FEATURES, RankerConfig
from models.ranker.pictures import PICTURE_FEATURES, make_picture_feature

SIZES = FeatureSizes(items=3, users=1, item={}, user={}, image_dim=2, clusters=2)
# Items 0 and 1 are of clusters 2 and 1, item 2 has no picture; the last row is the unknown item.
TABLES = {
    "image": np.array([[1, 0], [0, 1], [0, 0], [0, 0]], np.float32),
    "cluster": np.array([2, 1, 0, 0], np.int32),
    "center": np.array([[0, 0], [0, 1], [1, 0]], np.float32),
    "similarity": np.array([0.5, 0.25], np.float32),
}
ROWS = tf.constant([1, 0, 2, 3, 9], tf.int64)  # 9 is beyond the table: unknown, too
VECTORS = [[0, 1], [1, 0], [0, 0], [0, 0], [0, 0]]


def filled(name, config=None):
    feature = make_picture_feature(name, SIZES, config or RankerConfig())
    feature.fill(TABLES)
    return feature


def test_every_name_has_a_feature_that_gives_what_it_says():
    assert set(PICTURE_FEATURES) == set(IMAGE_FEATURES)
    for name in IMAGE_FEATURES:
        feature = filled(name)
        values = feature(ROWS)
        assert (values.ids is not None, values.vectors is not None) == (feature.compares_ids, feature.compares_vectors)
        encoder = feature.item_encoder(5)
        assert (encoder is not None) == (values.item is not None)
        if encoder is not None:
            assert encoder(values.item).shape == (5, 5)
        again = type(feature).from_config(feature.get_config())
        assert again.get_config() == feature.get_config()
        assert [v.shape for v in again.variables] == [v.shape for v in feature.variables]
        assert feature.trainable_variables == []


def test_vectors_enter_the_item_tower_and_similarities_the_comparisons():
    np.testing.assert_array_equal(filled("vector")(ROWS).item, VECTORS)
    np.testing.assert_array_equal(filled("simscore")(ROWS).vectors, VECTORS)
    cosines, present = tf.constant([[1.0, 0.25]]), tf.constant([[True, False]])
    np.testing.assert_array_equal(filled("simscore").standardize(cosines, present), [[2, 0]])


def test_clusters_are_ids_whose_centers_are_compared():
    feature = filled("cluster_id")
    values = feature(ROWS)
    np.testing.assert_array_equal(values.ids, [1, 2, 0, 0, 0])
    np.testing.assert_array_equal(values.item, values.ids)
    np.testing.assert_array_equal(values.vectors, VECTORS)
    # Row 4 is the first new item, of cluster 2; row 3 is still unknown.
    new = feature(tf.constant([3, 4], tf.int64), new_clusters=tf.constant([2], tf.int32))
    np.testing.assert_array_equal(new.ids, [0, 2])
    np.testing.assert_array_equal(new.vectors, [[0, 0], [1, 0]])
    assert filled("cluster_id", RankerConfig(embed_clusters=False)).item_encoder(5) is None


def test_the_cluster_of_the_paper_is_an_embedding_alone():
    feature = filled("cluster_id", RankerConfig(compare_clusters=False))
    values = feature(tf.constant([3, 4], tf.int64), new_clusters=tf.constant([2], tf.int32))
    np.testing.assert_array_equal(values.item, [0, 2])
    assert values.ids is values.vectors is None
    assert not feature.compares_ids
    assert not feature.compares_vectors
    assert type(feature).from_config(feature.get_config()).tables.keys() == {"cluster"}
    with pytest.raises(ConfigurationError, match="one must be true"):
        filled("cluster_id", RankerConfig(embed_clusters=False, compare_clusters=False))


@pytest.mark.parametrize("name", IMAGE_FEATURES)
def test_an_encoder_of_half_precision_leaves_the_tables_as_they_are(name):
    feature = filled(name)
    encoder = feature.item_encoder(5, "mixed_bfloat16")
    if encoder is not None:
        assert encoder(feature(ROWS).item).dtype == tf.bfloat16
    assert all(table.dtype in ("float32", "int32") for table in feature.tables.values())
