"""What a ranker is made of, and how it is trained."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.records import HISTORIES
from models.config import Config
from models.data.pages import PageLengths
from models.features.spec import FeaturesConfig
from models.layers.id_embedding import LARGEST

Monitor = Literal["gauc_page_mean", "gauc_user_mean", "auc"]
ImageFeature = Literal["none", "vector", "simscore", "simtier", "cluster_id", "semantic_id", "make"]
IMAGE_FEATURES: tuple[ImageFeature, ...] = get_args(ImageFeature)


def image_features_of(names: str | Sequence[str]) -> tuple[ImageFeature, ...]:
    """The image features of a sequence of names, or of names joined by commas.

    Raises:
        InputError: a name is none, or is there twice, or `none` is not alone.
    """
    features = tuple(names.split(",")) if isinstance(names, str) else tuple(names)
    if not features or not set(features) <= set(IMAGE_FEATURES):
        raise InputError(f"`image_feature` must be of {', '.join(IMAGE_FEATURES)}. Received: {', '.join(features)}")
    if len(set(features)) < len(features) or ("none" in features and len(features) > 1):
        raise InputError(f"`image_feature` must have each name once, and `none` alone. Received: {', '.join(features)}")
    return cast(tuple[ImageFeature, ...], features)


class RankerLengths(PageLengths):
    """`PageLengths` with the defaults of a ranker; 0 candidates: as many as the longest page of the dataset has.

    Batches are as long as their longest page, so that generous lengths cost nothing where histories are short.
    """

    candidates: NonNegativeInt = 0
    click: NonNegativeInt = HISTORIES["click"]
    pay: NonNegativeInt = HISTORIES["pay"]
    cart: NonNegativeInt = HISTORIES["cart"]


class AttentionConfig(Config):
    """How candidates look at histories.

    Attributes:
        recent_steps: newest steps of each history that DIN's activation unit weighs; 0 for none.
        units: hidden units of the activation unit.
        activation: of these, `relu` or DIN's `dice`, whose moments leave padding out.
        normalization: of its weights, `softmax`, or `none` for DIN's plain sum, which tells how strong an interest is.
        histories: what sees the whole histories: `target_attention` of each candidate; `self_attention`, the paper's
            user encoder, one vector per page, whose cost grows with the square of the length; or `none`.
        heads, head_dim: of the attention over whole histories.
        similarity_aware: whether `target_attention` is scaled by the similarity of pictures; see
            `MultiHeadTargetAttention`.
        similarity_buckets: buckets of this similarity that have a key and a value in `target_attention`; 0 for none.
    """

    recent_steps: NonNegativeInt = 50
    units: PositiveInt = 32
    activation: Literal["relu", "dice"] = "relu"
    normalization: Literal["softmax", "none"] = "none"
    histories: Literal["target_attention", "self_attention", "none"] = "target_attention"
    heads: PositiveInt = 2
    head_dim: PositiveInt = 16
    similarity_aware: bool = False
    similarity_buckets: int = Field(0, ge=0)


class TasksConfig(Config):
    """What is predicted, and how much each task weighs in the loss that training lowers. 0 leaves a task out.

    Attributes:
        ctr: click probability.
        pairwise: that a clicked candidate has larger log-odds than an unclicked one of its page: RankNet's log loss of
            the difference, a mean over the pairs of a page and then over pages, as GAUC is. It adds no output; its cost
            grows with the square of a page's candidates. What it adds to GAUC it takes from the AUC over all pages if
            `ctr` weighs little beside it.
        jrc: that of a page's candidates a clicked one has the largest log-odds and an unclicked one the smallest: the
            log loss of choosing it from all by a softmax of half of these, or of their negatives, a mean over the
            candidates of a page and then over pages (joint optimization of ranking and calibration). It adds no output;
            its cost grows like that of `pairwise`.
        ctcvr: probability of a click and a conversion, the product of click and conversion probability (ESMM).
        long_visit: probability of a click and a visit of at least `RankerConfig.long_visit_seconds`, a product like
            `ctcvr`.
        dwell: log(1 + seconds) after a click.
    """

    ctr: float = Field(1.0, gt=0)
    pairwise: NonNegativeFloat = 0.0
    jrc: NonNegativeFloat = 0.0
    ctcvr: NonNegativeFloat = 0.0
    long_visit: NonNegativeFloat = 0.0
    dwell: NonNegativeFloat = 0.0


class RankerConfig(Config):
    """Architecture of a `Ranker`.

    Attributes:
        lengths: candidates and newest history steps of a page that training reads.
        features: what is known of items, users and candidates.
        tasks: what is predicted.
        long_visit_seconds: dwell time from which on a visit is long.
        embedding_dim: length of each ID, category and token embedding.
        largest_embedding: initial values of embeddings of what is known of items and users are up to this, of either
            sign. With larger ones attention finds equal IDs sooner; with smaller ones rare IDs say little by chance.
        item_dim: length of item vectors: what the item tower makes and attention compares; 0 for what is known of an
            item side by side, without a dense layer.
        embed_clusters: whether `cluster_id` learns an embedding per cluster, and `semantic_id` per prefix, besides
            comparing them. Where clicks per cluster are few, it learns chance.
        compare_clusters: whether `cluster_id` compares clusters, and their centers, with those of the history, and
            `semantic_id` prefixes, besides the embedding. The paper's is an embedding alone.
        prefix_buckets: rows of the embedding of prefixes of semantic IDs, which share rows by chance.
        match_recency: whether each history says of each comparison by `match: true`, and of clusters, if any step
            matches and how long ago the newest one was.
        derived_inputs: whether the ranker is told what it could hardly find out: which steps match a candidate (of
            `match: true`), what was done in a step and how long ago, how long each history is, and the product of title
            and query. The paper tells of none.
        members: networks whose log-odds are averaged, so that what each learns by chance falls out.
        attention: how candidates look at histories.
        cross_layers: DCN-v2 cross layers between the towers and the MLP; 0 for none.
        mlp_units: hidden layers of the MLP; the layer of the logit follows as the fifth.
        mlp_dropout: share of the outputs of each hidden layer that training leaves out.
        position_bias: positions behind the first of which training learns what each adds to the log-odds of a click, so
            that items do not get the credit for their place; 0 for none. Scores are those of the first position,
            wherever a candidate stands; see `PositionBias`.
        token_buckets: rows of the token embedding of titles and queries.
        query_tokens: tokens kept of a query.
    """

    lengths: RankerLengths = RankerLengths()
    features: FeaturesConfig = FeaturesConfig()
    tasks: TasksConfig = TasksConfig()
    long_visit_seconds: float = Field(30.0, gt=0)
    embedding_dim: PositiveInt = 16
    largest_embedding: float = Field(LARGEST, gt=0)
    item_dim: NonNegativeInt = 32
    embed_clusters: bool = True
    compare_clusters: bool = True
    prefix_buckets: PositiveInt = 10_000
    match_recency: bool = False
    derived_inputs: bool = True
    members: PositiveInt = 1
    attention: AttentionConfig = AttentionConfig()
    cross_layers: NonNegativeInt = 0
    mlp_units: tuple[PositiveInt, ...] = Field((128, 64, 32, 16), min_length=1)
    mlp_dropout: float = Field(0.0, ge=0, lt=1)
    position_bias: NonNegativeInt = 0
    token_buckets: PositiveInt = 10_000
    query_tokens: PositiveInt = 16


class MakeConfig(Config):
    """How pictures learn alone, before the ranker that reads what they say; all else is as in its `TrainingConfig`.

    Attributes:
        epochs: largest number of passes over the training pages; the best one is chosen as the ranker's is.
        learning_rate: of Adam.
    """

    epochs: PositiveInt = 20
    learning_rate: float = Field(3e-3, gt=0)


class TrainingConfig(Config):
    """A run of `models.train_ctr`.

    Attributes:
        ranker: the architecture.
        batch_size: pages per step, over all replicas.
        epochs: largest number of passes over the training pages.
        monitor: the metric of the validation pages by which the best epoch is chosen: `gauc_page_mean`; where most
            pages have one candidate or no click, `gauc_user_mean` or `auc`.
        patience: epochs without a better one after which training stops.
        make: how pictures learn alone before everything else, with the image feature `make`.
        optimizer: `lazy_adam`, which moves only the rows of embeddings that a step reads; or `adam`, which also moves
            the others on by their momentum, so that rare IDs learn more of each page, at a cost that grows with the
            number of IDs.
        learning_rate: of Adam.
        weight_decay: of Adam, coupled; with `lazy_adam`, of embeddings only rows that a step has read decay.
        average_weights: whether validation sees, and the run keeps, an average of the weights after each step, of the
            newest tenth of all, instead of the last ones; `lazy_adam` alone keeps one.
        restart_embeddings: whether embeddings of IDs begin anew in every epoch, so that they learn no page by heart,
            while the rest goes on; see `RestartedEmbeddings`.
        clip_norm: gradients of the whole batch, of all members, are scaled down to this length; null for none.
        loss_half_life_days: age at which a page counts half as much in the loss as the newest one; null for all alike.
            Metrics count every page once.
        validation_share: share of the training pages, the latest ones, that validate instead.
        calibration: how probabilities are mapped onto the click rates of the validation pages: `platt`, `isotonic` or
            `none`. The order of candidates stays.
        checkpoint_minutes: time between checkpoints; 0 writes one after every step.
    """

    ranker: RankerConfig = RankerConfig()
    batch_size: PositiveInt = 64
    epochs: PositiveInt = 7
    monitor: Monitor = "gauc_page_mean"
    patience: PositiveInt = 3
    make: MakeConfig = MakeConfig()
    optimizer: Literal["lazy_adam", "adam"] = "lazy_adam"
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: NonNegativeFloat = 0.0
    average_weights: bool = True
    restart_embeddings: bool = False
    clip_norm: float | None = Field(None, gt=0)
    loss_half_life_days: float | None = Field(None, gt=0)
    validation_share: float = Field(0.1, gt=0, lt=1)
    calibration: Literal["none", "platt", "isotonic"] = "platt"
    checkpoint_minutes: NonNegativeFloat = 5.0

    @model_validator(mode="after")
    def _optimizer_averages(self) -> "TrainingConfig":
        if self.optimizer == "adam" and self.average_weights:
            raise ValueError("optimizer: adam keeps no average of the weights; set average_weights=false beside it")
        return self
