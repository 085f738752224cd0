"""Run directories of rankers that have not learned anything: all that evaluation and export read, in a second."""

from pathlib import Path

import keras
import numpy as np

from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.pages import items_on_pages
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths, TrainingConfig
from models.ranker.ranker import Ranker
from models.ranker.run import RankerMetadata, RankerRun

# Reads two candidates of a page at training, and must still score all of them in evaluation.
CONFIG = RankerConfig(
    lengths=RankerLengths(candidates=2, pay=0, cart=0),
    mlp_units=(8, 8),
    attention=AttentionConfig(histories="none"),
)


def untrained_ranker(
    dataset: Dataset, pictures: Clusters | None = None, seed: int = 0, config: RankerConfig = CONFIG
) -> Ranker:
    """A ranker that is adapted to the train pages, with random weights."""
    keras.utils.set_random_seed(seed)
    ranker = Ranker.adapt(dataset.pages("train"), pictures=pictures, config=config)
    random = np.random.default_rng(seed)
    for variable in ranker.trainable_variables:
        variable.assign_add(0.1 * random.standard_normal(variable.shape))
    return ranker


def write_untrained_run(
    path: Path, data: Path, clusters: Path | None = None, seed: int = 0, config: RankerConfig = CONFIG
) -> RankerRun:
    """Writes the run of such a ranker."""
    dataset, pictures = Dataset(data), Clusters.load(clusters) if clusters else None
    ranker, train = untrained_ranker(dataset, pictures, seed, config), dataset.split("train")
    metadata = RankerMetadata(
        image_feature=ranker.image_feature,
        seed=seed,
        dataset_digest=dataset.manifest.digest(),
        item_ids_sha256=dataset.manifest.items.ids_sha256,
        user_ids_sha256=dataset.manifest.users.ids_sha256,
        window=train.window,
        negative_rate=train.negative_rate,
        validation={},
        embeddings=None,
        clusters=pictures.metadata if pictures else None,
        notice=dataset.manifest.notice,
    )
    path.mkdir()
    counts = items_on_pages(dataset, "train").astype(np.int64)
    return RankerRun.save(
        path,
        ranker,
        metadata,
        TrainingConfig(ranker=ranker.config),
        items=dataset.items(),
        users=dataset.users(),
        example_records=[*dataset.pages("train").records().take(2).as_numpy_iterator()],
        training_counts=counts,
    )
