"""A ranker with random weights, its pages, and requests made of them."""

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from beam_pipelines.format.manifest import Window, ids_sha256
from beam_pipelines.format.records import HISTORIES, encode_page
from models.features.adapt import adapt_features
from models.features.spec import STATISTICS, FeaturesConfig, resolve_features
from models.features.training_counts import TrainingCounts
from models.ranker.config import RankerConfig, RankerLengths, TrainingConfig
from models.ranker.ranker import Ranker
from models.ranker.run import RankerMetadata, RankerRun

ITEM_IDS = ["007", "7", *(f"ring-{n}" for n in range(26)), "кольцо", "指輪 2"]
USER_IDS = ["anna", "bo", "Zoë"]
LENGTHS = RankerLengths(candidates=9, click=5, pay=3, cart=2)
PAGES = 12


def toy_pages():
    """The pages of the ranker, before they are encoded."""
    random = np.random.default_rng(1)
    return [_toy_page(random, number) for number in range(PAGES)]


def _toy_page(random, number):
    candidates = 9 if number == 1 else int(random.integers(1, 8))
    page = {
        "page_id": [f"page-{number}".encode()],
        "user": random.integers(0, len(USER_IDS), 1),
        "timestamp": np.array([1_700_000_000_000 + number]),
        "query": [["", "gold ring", "anillo más fino"][number % 3].encode()],
        "item": random.permutation(len(ITEM_IDS))[:candidates],
        "position": np.arange(candidates),
        "clicked": random.integers(0, 2, candidates),
        "converted": np.zeros(candidates, np.int64),
        "dwell": random.random(candidates, np.float32),
        **{name: random.integers(0, 40, candidates) for name in STATISTICS},
    }
    for history, length in zip(HISTORIES, ([0, 0, 0], [12, 7, 4], [3, 0, 1], [0, 2, 0])[number % 4], strict=True):
        page[f"{history}_item"] = random.integers(0, len(ITEM_IDS), length)
        page[f"{history}_time"] = page["timestamp"] - np.sort(random.integers(1, 10**10, length))
    return page


def make_toy_ranker(path, image_feature="cluster_id", **architecture):
    """Writes a complete run directory of `models.train_ctr`, apart from the training."""
    random = np.random.default_rng(0)
    items = pa.table(
        {
            "item_id": ITEM_IDS,
            "category": [("rings", "chains", "")[n % 3] for n in range(len(ITEM_IDS))],
            "title": [f"gold item {n}" for n in range(len(ITEM_IDS))],
            "stat_price": random.random(len(ITEM_IDS)),
        }
    )
    users = pa.table({"user_id": USER_IDS, "cat_country": ["NO", "", "NO"]})
    numbers = {name: random.random(50) * 30 for name in STATISTICS}
    counts = TrainingCounts(np.full(len(ITEM_IDS), 9), np.full(len(USER_IDS), 9), numbers)
    pictures = {}
    if "cluster_id" in image_feature:
        pictures = {"cluster_ids": random.integers(-1, 4, len(ITEM_IDS)).astype(np.int32)}
        pictures["centers"] = random.standard_normal((4, 6), np.float32)
        if "semantic_id" in image_feature:
            deeper = random.integers(0, 4, len(ITEM_IDS))
            numbers = np.where(pictures["cluster_ids"] < 0, -1, 4 * pictures["cluster_ids"].astype(np.int64) + deeper)
            pictures |= {"semantic_ids": numbers, "levels": 2}
    if image_feature not in ("none", "cluster_id"):
        pictures["image_embeddings"] = [random.standard_normal((len(ITEM_IDS), dim), np.float32) for dim in (6, 3)]
    features = resolve_features(FeaturesConfig(), items.schema, users.schema)
    config = TrainingConfig(
        ranker=RankerConfig(
            **{"lengths": LENGTHS, **architecture}, features=features, token_buckets=50, mlp_units=(16, 8)
        )
    )
    keras.utils.set_random_seed(0)
    adapted = adapt_features(features, items, users, counts, token_buckets=config.ranker.token_buckets, **pictures)
    ranker = Ranker(config.ranker, adapted.sizes, image_feature)
    towers = [variable for tower in ranker.items.pictures.towers for variable in tower.variables]
    for variable in ranker.trainable_variables + towers:  # zero biases would hide that they are not exported
        variable.assign(variable + 0.1 * random.standard_normal(variable.shape))
    ranker.fill(adapted)

    metadata = RankerMetadata(
        image_feature=image_feature,
        seed=0,
        dataset_digest="toy",
        item_ids_sha256=ids_sha256(ITEM_IDS),
        user_ids_sha256=ids_sha256(USER_IDS),
        window=Window(first=0, last=1),
        negative_rate=0.5,
        validation={},
        embeddings=None,
        clusters=None,
        notice="toy notice",
    )
    records = [encode_page(page) for page in toy_pages()]
    seen = np.arange(len(ITEM_IDS)) % 3
    return RankerRun.save(
        path, ranker, metadata, config, items=items, users=users, example_records=records, training_counts=seen
    )


def toy_rows():
    """The pages as requests, made from the pages themselves rather than from their records."""
    rows = []
    for page in toy_pages():
        row = {
            "user_id": USER_IDS[page["user"][0]],
            "query": page["query"][0].decode(),
            "timestamp": int(page["timestamp"][0]),
            "item_id": [ITEM_IDS[item] for item in page["item"]],
            **{name: page[name].tolist() for name in STATISTICS},
        }
        for name in HISTORIES:
            row[f"{name}_item_id"] = [ITEM_IDS[item] for item in page[f"{name}_item"]]
            row[f"{name}_time"] = page[f"{name}_time"].tolist()
        rows.append(row)
    return rows


def with_defaults(servable, signature, inputs):
    """The inputs with what the signature says of those that are left out, as TensorFlow Serving takes it."""
    defaults = servable.signature_defs[signature or "serving_default"].defaults
    return {**{name: tf.make_ndarray(value) for name, value in defaults.items()}, **inputs}
