"""Declares what a ranker knows of items, users and candidates, and checks it against the dataset's tables."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, model_validator

from beam_pipelines.format.errors import ConfigurationError
from beam_pipelines.format.records import FEATURES, STATISTICS_DAYS
from models.config import Config

STATISTICS: tuple[str, ...] = tuple(
    f.name for f in FEATURES if f.name.endswith(tuple(f"_{d}d" for d in STATISTICS_DAYS))
)
"""What page records say of each candidate's item: impressions, clicks, smoothed CTR and payments of the days before."""


class IdFeature(Config):
    """The row's own ID, `item_id` or `user_id`, embedded.

    Attributes:
        min_count: IDs with fewer occurrences in the training pages share the unknown ID.
        dropout: share of IDs that training takes for unknown, so that what an unknown ID means is learned.
        match: whether a candidate's ID is compared with that of each history step.
    """

    type: Literal["id"] = "id"
    min_count: PositiveInt = 5
    dropout: float = Field(0.1, ge=0, lt=1)
    match: bool = True


class CategoryFeature(Config):
    """A string column whose values seen in training form a vocabulary, embedded; others share the unknown value.

    Attributes:
        min_count: values with fewer occurrences in the training pages are unknown.
        match: whether a candidate's value is compared with that of each history step.
    """

    type: Literal["category"] = "category"
    min_count: PositiveInt = 1
    match: bool = False


class HashFeature(Config):
    """A string column whose values are hashed into buckets, embedded: new values need no vocabulary.

    Attributes:
        buckets: number of hash values; two values that share one are the same to the model.
        match: whether a candidate's bucket is compared with that of each history step.
    """

    type: Literal["hash"] = "hash"
    buckets: PositiveInt = 1000
    match: bool = False


class TextFeature(Config):
    """A string column as a bag of hashed words, in the embedding that queries share.

    Attributes:
        tokens: words kept of a text.
    """

    type: Literal["text"] = "text"
    tokens: PositiveInt = 16


class NumberFeature(Config):
    """A numeric column.

    Attributes:
        transform: `standardize` to mean 0 and deviation 1 over what training has seen; `log`, the same of
            `sign(x) log(1 + |x|)`, for counts and prices; `buckets`, an embedding of the quantile that holds the value.
        buckets: number of quantiles.
    """

    type: Literal["number"] = "number"
    transform: Literal["standardize", "log", "buckets"] = "standardize"
    buckets: int = Field(16, ge=2)


TableFeature = Annotated[
    IdFeature | CategoryFeature | HashFeature | TextFeature | NumberFeature, Field(discriminator="type")
]


def is_plain(feature: TableFeature) -> bool:
    """Whether a feature is one number, not embedded."""
    return feature.type == "number" and feature.transform != "buckets"


_FEATURES: TypeAdapter[dict[str, TableFeature]] = TypeAdapter(dict[str, TableFeature])


def features_to_json(features: Mapping[str, TableFeature]) -> dict[str, Any]:
    """A feature spec as JSON values, for `get_config`."""
    return {name: feature.model_dump(mode="json") for name, feature in features.items()}


def features_from_json(features: Mapping[str, Any]) -> dict[str, Any]:
    """The feature spec of `features_to_json`."""
    return _FEATURES.validate_python(dict(features))


class FeaturesConfig(Config):
    """Features by name. A section that is not set holds everything that the dataset has.

    Attributes:
        item: columns of the item table; `label_*` columns are for evaluation and refused.
        user: columns of the user table.
        candidate: numbers that page records carry per candidate, of `STATISTICS`; -1 is a missing one.
        query: whether the page's query is read.
    """

    item: dict[str, TableFeature] | None = None
    user: dict[str, TableFeature] | None = None
    candidate: dict[str, NumberFeature] | None = None
    query: bool = True

    def spec(self) -> "FeatureSpec":
        """The sections, once they are resolved.

        Raises:
            ConfigurationError: one is not set.
        """
        if self.item is None or self.user is None or self.candidate is None:
            raise ConfigurationError(
                "ranker.features: sections that are not set must be resolved for a dataset; `Ranker.adapt` and "
                "`resolve_features` do so"
            )
        return FeatureSpec(self.item, self.user, self.candidate, self.query)


class FeatureSpec(NamedTuple):
    """A feature spec with all sections, see `FeaturesConfig`."""

    item: dict[str, Any]
    user: dict[str, Any]
    candidate: dict[str, NumberFeature]
    query: bool


def resolve_features(config: FeaturesConfig, items: pa.Schema, users: pa.Schema) -> FeaturesConfig:
    """Fills in the sections that are not set, and checks those that are.

    Args:
        config: as the user wrote it.
        items, users: the columns of the dataset's tables.

    Returns:
        The declaration with every section.

    Raises:
        ConfigurationError: a feature is no column, or its type does not fit the column; the feature is named.
    """
    item = _all_features(items, "item_id") if config.item is None else config.item
    user = _all_features(users, "user_id") if config.user is None else config.user
    candidate = {
        name: NumberFeature(transform="standardize" if name.startswith("ctr_") else "log") for name in STATISTICS
    }
    if config.candidate is not None:
        candidate = config.candidate
        for name in candidate:
            if name not in STATISTICS:
                raise ConfigurationError(
                    f"ranker.features.candidate.{name}: no number of the page records (they have: "
                    f"{', '.join(STATISTICS)})"
                )
    _check("item", item, items, "item_id")
    _check("user", user, users, "user_id")
    return config.model_copy(update={"item": item, "user": user, "candidate": candidate})


def _all_features(schema: pa.Schema, id_column: str) -> dict[str, TableFeature]:
    """A feature for every column that the input contract gives a meaning."""
    features: dict[str, TableFeature] = {id_column: IdFeature(match=id_column == "item_id")}
    for name in schema.names:
        if name == "category":
            features[name] = CategoryFeature(match=True)
        elif name == "title":
            features[name] = TextFeature()
        elif name.startswith("stat_"):
            features[name] = NumberFeature()
        elif name.startswith("cat_"):
            features[name] = CategoryFeature(match=id_column == "item_id")
    return features


def _check(section: str, features: Mapping[str, TableFeature], schema: pa.Schema, id_column: str) -> None:
    usable = [name for name in schema.names if not name.startswith("label_")]
    for name, feature in features.items():
        key = f"ranker.features.{section}.{name}"
        if name.startswith("label_"):
            raise ConfigurationError(f"{key}: label_* columns are for evaluation, a ranker must not read them")
        if name not in usable:
            raise ConfigurationError(f"{key}: the {section} table has no such column (it has: {', '.join(usable)})")
        if (feature.type == "id") != (name == id_column):
            needed = "must be" if name == id_column else "must not be"
            raise ConfigurationError(
                f"{key}: {needed} of type id, which is that of {id_column}. Received: {feature.type}"
            )
        kind = schema.field(name).type
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        if numeric != (feature.type == "number"):
            fits = "number" if numeric else "category, hash or text"
            raise ConfigurationError(
                f"{key}: the column holds {kind}, which is of type {fits}. Received: {feature.type}"
            )


class FeatureSizes(Config):
    """Sizes of the feature tables that a `Ranker` holds, found in its training data.

    Attributes:
        items, users: rows of the dataset's tables. Each feature table has one more row, for what is unknown.
        item, user: for each feature that is embedded, its number of known values (embeddings have one more row, 0, for
            all others), buckets or quantiles; 0 for texts and plain numbers.
        image_dims: length of the vectors of each of the image embeddings.
        clusters: number of cluster IDs, 0 when they are not used.
        levels: of clusters, when semantic IDs are used; else 1.
        center_dim: length of the centers of clusters.
    """

    items: NonNegativeInt
    users: NonNegativeInt
    item: dict[str, NonNegativeInt]
    user: dict[str, NonNegativeInt]
    image_dims: tuple[NonNegativeInt, ...] = Field((), strict=False)  # a list, in files
    clusters: NonNegativeInt = 0
    levels: PositiveInt = 1
    center_dim: NonNegativeInt = 0

    @property
    def picture_ids(self) -> int:
        """Number of IDs that a picture may have: cluster IDs, or semantic IDs."""
        return self.clusters**self.levels if self.clusters else 0

    @model_validator(mode="before")
    @classmethod
    def _of_one_kind(cls, sizes: Any) -> Any:
        """Sizes of before there could be several embeddings: `image_dim` was the length of them, or of centers."""
        if isinstance(sizes, dict) and "image_dim" in sizes:
            sizes = dict(sizes)
            dim = sizes.pop("image_dim")
            sizes |= {"center_dim": dim} if sizes.get("clusters") else {"image_dims": (dim,) if dim else ()}
        return sizes
