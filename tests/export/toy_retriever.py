"""Retrievers with random weights over the items and users of the toy ranker."""

import dataclasses

import keras
import numpy as np

from beam_pipelines.format.manifest import ids_sha256
from models.data.dataset import Dataset
from models.retrieval.bpr import Bpr, BprConfig
from models.retrieval.interactions import Interactions
from models.retrieval.item_features import read_item_features
from models.retrieval.run import RetrievalMetadata, RetrievalRun
from models.retrieval.two_tower.two_tower import TwoTower, TwoTowerConfig
from tests.export.toy_ranker import ITEM_IDS, USER_IDS
from tests.models.tiny_dataset import write_tiny_dataset


def make_toy_retriever(path, method="two_tower"):
    """Writes a complete run directory of `models.train_retrieval`, apart from the training."""
    tiny = write_tiny_dataset(path / "shop", items=len(ITEM_IDS), users=len(USER_IDS), pages=40)
    dataset = Dataset(tiny.data)
    interactions = Interactions.from_pages(dataset)
    interactions = dataclasses.replace(interactions, user_ids=USER_IDS, item_ids=ITEM_IDS)
    keras.utils.set_random_seed(0)
    sources = ()
    if method == "bpr":
        model = Bpr.of(interactions, [], None, BprConfig(dim=6))
    else:
        np.save(path / "features.npy", np.random.default_rng(0).normal(size=(len(ITEM_IDS), 5)))
        features = read_item_features([path / "features.npy"], interactions, dataset)
        sources = (features.sources,)
        config = TwoTowerConfig(dim=6, hidden_units=4, click_steps=4, pay_steps=3)
        model = TwoTower.of(interactions, [features.vectors], dataset, config)
        random = np.random.default_rng(1)
        for weight in model.trainable_variables:
            weight.assign_add(0.2 * random.normal(size=weight.shape))
    metadata = RetrievalMetadata(
        method=method,
        seed=0,
        interactions_sha256=interactions.digest(),
        counts=dict(interactions.counts),
        dataset_digest="toy",
        item_ids_sha256=ids_sha256(ITEM_IDS),
        user_ids_sha256=ids_sha256(USER_IDS),
        window=dataset.split("train").window,
        features=sources,
        validation={"epoch": 1, **dict.fromkeys(("recall@20", "recall@50", "ndcg@50"), 0.5)},
        test=None,
        notice="toy notice",
    )
    (path / "run").mkdir()
    return RetrievalRun.save(path / "run", model, metadata, interactions, {})
