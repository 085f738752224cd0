"""Whatever numbers a dataset or a page holds, a ranker learns, is written and read, and scores."""

import json

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.features.adapt import adapt_features
from models.features.spec import STATISTICS
from models.ranker.config import RankerLengths
from models.ranker.ranker import Ranker
from tests.models.ranker.ranker_pages import CONFIG, ctr, gradients_of, inputs_of

SMALL = CONFIG.model_copy(
    update={
        "lengths": RankerLengths(candidates=6, click=3, pay=0, cart=0),
        "attention": CONFIG.attention.model_copy(update={"histories": "none"}),
    }
)
ITEMS, FLT_MAX = 120, np.finfo(np.float32).max


def make(dataset, counts, resolve, column):
    """A ranker whose item table has this column of prices, and whose training pages had these numbers."""
    items = dataset.items()
    items = items.set_column(items.column_names.index("stat_price"), "stat_price", pa.array(column))
    counts = counts._replace(numbers=dict.fromkeys(STATISTICS, column))
    config = resolve(SMALL)
    tables = adapt_features(config.features, items, dataset.users(), counts, token_buckets=config.token_buckets)
    keras.utils.set_random_seed(0)
    ranker = Ranker(config, tables.sizes)
    ranker.fill(tables)
    return ranker


@pytest.mark.filterwarnings("ignore:stat_price")
@settings(max_examples=2)
@given(column=arrays(np.float64, ITEMS, elements=st.floats(width=64)))
@example(column=np.full(ITEMS, 0.1))
@example(column=np.r_[np.finfo(np.float64).max, np.arange(1.0, ITEMS)])
def test_any_column_trains_to_finite_weights_and_reads_back(dataset, counts, resolve, page, column):
    ranker = make(dataset, counts, resolve, column)
    loss, gradients = gradients_of(ranker, page)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert np.isfinite(ctr(ranker, page)).all()
    json.dumps(config := ranker.get_config(), allow_nan=False)
    assert Ranker.from_config(config).vocabulary == ranker.vocabulary


def test_a_page_with_any_number_scores_as_the_clipped_one(dataset, counts, resolve, page):
    ranker = make(dataset, counts, resolve, np.random.default_rng(0).gamma(2.0, 5.0, ITEMS))
    numbers = [FLT_MAX, -FLT_MAX, 1e30, -1e30, 1e-45, np.inf, -np.inf, np.nan]
    scale = ranker.vocabulary.candidate["ctr_7d"]
    clipped = [np.nan, np.nan, scale.high, scale.low, scale.low, np.nan, np.nan, -1]

    def scores(number):
        return ctr(ranker, page | {"ctr_7d": tf.fill(page["ctr_7d"].shape, np.float32(number))})

    for number, expected in zip(numbers, clipped, strict=True):
        np.testing.assert_array_equal(scores(number), scores(expected))
    assert not np.array_equal(scores(scale.low), scores(scale.high))


def test_any_dwell_is_finite(dataset, counts, resolve, page):
    config = SMALL.model_copy(update={"tasks": SMALL.tasks.model_copy(update={"dwell": 1.0})})
    tables = make(dataset, counts, resolve, np.arange(float(ITEMS)))
    ranker = Ranker(config.model_copy(update={"features": tables.config.features}), tables.sizes)
    (head,) = [member.heads["dwell"] for member in ranker.members]
    head.bias.assign([1e4])
    assert np.isfinite(ranker(inputs_of(page))["dwell"]).all()
