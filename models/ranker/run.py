"""The run directory of a trained ranker."""

from typing import Any, Literal

import pydantic

from beam_pipelines.format.manifest import Window
from models.artifact import Metadata
from models.clustering.clusters import ClustersMetadata
from models.embeddings.embeddings import EmbeddingsMetadata


class RankerMetadata(Metadata):
    """A trained ranker and all that serving needs.

    Files: `ranker.weights.h5`, `config.yaml`, `feature_sizes.yaml`, `feature_values.json`, `calibrator.yaml`;
    `history.json`, the logs of the epochs; `items.parquet`, `users.parquet`, the dataset's
    tables, for the string ID of each row; `example_pages.tfrecord`, some validation pages; `training_counts.npy`, int64
    `(items,)`, occurrences of each item on all train pages as candidate or history step.

    Attributes:
        image_feature: `none`, `vector`, `simscore` or `cluster_id`.
        seed: of initialisation and shuffling.
        dataset_digest: `Manifest.digest()` of the dataset it learned on.
        item_ids_sha256, user_ids_sha256: digests of the tables whose rows it refers to.
        window: training pages.
        negative_rate: share of the unclicked candidates that these pages kept; the ranker corrects for it.
        validation: metrics on the validation pages at the kept epoch.
        embeddings, clusters: where its image feature comes from.
        notice: `Manifest.notice` of the dataset.
    """

    kind: Literal["ranker"] = "ranker"
    image_feature: Literal["none", "vector", "simscore", "cluster_id"]
    seed: int
    dataset_digest: str
    item_ids_sha256: str
    user_ids_sha256: str
    window: Window
    negative_rate: float = pydantic.Field(1.0, gt=0, le=1)
    validation: dict[str, Any]
    embeddings: EmbeddingsMetadata | None
    clusters: ClustersMetadata | None
    notice: str
