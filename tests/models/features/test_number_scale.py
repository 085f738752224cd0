import json
import warnings

import numpy as np
import pyarrow as pa
import pydantic
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.features.adapt import adapt_features
from models.features.dense_features import DenseFeatures
from models.features.number_scale import LARGEST, NumberScale, as_numbers, encode_numbers, log_magnitude, scale_of
from models.features.spec import STATISTICS, FeaturesConfig, NumberFeature, resolve_features
from models.features.training_counts import TrainingCounts

TRANSFORMS = [NumberFeature(transform=name, buckets=4) for name in ("standardize", "log", "buckets")]
FLT_MAX, DBL_MAX = float(np.finfo(np.float32).max), float(np.finfo(np.float64).max)
MARKS = [np.nan, np.inf, -np.inf, FLT_MAX, -FLT_MAX, LARGEST, -1e37]
FLOAT64 = arrays(np.float64, st.integers(0, 40), elements=st.floats(width=64))
BIT_PATTERNS = arrays(np.uint32, 64, elements=st.integers(0, 2**32 - 1))


def encoded(values, scale, feature):
    return encode_numbers(tf.constant(values, tf.float32), scale, feature).numpy()


@pytest.mark.parametrize("feature", TRANSFORMS, ids=lambda feature: feature.transform)
@settings(max_examples=60)
@given(values=FLOAT64, asked=BIT_PATTERNS)
def test_any_column_has_a_scale_and_any_number_is_encoded_as_its_clipped_one(feature, values, asked):
    scale = scale_of(values, feature)
    assert NumberScale.model_validate_json(scale.model_dump_json()) == scale
    json.dumps(scale.model_dump(), allow_nan=False)
    assert scale.seen == len(values)
    rows = encoded(as_numbers(values), scale, feature)
    assert np.isfinite(rows).all()
    if feature.transform != "buckets" and len(values):
        assert np.abs(rows).max() <= 1.01 * np.sqrt(len(values))
    asked = asked.view(np.float32)
    numbers = as_numbers(asked)
    clipped = np.where(np.isnan(numbers), np.nan, np.clip(numbers, scale.low, scale.high))
    np.testing.assert_array_equal(encoded(asked, scale, feature), encoded(clipped, scale, feature))
    assert np.isfinite(encoded(asked, scale, feature)).all()
    order = np.argsort(clipped[~np.isnan(clipped)])
    assert (np.diff(encoded(asked, scale, feature)[~np.isnan(clipped)][order]) >= 0).all()


@pytest.mark.parametrize("constant", [0.1, -0.1, 1e-30, 1e30, 0.0, 3.3e7, 1e-40, 1e300])
@pytest.mark.parametrize("count", [1, 48, 1001])
def test_one_value_has_a_deviation_of_one_whatever_it_is(constant, count):
    for feature in TRANSFORMS:
        scale = scale_of(np.full(count, constant), feature)
        assert scale.deviation == 1
        assert not encoded([constant, 2 * constant], scale, feature)[:2].any() or feature.transform == "buckets"
    noisy = np.full(count, constant) * (1 + 1e-7 * np.arange(count) / count)  # what float32 sums to
    assert scale_of(noisy, NumberFeature()).deviation == 1


@pytest.mark.parametrize("mark", [1e30, -1e30, 9_999_999.0, DBL_MAX, 1e300, FLT_MAX, np.inf])
@pytest.mark.parametrize("share", [0.02, 0.4])
def test_marks_of_what_is_missing_do_not_dominate(mark, share):
    prices = np.random.default_rng(0).lognormal(3, 1, 50)
    with_marks = np.concatenate([np.full(int(50 * share), mark), prices])
    for feature in TRANSFORMS[:2]:
        plain, scale = scale_of(prices, feature), scale_of(with_marks, feature)
        assert (scale.low, scale.high) == (plain.low, plain.high)
        assert 0.8 < scale.deviation / plain.deviation < 4
    assert scale.missing + scale.clipped == int(50 * share)


def test_of_many_values_a_thousandth_is_cut_off_at_either_end():
    values = np.random.default_rng(0).normal(size=20_000)
    scale = scale_of(values, NumberFeature())
    ordered = np.sort(values.astype(np.float32))
    assert (scale.low, scale.high, scale.clipped) == (ordered[20], ordered[-21], 40)
    assert scale.deviation == pytest.approx(1, abs=0.02)
    few = scale_of(values[:900], NumberFeature())
    assert few.clipped == 0
    counts = np.random.default_rng(0).geometric(0.01, 5000).astype(float) * (np.arange(5000) % 20 == 0)
    assert scale_of(counts, NumberFeature(transform="log")).high > 200  # mostly zeros: the others are no outliers


def test_a_column_without_a_number_says_nothing():
    for feature in TRANSFORMS:
        scale = scale_of(np.array(MARKS), feature)
        assert (scale.seen, scale.missing, scale.deviation) == (7, 7, 1)
        rows = encoded([5.0, 1e30, -7.0], scale, feature)
        assert len(set(rows)) == 1 if feature.transform == "buckets" else not rows.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"deviation": 0.0},
        {"mean": float("nan")},
        {"deviation": float("inf")},
        {"low": 2.0, "high": 1.0},
        {"low": 1.0},
        {"boundaries": (1.0, 0.5)},
        {"high": float("inf"), "low": 0.0},
    ],
)
def test_a_scale_is_checked_when_it_is_made_and_when_it_is_read(wrong):
    with pytest.raises(pydantic.ValidationError):
        NumberScale(**{"mean": 0.0, "deviation": 1.0, **wrong})
    text = json.dumps({"mean": 0.0, "deviation": 1.0, **wrong})
    with pytest.raises(pydantic.ValidationError):
        NumberScale.model_validate_json(text)


@settings(max_examples=40)
@given(values=arrays(np.float64, 30, elements=st.floats(width=32)), asked=BIT_PATTERNS)
def test_numbers_of_candidates_are_clipped_in_the_graph(values, asked):
    features = {"ctr_7d": TRANSFORMS[0], "ctr_1d": TRANSFORMS[1], "ctr_30d": TRANSFORMS[2]}
    scales = {name: scale_of(values, feature) for name, feature in features.items()}
    layer = DenseFeatures(features, 3)
    layer.fill(scales)
    asked = asked.view(np.float32)[None]

    def transform(numbers):
        return layer({name: tf.constant(numbers[name], tf.float32) for name in features}).numpy()

    numbers = as_numbers(asked)
    numbers[asked == -1] = np.nan
    clipped = {name: np.clip(numbers, scales[name].low, scales[name].high) for name in features}
    found = transform(dict.fromkeys(features, asked))
    assert np.isfinite(found).all()
    # What is clipped may be -1, which would be a missing one.
    same = np.stack([each != -1 for each in clipped.values()]).all(axis=0)
    np.testing.assert_array_equal(found[same], transform(clipped)[same])
    missing = transform(dict.fromkeys(features, np.array([[*MARKS, -1.0]])))[0]
    np.testing.assert_array_equal(missing, np.broadcast_to(missing[:1], missing.shape))
    if np.isnan(numbers).any():
        np.testing.assert_array_equal(found[np.isnan(numbers)][0], missing[0])


def test_a_count_that_no_float_holds_is_missing():
    layer = DenseFeatures({"clicks_7d": NumberFeature(transform="log")}, 3)
    layer.fill({"clicks_7d": scale_of(np.arange(9.0), NumberFeature(transform="log"))})
    counts = tf.constant([[-1, 2**53, 2**63 - 1, -(2**63), 8, 9, 2**40]], tf.int64)
    found = layer({"clicks_7d": counts}).numpy()[0, :, 0]
    np.testing.assert_array_equal(found[:4], 0)
    assert found[4] == found[5] == found[6] > 1


def test_a_layer_that_was_saved_without_ranges_clips_nothing():
    layer, old = DenseFeatures({"ctr_7d": TRANSFORMS[0]}, 3), {}
    layer.fill({"ctr_7d": NumberScale(mean=1.0, deviation=2.0, low=0.0, high=5.0)})
    layer.save_own_variables(old)
    del old["1"]
    again = DenseFeatures({"ctr_7d": TRANSFORMS[0]}, 3)
    again.load_own_variables(old)
    values = tf.constant([[9.0, 1e35, FLT_MAX]])
    np.testing.assert_allclose(again({"ctr_7d": values})[0, :, 0], [4, 5e34, 0])
    np.testing.assert_allclose(layer({"ctr_7d": values})[0, :, 0], [2, 2, 0])


def test_marks_are_told_by_column_and_item():
    items = pa.table({"item_id": ["a", "b"], "stat_price": [1.0, DBL_MAX]})
    users = pa.table({"user_id": ["u", "v"], "stat_age": [float("-inf"), 3.0]})
    counts = TrainingCounts(np.ones(2, int), np.ones(2, int), {name: np.ones(2) for name in STATISTICS})
    features = resolve_features(FeaturesConfig(), items.schema, users.schema)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = adapt_features(features, items, users, counts, token_buckets=10)
    price, age = [str(each.message) for each in caught]
    assert "stat_price: 1 of 2 values are infinite or of a magnitude of 1e+36 or more" in price
    assert price.endswith("the first is 1.79769e+308, of the item_id b")
    assert "stat_age: 1 of 2" in age
    assert "user_id with the SHA-256 " in age
    assert adapted.vocabulary.item["stat_price"].missing == 1
    np.testing.assert_array_equal(adapted.items["stat_price"], [0, 0, 0])


def test_log_magnitude_keeps_the_sign():
    np.testing.assert_allclose(log_magnitude(np.array([-3.0, 0.0, 3.0])), [-np.log(4), 0, np.log(4)])
