"""Adapts a ranker to training pages: what it reads, how large its tables are, and what they hold."""

from typing import NamedTuple

import numpy as np

from beam_pipelines.format.errors import InputError, about
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.pages import Pages
from models.embeddings.embeddings import Embeddings
from models.features.adapt import AdaptedFeatures, adapt_features
from models.features.spec import resolve_features
from models.features.training_counts import count_training
from models.ranker.config import ImageFeature, RankerConfig


class AdaptedPages(NamedTuple):
    """What a ranker is made of and filled with, for some training pages.

    Attributes:
        config: the architecture, its features and lengths resolved.
        image_feature: how pictures enter.
        features: the content of the feature tables.
        occurrences: int64 `(items,)`, of each item on all pages of the split, whatever their time.
    """

    config: RankerConfig
    image_feature: ImageFeature
    features: AdaptedFeatures
    occurrences: np.ndarray


def adapt_to_pages(
    pages: Pages,
    config: RankerConfig,
    *,
    pictures: Embeddings | Clusters | None = None,
    image_feature: ImageFeature | None = None,
    allow_window_overlap: bool = False,
) -> AdaptedPages:
    """Counts the pages once and makes the tables; see `Ranker.adapt`.

    Raises:
        InputError: the pages teach nothing, the pictures are of another dataset, or their encoder has seen the pages.
        ConfigurationError: a feature is no column of the dataset.
    """
    dataset = pages.dataset
    check_negatives(pages)
    image_feature = picture_feature_of(pictures, image_feature)
    if pictures is not None:
        with about("pictures"):
            check_pictures(pictures, dataset, allow_window_overlap=allow_window_overlap)
    config = resolve(config, dataset)
    counts, occurrences = count_training(pages)
    tables = {}
    if isinstance(pictures, Embeddings):
        tables = {"image_embeddings": np.asarray(pictures.vectors)}
    elif isinstance(pictures, Clusters):
        tables = {"cluster_ids": pictures.ids, "centers": pictures.centers}
    features = adapt_features(
        config.features, dataset.items(), dataset.users(), counts, token_buckets=config.token_buckets, **tables
    )
    return AdaptedPages(config, image_feature, features, occurrences)


def check_negatives(pages: Pages) -> None:
    """Refuses pages whose unclicked candidates were all left out.

    Raises:
        InputError: they were.
    """
    if pages.negative_rate == 0:
        raise InputError(
            f"the {pages.split_name} pages of {pages.dataset.path} have clicked candidates only; build it with "
            "`train_negatives` above 0"
        )


def resolve(config: RankerConfig, dataset: Dataset) -> RankerConfig:
    """Fills in what a configuration leaves to the dataset: features that are not set, and the number of candidates."""
    features = resolve_features(config.features, dataset.item_schema(), dataset.user_schema())
    lengths = config.lengths
    if lengths.candidates == 0:
        lengths = lengths.model_copy(update={"candidates": dataset.manifest.max_candidates})
    return config.model_copy(update={"features": features, "lengths": lengths})


def picture_feature_of(
    pictures: Embeddings | Clusters | None, image_feature: ImageFeature | None = None
) -> ImageFeature:
    """How pictures enter: as asked for, or as the kind of pictures suggests.

    Raises:
        InputError: the pictures are not of the kind that the image feature needs.
    """
    if image_feature is None:
        return "none" if pictures is None else "cluster_id" if isinstance(pictures, Clusters) else "simscore"
    needed = {"none": type(None), "cluster_id": Clusters}.get(image_feature, Embeddings)
    if not isinstance(pictures, needed):
        raise InputError(
            f"`pictures` must be {'unset' if image_feature == 'none' else needed.__name__} for the image feature "
            f"{image_feature}. Received: {pictures!r}"
        )
    return image_feature


def check_pictures(pictures: Embeddings | Clusters, dataset: Dataset, *, allow_window_overlap: bool = False) -> None:
    """Refuses pictures of another dataset, or of an encoder that has seen what a ranker learns on.

    Raises:
        ArtifactError: they are.
    """
    pictures.check_matches(dataset)
    if not allow_window_overlap:
        pictures.check_no_leakage(dataset)
