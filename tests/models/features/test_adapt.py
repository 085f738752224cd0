import re

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Window
from beam_pipelines.format.records import FEATURES
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import PageLengths, Pages, page_batches, split_by_share
from models.features.adapt import adapt_features
from models.features.dense_features import DenseFeatures
from models.features.embeddings import FeatureEmbeddings
from models.features.number_scale import NumberScale, scale_of
from models.features.spec import (
    STATISTICS,
    CategoryFeature,
    FeaturesConfig,
    HashFeature,
    IdFeature,
    NumberFeature,
    TextFeature,
    resolve_features,
)
from models.features.tables import FeatureTable
from models.features.training_counts import TrainingCounts, count_training
from models.features.vocabulary import FeatureVocabulary
from models.layers.id_embedding import IdEmbedding
from models.layers.text_embedding import TextEmbedding, hash_tokens
from models.ranker.config import TrainingConfig
from tests.models.tiny_dataset import write_tiny_dataset

ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d"],
        "category": ["x", "y", "new", ""],
        "title": ["red dress", "", "red", None],
        "stat_price": [1.0, 3.0, 1e6, None],
        "stat_sold": [None, None, 5, 6],
        "label_style": ["s", "t", "s", "t"],
        "colour": ["blue", "red", "blue", None],
    }
)
USERS = pa.table({"user_id": ["u", "v"], "cat_city": ["p", "q"], "stat_age": [20.0, 40.0]})
SEEN = TrainingCounts(np.array([1, 1, 0, 1]), np.array([3, 0]), {name: np.array([1.0, 3.0]) for name in STATISTICS})


def tables_of(features=None, counts=SEEN, items=ITEMS):
    resolved = resolve_features(FeaturesConfig(**(features or {})), items.schema, USERS.schema)
    return adapt_features(resolved, items, USERS, counts, token_buckets=10_000)


def test_everything_the_contract_gives_a_meaning_is_a_feature_unless_told_otherwise():
    resolved = resolve_features(FeaturesConfig(), ITEMS.schema, USERS.schema)
    number = NumberFeature()
    assert resolved.item == {
        "item_id": IdFeature(),
        "category": CategoryFeature(match=True),
        "title": TextFeature(),
        "stat_price": number,
        "stat_sold": number,
    }
    assert resolved.user == {"user_id": IdFeature(match=False), "cat_city": CategoryFeature(), "stat_age": number}
    assert set(resolved.candidate) == set(STATISTICS)
    assert {f.name for f in FEATURES if f.group == "candidates"} > set(STATISTICS)
    assert resolve_features(resolved, ITEMS.schema, USERS.schema) == resolved
    more = ITEMS.append_column("cat_size", pa.array(["s", "m", "l", "l"]))
    assert resolve_features(FeaturesConfig(), more.schema, USERS.schema).item["cat_size"] == CategoryFeature(match=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "item={colour: {type: paint}}",
            "item.colour.type: must be one of id, category, hash, text, number. Received: ",
        ),
        ("item={colour: {buckets: 3}}", "item.colour.type: must be one of"),
        ("item={colour: {type: hash, bucket: 3}}", "unknown key ranker.features.item.colour.bucket (known: type, buck"),
        ("item={stat_price: {type: number, buckets: 1}}", "ranker.features.item.stat_price.buckets: Input should be"),
        ("item={weight: {type: number}}", "ranker.features.item.weight: the item table has no such column (it has: "),
        ("item={label_style: {type: category}}", "ranker.features.item.label_style: label_* columns are for "),
        ("item={stat_price: {type: category}}", "item.stat_price: the column holds double, which is of type number"),
        ("item={colour: {type: number}}", "item.colour: the column holds string, which is of type category, hash or"),
        ("item={item_id: {type: category}}", "item.item_id: must be of type id, which is that of item_id. Rec"),
        ("item={colour: {type: id}}", "ranker.features.item.colour: must not be of type id"),
        ("user={stat_height: {type: number}}", "ranker.features.user.stat_height: the user table has no such column"),
        ("candidate={clicks_3d: {type: number}}", "ranker.features.candidate.clicks_3d: no number of the page records"),
        ("candidate={clicks_7d: {type: hash}}", "ranker.features.candidate.clicks_7d.type: Input should be 'number'"),
    ],
)
def test_a_feature_that_cannot_be_is_refused_by_name(override, message):
    def resolve():
        config = load_config(TrainingConfig, None, [f"ranker.features.{override}"])
        resolve_features(config.ranker.features, ITEMS.schema, USERS.schema)

    with pytest.raises(InputError, match=re.escape(message)):
        resolve()


def test_rare_ids_share_the_unknown_one():
    counts = SEEN._replace(items=np.array([5, 4, 9, 0]), users=np.array([1, 7]))
    tables = tables_of({"item": {"item_id": IdFeature(min_count=5)}}, counts)
    np.testing.assert_array_equal(tables.items["item_id"], [1, 0, 2, 0, 0])
    np.testing.assert_array_equal(tables.users["user_id"], [0, 1, 0])
    assert (tables.sizes.item, tables.sizes.user) == ({"item_id": 2}, {"user_id": 1, "cat_city": 2, "stat_age": 0})


def test_what_training_never_saw_is_unknown_and_shapes_no_scale():
    tables = tables_of()
    np.testing.assert_array_equal(tables.items["category"], [1, 2, 0, 0, 0])
    assert tables.vocabulary.item["category"] == ("x", "y")
    np.testing.assert_allclose(tables.items["stat_price"], [-1, 1, 1, 0, 0])  # a million is clipped
    np.testing.assert_allclose(tables.items["stat_sold"], [0, 0, 0, 0, 0])  # one value seen: 6
    assert tables.vocabulary.item["stat_price"] == NumberScale(mean=2, deviation=1, low=1, high=3, seen=3, missing=1)
    np.testing.assert_array_equal(tables.items["title"][[1, 3, 4]], np.full((3, 16), -1))
    np.testing.assert_array_equal(
        tables.items["title"][:, 0][[0, 2]], hash_tokens(["red"] * 2, 10_000, 1).numpy()[:, 0]
    )


def test_frequent_categories_hashes_and_quantiles():
    counts = SEEN._replace(items=np.array([3, 1, 5, 1]))
    features = {
        "category": CategoryFeature(min_count=3),
        "colour": HashFeature(buckets=7),
        "stat_price": NumberFeature(transform="buckets", buckets=2),
        "stat_sold": NumberFeature(transform="log"),
    }
    tables = tables_of({"item": features}, counts)
    np.testing.assert_array_equal(tables.items["category"], [2, 0, 1, 0, 0])
    colours = tables.items["colour"]
    assert colours[0] == colours[2] != colours[1]
    assert colours[:3].min() >= 1
    assert colours[:3].max() <= 7
    assert (colours[3:] == 0).all()
    np.testing.assert_array_equal(tables.items["stat_price"], [1, 2, 2, 0, 0])  # the median, 3, begins the second
    logs = np.log1p([5.0, 6.0])
    np.testing.assert_allclose(tables.items["stat_sold"], [0, 0, -1, 1, 0], atol=1e-5)
    assert tables.vocabulary.item["stat_sold"].mean == pytest.approx(logs.mean())
    assert tables.sizes.item == {"category": 2, "colour": 7, "stat_price": 2, "stat_sold": 0}
    table = FeatureTable(features, 5)
    for name, rows in tables.items.items():
        table.tables[name].assign(rows)
    layer = FeatureEmbeddings(features, tables.sizes.item, 3, TextEmbedding(9, 3))
    found = layer(table(tf.constant([2, 4])))
    assert {name: values.shape[1] for name, values in found.items()} == {
        "category": 3,
        "colour": 3,
        "stat_price": 3,
        "stat_sold": 1,
    }
    np.testing.assert_array_equal(found["category"][0], layer.embeddings["category"].get_weights()[0][1])
    assert layer.output_dim == 10


def test_numbers_of_candidates_are_transformed_as_training_saw_them():
    rng = np.random.default_rng(0)
    seen = {"impressions_7d": rng.poisson(40, 500).astype(float), "ctr_7d": rng.random(500), "pays_30d": rng.random(99)}
    features = {
        "impressions_7d": NumberFeature(transform="log"),
        "ctr_7d": NumberFeature(),
        "pays_30d": NumberFeature(transform="buckets", buckets=4),
    }
    layer = DenseFeatures(features, 3)
    scales = {name: scale_of(seen[name], feature) for name, feature in features.items()}
    layer.fill(scales)
    page = {"impressions_7d": [[30, 0, -1]], "ctr_7d": [[0.5, np.nan, 0.1]], "pays_30d": [[-1, 0.01, 0.99]]}
    found = layer({name: tf.constant(values) for name, values in page.items()}).numpy()
    logs = np.log1p(seen["impressions_7d"])
    expected = [(np.log1p(30) - logs.mean()) / logs.std(), (logs.min() - logs.mean()) / logs.std(), 0]
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-4)
    ctr = seen["ctr_7d"]
    np.testing.assert_allclose(found[0, :, 1], (np.array([0.5, ctr.mean(), 0.1]) - ctr.mean()) / ctr.std(), atol=1e-5)
    table = layer.embeddings["pays_30d"].get_weights()[0]
    np.testing.assert_array_equal(found[0, :, 2:], table[[0, 1, 4]])
    assert layer.output_dim == 5


def test_a_vocabulary_that_is_missing_is_named():
    resolved = resolve_features(FeaturesConfig(), ITEMS.schema, USERS.schema)
    values = tables_of().vocabulary
    values.check(resolved)
    bare = FeatureVocabulary(item={**values.item, "category": NumberScale(mean=0, deviation=1)}, user={}, candidate={})
    with pytest.raises(InputError, match=r"ranker.features.item.category: the ranker has no vocabulary of it"):
        bare.check(resolved)
    without = values.model_copy(update={"candidate": {}})
    with pytest.raises(InputError, match=r"ranker.features.candidate.impressions_7d: the ranker has no scale of it"):
        without.check(resolved)


def test_unknown_ids_share_row_0_and_training_drops_a_share():
    layer = IdEmbedding(known=9, dim=4, dropout=0.25)
    ids = tf.constant(np.full(4000, 5))
    kept = layer(ids).numpy()
    np.testing.assert_array_equal(kept, np.repeat(layer.get_weights()[0][5:6], 4000, axis=0))
    dropped = (layer(ids, training=True).numpy() == layer.get_weights()[0][0]).all(axis=1).mean()
    assert dropped == pytest.approx(0.25, abs=0.03)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([[3, 0], [3, 7]])))
    gradient = tape.gradient(loss, layer.embeddings.value)
    assert isinstance(gradient, tf.IndexedSlices)  # the rows looked up alone
    np.testing.assert_array_equal(np.sort(gradient.indices), [0, 3, 3, 7])
    with pytest.raises(ValueError, match="`dropout` must be at least 0 and below 1"):
        IdEmbedding(3, 2, dropout=1.0)
    assert IdEmbedding.from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), items=60, pages=120).data)


def test_counts_are_of_the_pages_up_to_the_cut(dataset):
    window = dataset.split("train").window
    cut = (window.first + window.last) // 2
    counts, everywhere = count_training(Pages(dataset, "train", Window(first=window.first, last=cut)))
    items, users, all_items = np.zeros(60, int), np.zeros(40, int), np.zeros(60, int)
    candidates = 0
    lengths = PageLengths(candidates=6, click=1000, pay=1000, cart=200)
    for page in page_batches(dataset, "train", lengths, batch_size=1).as_numpy_iterator():
        for name in ("item", "click_item", "pay_item", "cart_item"):
            rows = page[name][page[name] != -1]
            np.add.at(all_items, rows, 1)
            np.add.at(items, rows, int(page["timestamp"][0] <= cut))
        users[page["user"]] += page["timestamp"][0] <= cut
        candidates += (page["item"] != -1).sum() * (page["timestamp"][0] <= cut)
    assert 0 < users.sum() < 120
    np.testing.assert_array_equal(counts.items, items)
    np.testing.assert_array_equal(counts.users, users)
    np.testing.assert_array_equal(everywhere, all_items)
    assert {name: len(values) for name, values in counts.numbers.items()} == dict.fromkeys(STATISTICS, candidates)


def test_pages_of_one_moment_stay_together():
    timestamps = np.array([7, 1, 5, 5, 5, 9])
    window = Window(first=1, last=9)
    for share, cut, pages in ((0.5, 5, 4), (0.2, 7, 5), (0.99, 1, 1), (0.01, 9, 6)):
        first, second, count = split_by_share(timestamps, window, share)
        assert (first, count) == (Window(first=1, last=cut), pages)
        assert (second.first, second.last) == (cut + 1, 9)
