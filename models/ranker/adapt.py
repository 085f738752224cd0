"""Adapts a ranker to training pages: what it reads, how large its tables are, and what they hold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from beam_pipelines.format.errors import InputError, about
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.pages import Pages
from models.embeddings.embeddings import Embeddings, EmbeddingsMetadata
from models.features.adapt import AdaptedFeatures, adapt_features
from models.features.known import KnownFeatures
from models.features.spec import resolve_features
from models.features.training_counts import count_training
from models.ranker.config import RankerConfig, image_features_of
from models.ranker.pictures.pictures import PICTURE_FEATURES

PictureSources = Embeddings | Clusters | Sequence[Embeddings | Clusters] | None


class AdaptedPages(NamedTuple):
    """What a ranker is made of and filled with, for some training pages.

    Attributes:
        config: the architecture, its features and lengths resolved.
        image_feature: how pictures enter, names joined by commas.
        features: the content of the feature tables.
        occurrences: int64 `(items,)`, of each item on all pages of the split, whatever their time.
    """

    config: RankerConfig
    image_feature: str
    features: AdaptedFeatures
    occurrences: np.ndarray


def adapt_to_pages(
    pages: Pages,
    config: RankerConfig,
    *,
    pictures: PictureSources = None,
    image_feature: str | Sequence[str] | None = None,
    allow_window_overlap: bool = False,
    known: KnownFeatures | None = None,
) -> AdaptedPages:
    """Counts the pages once and makes the tables; see `Ranker.adapt`, and `adapt_features` for `known`.

    Raises:
        InputError: the pages teach nothing, the pictures are of another dataset, or their encoder has seen the pages.
        ConfigurationError: a feature is no column of the dataset.
    """
    dataset = pages.dataset
    check_negatives(pages)
    inputs = picture_inputs(pictures, image_feature)
    with about("pictures"):
        for each in inputs.sources:
            check_pictures(each, dataset, allow_window_overlap=allow_window_overlap)
    config = resolve(config, dataset)
    counts, occurrences = count_training(pages)
    features = adapt_features(
        config.features,
        dataset.items(),
        dataset.users(),
        counts,
        token_buckets=config.token_buckets,
        known=known,
        **inputs.values(),
    )
    return AdaptedPages(config, inputs.image_feature, features, occurrences)


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


class PictureInputs(NamedTuple):
    """What a ranker reads of pictures, and how.

    Attributes:
        image_feature: how they enter, names joined by commas.
        embeddings: vectors of the items.
        clusters: their clusters.
    """

    image_feature: str
    embeddings: tuple[Embeddings, ...]
    clusters: Clusters | None

    @property
    def sources(self) -> tuple[Embeddings | Clusters, ...]:
        """The embeddings and the clusters."""
        return (*self.embeddings, *(() if self.clusters is None else (self.clusters,)))

    @property
    def reads_semantic_ids(self) -> bool:
        """Whether the clusters are read at all levels."""
        return "semantic_id" in image_features_of(self.image_feature)

    def values(self) -> dict[str, Any]:
        """What `adapt_features` takes of them."""
        clusters = self.clusters
        semantic = clusters if self.reads_semantic_ids else None
        return {
            "image_embeddings": [np.asarray(each.vectors) for each in self.embeddings],
            "cluster_ids": None if clusters is None else clusters.ids,
            "centers": None if clusters is None else clusters.centers,
            "semantic_ids": None if semantic is None else semantic.semantic_ids,
            "levels": 1 if semantic is None else semantic.metadata.levels,
        }

    def embeddings_metadata(self) -> EmbeddingsMetadata | tuple[EmbeddingsMetadata, ...] | None:
        """What the embeddings say of themselves, as a `RankerMetadata` holds it."""
        found = tuple(each.metadata for each in self.embeddings)
        return found if len(found) > 1 else found[0] if found else None


def picture_inputs(pictures: PictureSources, image_feature: str | Sequence[str] | None = None) -> PictureInputs:
    """How pictures enter: as asked for, or as the kinds of pictures suggest.

    Raises:
        InputError: the pictures are not of the kinds that the image features need.
    """
    sources = () if pictures is None else (pictures,) if isinstance(pictures, Embeddings | Clusters) else (*pictures,)
    embeddings = tuple(each for each in sources if isinstance(each, Embeddings))
    clusters = tuple(each for each in sources if isinstance(each, Clusters))
    if image_feature is None:
        image_feature = [*(["simscore"] if embeddings else []), *(["cluster_id"] if clusters else [])] or "none"
    names = image_features_of(image_feature)
    kinds = {PICTURE_FEATURES[name].reads for name in names}
    needed = [kind for kind, name in ((Embeddings, "embeddings"), (Clusters, "clusters")) if name in kinds]
    if {type(each) for each in sources} != set(needed) or len(clusters) > 1:
        several = f"feature{'s' if len(names) > 1 else ''} {', '.join(names)}"
        raise InputError(
            f"`pictures` must be {' and '.join(kind.__name__ for kind in needed) or 'unset'} for the image {several}. "
            f"Received: {pictures!r}"
        )
    if "semantic_id" in names and clusters[0].metadata.levels == 1:
        raise InputError(
            f"`pictures`: {clusters[0].path} has one level, and semantic_id needs clusters of several levels; make "
            "them with the `levels` of models.cluster"
        )
    return PictureInputs(",".join(names), embeddings, clusters[0] if clusters else None)


def check_pictures(pictures: Embeddings | Clusters, dataset: Dataset, *, allow_window_overlap: bool = False) -> None:
    """Refuses pictures of another dataset, or of an encoder that has seen what a ranker learns on.

    Raises:
        ArtifactError: they are.
    """
    pictures.check_matches(dataset)
    if not allow_window_overlap:
        pictures.check_no_leakage(dataset)
