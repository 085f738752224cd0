from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pyarrow as pa
import pytest

from beam_pipelines.format.manifest import Window, ids_sha256
from beam_pipelines.format.records import HISTORIES, encode_page
from export import saved_model
from models.features.adapt import adapt_features
from models.features.spec import STATISTICS, FeaturesConfig, resolve_features
from models.features.training_counts import TrainingCounts
from models.ranker.config import RankerConfig, RankerLengths, TrainingConfig
from models.ranker.ranker import Ranker
from models.ranker.run import RankerMetadata, RankerRun
from tests.export.toy_server import save_toy

ITEM_IDS = ["007", "7", *(f"ring-{n}" for n in range(26)), "кольцо", "指輪 2"]
USER_IDS = ["anna", "bo", "Zoë"]
LENGTHS = RankerLengths(candidates=9, click=5, pay=3, cart=2)
PAGES = 12


class ToyRanker(NamedTuple):
    """A run with random weights, its pages as they were before encoding, and how to write a page record."""

    run: Path
    pages: list[dict]


def toy_page(random, number):
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


def make_toy_ranker(run: Path, image_feature: str) -> ToyRanker:
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
    if image_feature == "cluster_id":
        pictures = {"cluster_ids": random.integers(-1, 4, len(ITEM_IDS)).astype(np.int32)}
        pictures["centers"] = random.standard_normal((4, 6), np.float32)
    elif image_feature != "none":
        pictures = {"image_embeddings": random.standard_normal((len(ITEM_IDS), 6), np.float32)}
    features = resolve_features(FeaturesConfig(), items.schema, users.schema)
    config = TrainingConfig(
        ranker=RankerConfig(lengths=LENGTHS, features=features, token_buckets=50, mlp_units=(16, 8))
    )
    keras.utils.set_random_seed(0)
    adapted = adapt_features(features, items, users, counts, token_buckets=config.ranker.token_buckets, **pictures)
    ranker = Ranker(config.ranker, adapted.sizes, image_feature)
    for variable in ranker.trainable_variables:  # zero biases would hide that they are not exported
        variable.assign(variable + 0.1 * random.standard_normal(variable.shape))
    ranker.fill(adapted)

    pages = [toy_page(random, number) for number in range(PAGES)]
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
    records = [encode_page(page) for page in pages]
    RankerRun.save(run, ranker, metadata, config, items=items, users=users, example_records=records)
    return ToyRanker(run, pages)


@pytest.fixture(scope="session")
def toy_ranker(tmp_path_factory) -> ToyRanker:
    return make_toy_ranker(tmp_path_factory.mktemp("toy_ranker"), "cluster_id")


@pytest.fixture(scope="session")
def toy_base_path(toy_ranker, tmp_path_factory) -> Path:
    """A base path with version 11: the toy ranker, exported by the command beside a number of distractions."""
    base_path = tmp_path_factory.mktemp("toy_serving")
    for name in ("2", "00010", "x", ".30.incomplete-1", str(2**63)):
        (base_path / name).mkdir()
    (base_path / "40").write_text("a file")
    saved_model.main(["--model", str(toy_ranker.run), "--base-path", str(base_path)])
    return base_path


@pytest.fixture(scope="session")
def toy_saved_model(tmp_path_factory) -> Path:
    """The small SavedModel of the server's tests; copy it to where a version is needed."""
    path = tmp_path_factory.mktemp("toy_saved_model") / "model"
    save_toy(path)
    return path
