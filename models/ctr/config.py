"""What a ranker is made of."""

from typing import Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt

from models.config import Config
from models.data.pages import PageLengths

ImageFeature = Literal["none", "vector", "simscore", "cluster_id"]
IMAGE_FEATURES: tuple[ImageFeature, ...] = get_args(ImageFeature)


class RankerLengths(PageLengths):
    """`PageLengths` with the defaults of a ranker; 0 candidates: as many as the longest page of the dataset has."""

    candidates: NonNegativeInt = 0
    click: NonNegativeInt = 50
    pay: NonNegativeInt = 50
    cart: NonNegativeInt = 20


class RankerConfig(Config):
    """Architecture of a `Ranker`.

    Attributes:
        lengths: candidates and newest history steps of a page that training reads.
        embedding_dim: length of each ID, category and token embedding.
        item_dim: length of item vectors: what the item tower makes and attention compares.
        attention_units: hidden units of the activation unit.
        attention_normalization: `softmax`, or `none` for DIN's plain sum. On the sample's validation pages the sum is
            better with every image feature: GAUC 0.671 and 0.603 with cluster_id after 3 epochs, 0.690 and 0.684 with
            simscore, 0.689 and 0.673 with vector.
        mlp_units: hidden layers of the MLP; the layer of the logit follows as the fifth.
        id_dropout: share of item and user IDs that training takes for unknown, so that what an unknown ID means is
            learned. On the sample it adds 0.01 to 0.02 to the GAUC over items whose ID is unknown.
        min_count: IDs with fewer occurrences in the training pages share the unknown ID.
        token_buckets: rows of the token embedding of titles and queries.
        title_tokens: tokens kept of a title or query.
    """

    lengths: RankerLengths = RankerLengths()
    embedding_dim: PositiveInt = 16
    item_dim: PositiveInt = 32
    attention_units: PositiveInt = 32
    attention_normalization: Literal["softmax", "none"] = "none"
    mlp_units: tuple[PositiveInt, ...] = Field((128, 64, 32, 16), min_length=1)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    min_count: PositiveInt = 5
    token_buckets: PositiveInt = 10_000
    title_tokens: PositiveInt = 16


class FeatureSizes(Config):
    """Sizes of the feature tables that a `Ranker` holds, found in its training data.

    Attributes:
        items, users: rows of the dataset's tables. Each feature table has one more row, for what is unknown.
        item_ids, user_ids, categories: known IDs and categories; embeddings have one more row, 0, for all others.
        item_stats, user_stats: `stat_*` columns.
        user_cats: known values of each `cat_*` column.
        image_dim: length of image embeddings, 0 when they are not used.
        clusters: number of cluster IDs, 0 when they are not used.
    """

    items: NonNegativeInt
    users: NonNegativeInt
    item_ids: NonNegativeInt
    user_ids: NonNegativeInt
    categories: NonNegativeInt
    item_stats: NonNegativeInt
    user_stats: NonNegativeInt
    user_cats: tuple[NonNegativeInt, ...]
    image_dim: NonNegativeInt = 0
    clusters: NonNegativeInt = 0


class TrainingConfig(Config):
    """A run of `models.train_ctr`.

    Attributes:
        ranker: the architecture.
        batch_size: pages per step, over all replicas.
        epochs: largest number of passes over the training pages.
        patience: epochs without a better validation GAUC after which training stops.
        learning_rate: of Adam.
        validation_share: share of the training pages, the latest ones, that validate instead.
    """

    ranker: RankerConfig = RankerConfig()
    batch_size: PositiveInt = 64
    epochs: PositiveInt = 7
    patience: PositiveInt = 2
    learning_rate: float = Field(1e-3, gt=0)
    validation_share: float = Field(0.1, gt=0, lt=1)
