"""The two-tower retriever: a user by what they did, an item by what it is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import keras
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from pydantic import Field, PositiveInt

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Window
from models.data.dataset import Dataset
from models.data.pages import PADDING, PageLengths, TrainingBatches, page_timestamps, with_labels
from models.retrieval.interactions import LABELS, Interactions, Pairs
from models.retrieval.losses import squared_penalty
from models.retrieval.retriever import Reading, RecommenderConfig, Retriever, TrainingSteps
from models.retrieval.two_tower.history_pooling import HistoryPooling
from models.retrieval.two_tower.in_batch_softmax import in_batch_softmax
from models.retrieval.two_tower.item_encoder import ItemEncoder
from models.retrieval.two_tower.latest_histories import LatestHistories, latest_histories
from models.training.distributed_fit import DistributedFit

UNKNOWN_ITEM = 0
"""The ID of all items that training has not seen."""

_TABLES = ("ids", "categories", "log_frequencies", "seen_users", "seen_items", "click", "pay")
_FEATURES = "features_"
_TOGETHER = 4096
_LENGTH_FLOOR = 1e-6  # of squares: a vector of zeros has no direction


class TwoTowerConfig(RecommenderConfig):
    """`RecommenderConfig` for batches of pages, with the towers.

    Attributes:
        hidden_units: of each tower's hidden layer.
        click_steps, pay_steps: newest steps of a history that the user tower reads.
        category_buckets: number of embeddings that categories share by their hashes.
        id_dropout: share of item IDs that training takes for unknown, so that pictures learn to stand for an item.
        temperature: what cosines are divided by in the softmax.
    """

    batch_size: PositiveInt = 256
    epochs: PositiveInt = 50
    patience: PositiveInt = 5
    hidden_units: PositiveInt = 128
    click_steps: PositiveInt = 50
    pay_steps: PositiveInt = 50
    category_buckets: PositiveInt = 1000
    id_dropout: float = Field(0.5, ge=0, lt=1)
    temperature: float = Field(0.1, gt=0)


class _Pages(TrainingBatches):
    """Batches of pages as `fit` takes them."""

    def __init__(self, label: Literal["clicked", "converted"], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._label = label

    def from_step(self, step: int, context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
        return super().from_step(step, context).map(lambda page: with_labels(page, [self._label]))


@keras.saving.register_keras_serializable(package="courier")
class TwoTower(Retriever, DistributedFit, tfrs.Model):
    """Vectors of users from their histories and of items from ID, category and features; their cosines are scores.

    Both towers begin as sums of what goes in, and learn what to add to it:

        base(item)  = embedding of the ID + of the category + projected features
        item        = base + MLP(base)
        user        = clicks + pays + MLP([clicks, pays]), each history the pooled base of its steps

    and both are of length 1. Nothing is learned of a user as such: who has a history has candidates, and who has none
    gets those of an empty one. An item that training has not seen has the ID of all unknown ones, and its category and
    picture speak for it.

    Training: on pages, each history encoded once for all that was chosen on its page; a softmax over the items of the
    batch, see `in_batch_softmax`.

    Args:
        num_users, num_items: number of rows.
        feature_dims: lengths of the item features, one for each kind.
        config: a `TwoTowerConfig`, or a mapping of its keys; unset: the defaults.
        num_ids: number of item IDs with an embedding; unset: `num_items`. It is another one after `refreshed`.

    Call arguments:
        page: a page of `parse_pages`: of it are read `item`, `click_item` and `pay_item`, item rows padded with -1.

    Output shape: `(batch, candidates)`, the cosines of user and candidates, 0 at padding.

    Example:
        >>> dataset = Dataset("artifacts/dataset")
        >>> interactions = Interactions.from_pages(dataset)
        >>> features = read_item_features(["artifacts/embeddings"], interactions, dataset)
        >>> model = TwoTower.of(interactions, [features.vectors], dataset, TwoTowerConfig())
        >>> model.compile(LazyAdam(1e-3), metrics=[GAUC()])
        >>> model.fit(dataset.pages("train").batches(256, shuffle=True), epochs=5)

    Reference: Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations (RecSys 2019);
    Covington et al., Deep Neural Networks for YouTube Recommendations (RecSys 2016); Volkovs et al., DropoutNet:
    Addressing Cold Start in Recommender Systems (NeurIPS 2017), the dropped IDs.
    """

    Config: ClassVar[type[RecommenderConfig]] = TwoTowerConfig
    reads_features: ClassVar[Reading] = "always"
    shapes_vary = True
    config: TwoTowerConfig

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Sequence[int] = (),
        config: TwoTowerConfig | Mapping[str, Any] | None = None,
        num_ids: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._check_feature_dims(feature_dims)
        self.num_users = num_users
        self.num_items = num_items
        self.num_ids = num_items if num_ids is None else num_ids
        self.feature_dims = tuple(feature_dims)
        self.config = config if isinstance(config, TwoTowerConfig) else TwoTowerConfig.model_validate(config or {})
        dim = self.config.dim
        self.items = ItemEncoder(
            self.num_ids, self.config.category_buckets, self.feature_dims, dim, self.config.id_dropout, name="items"
        )
        self.clicks = HistoryPooling(self.config.click_steps, dim, name="clicks")
        self.pays = HistoryPooling(self.config.pay_steps, dim, name="pays")
        self.item_tower = self._tower("item_tower", dim)
        self.user_tower = self._tower("user_tower", 2 * dim)
        for layer in (self.items, self.clicks, self.pays):
            layer.build()
        self.seen: Pairs | None = None
        self._tables: dict[str, tf.Tensor] = {}
        self._features: list[tf.Tensor] = []
        self._compiled_users = tf.function(self.encode_users, reduce_retracing=True)
        self._compiled_items = tf.function(self.encode_items, reduce_retracing=True)
        self._compiled_bases = tf.function(lambda *known: self.items(*known), reduce_retracing=True)
        self.built = True

    @classmethod
    def of(
        cls,
        interactions: Interactions,
        features: Sequence[np.ndarray],
        dataset: Dataset | None,
        config: RecommenderConfig,
    ) -> Self:
        """One that knows the items of a dataset, and its users up to the last interaction that is learned from."""
        dataset = _required(dataset)
        assert isinstance(config, TwoTowerConfig)
        model = cls(interactions.num_users, interactions.num_items, [each.shape[1] for each in features], config)
        model.adapt(interactions, features, dataset)
        return model

    @classmethod
    def training_steps(
        cls, interactions: Interactions, dataset: Dataset | None, config: RecommenderConfig, seed: int
    ) -> TrainingSteps:
        """The pages up to the last interaction that is learned from."""
        dataset = _required(dataset)
        assert isinstance(config, TwoTowerConfig)
        last = _last_moment(interactions)
        return _Pages(
            LABELS[interactions.kind],
            dataset,
            "train",
            window=Window(first=dataset.split("train").window.first, last=last),
            pages=int((page_timestamps(dataset, "train") <= last).sum()),
            lengths=_lengths(dataset, config),
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=seed,
        )

    def adapt(self, interactions: Interactions, features: Sequence[np.ndarray], dataset: Dataset) -> None:
        """Tells the model what items are, how often they are chosen, and what users have done.

        Args:
            interactions: `train` is what it learns from; of its pages come frequencies and histories.
            features: of the items, float32 `(items, dim)` for each of `feature_dims`.
            dataset: whose pages the interactions come from.

        Raises:
            InputError: there are other numbers of users, items or features.
        """
        self._check_fits(interactions, features)
        train = interactions.train
        counts = np.bincount(train.items, minlength=self.num_items)
        histories = latest_histories(dataset, _last_moment(interactions), _lengths(dataset, self.config))
        categories = dataset.items()["category"].to_pylist()
        self._fill(
            {
                "ids": np.where(counts > 0, np.arange(self.num_items) + 1, UNKNOWN_ITEM).astype(np.int32),
                "categories": self.category_rows(categories),
                "log_frequencies": np.log(np.maximum(counts, 1) / len(train)).astype(np.float32),
                "seen_users": train.users,
                "seen_items": train.items,
                **histories._asdict(),
            },
            features,
        )

    def refreshed(
        self,
        item_rows: np.ndarray,
        user_rows: np.ndarray,
        interactions: Interactions,
        features: Sequence[np.ndarray],
        dataset: Dataset,
    ) -> "TwoTower":
        """The same towers for the items and users of a later dataset, without training.

        Items that this one knows are what they were, with the categories and features that they have now. Others have
        the ID of all unknown ones. Users have the histories of the end of the later dataset, and what they had.

        Args:
            item_rows, user_rows: the later row of each item and user of this one, -1 where there is none.
            interactions: all of the later dataset, as `train`.
            features: of its items, scaled as those given to `adapt`.
            dataset: the later one.
        """
        other = TwoTower(interactions.num_users, interactions.num_items, self.feature_dims, self.config, self.num_ids)
        other._check_fits(interactions, features)
        other.set_weights(self.get_weights())
        ids = np.full(other.num_items, UNKNOWN_ITEM, np.int32)
        assert self.seen is not None
        log_frequencies = np.full(other.num_items, -np.log(len(self.seen)), np.float32)
        stay = item_rows >= 0
        for values, name in ((ids, "ids"), (log_frequencies, "log_frequencies")):
            values[item_rows[stay]] = self._tensor(name).numpy()[stay]
        had = Pairs(user_rows[self.seen.users], item_rows[self.seen.items])
        had = had.take((had.users >= 0) & (had.items >= 0))
        pairs = np.stack(
            [
                np.concatenate([had.users, interactions.train.users]),
                np.concatenate([had.items, interactions.train.items]),
            ]
        )
        seen_users, seen_items = np.unique(pairs, axis=1).astype(np.int32)
        splits = tuple(dataset.manifest.splits)
        end = max(dataset.split(split).window.last for split in splits)
        histories = latest_histories(dataset, end, _lengths(dataset, self.config), splits)
        other._fill(
            {
                "ids": ids,
                "categories": self.category_rows(dataset.items()["category"].to_pylist()),
                "log_frequencies": log_frequencies,
                "seen_users": seen_users,
                "seen_items": seen_items,
                **histories._asdict(),
            },
            features,
        )
        return other

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "num_ids": self.num_ids}

    def category_rows(self, categories: Sequence[str | None]) -> np.ndarray:
        """Which embeddings categories have: int32 `(n,)`."""
        texts = tf.constant([category or "" for category in categories], tf.string)
        return tf.strings.to_hash_bucket_fast(texts, self.config.category_buckets).numpy().astype(np.int32)

    def call(self, page: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Scores the candidates of pages; see the class."""
        item = page["item"]
        base, (candidates, clicks, pays) = self._encode(item, *self._histories(page), training=training)
        items = self._items(tf.gather(base, tf.maximum(candidates, 0)))
        scores = tf.einsum("bcd,bd->bc", items, self._users(base, clicks, pays))
        return tf.where(item >= 0, scores, 0.0)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """The softmax over the items of the batch, and the penalty.

        Args:
            x: pages.
            y: which candidates were chosen: 1, else 0; `(batch, candidates)`.
            y_pred, sample_weight: unused.
            training: whether IDs are dropped.
        """
        chosen = tf.where((y > 0) & (x["item"] >= 0))
        pages, user_rows = tf.unique(chosen[:, 0])  # only pages where something was chosen are encoded
        item = tf.gather_nd(x["item"], chosen)
        clicks, pays = (tf.gather(history, pages) for history in self._histories(x))
        base, (items, clicks, pays) = self._encode(item, clicks, pays, training=training)
        loss = in_batch_softmax(
            self._users(base, clicks, pays),
            self._items(tf.gather(base, items)),
            user_rows,
            item,
            tf.gather(self._tensor("log_frequencies"), item),
            self.config.temperature,
        )
        return loss + self.config.regularization * squared_penalty(base) if self.config.regularization else loss

    def train_step(self, data: Any) -> dict[str, Any]:
        """Keras' hook: a step, whose forward pass is that of the loss alone."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, variables), variables, strict=True))
        return self._logs(loss, x, y, sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Keras' hook: loss and metrics of a batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return self._logs(self.compute_loss(x, y, training=False), x, y, sample_weight)

    def encode_users(self, click_item: tf.Tensor, pay_item: tf.Tensor) -> tf.Tensor:
        """Vectors of users by their histories.

        Args:
            click_item, pay_item: item rows `(batch, steps)`, newest first, -1 where there is none.

        Returns:
            float32 `(batch, dim)`.
        """
        base, (clicks, pays) = self._encode(*self._histories({"click_item": click_item, "pay_item": pay_item}))
        return self._users(base, clicks, pays)

    def users_from(self, base: tf.Tensor, click_item: tf.Tensor, pay_item: tf.Tensor) -> tf.Tensor:
        """As `encode_users`, from the base vectors of all items, which a server keeps instead of what they are made of.

        Args:
            base: from `base_vectors`.
            click_item, pay_item: as of `encode_users`.
        """
        return self._users(base, *self._histories({"click_item": click_item, "pay_item": pay_item}))

    def base_vectors(self) -> np.ndarray:
        """What all items are as steps of histories: float32 `(items, dim)`."""
        return self._of_all_items(self._compiled_bases)

    def encode_items(self, ids: tf.Tensor, categories: tf.Tensor, features: Sequence[tf.Tensor]) -> tf.Tensor:
        """Vectors of items by what they are, of those in no table, too.

        Args:
            ids: `UNKNOWN_ITEM`, or one more than the row of an item that training has seen; `(n,)`.
            categories: of `category_rows`, `(n,)`.
            features: `(n, dim)` for each of `feature_dims`, scaled as those given to `adapt`.

        Returns:
            float32 `(n, dim)`.
        """
        return self._items(self.items(ids, categories, features))

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of all users, by their histories at the end of what is learned from, and of all items."""
        if self.seen is None:
            raise InputError("TwoTower knows no users and items yet; call `adapt`")
        click, pay = (self._tables[name] for name in LatestHistories._fields)
        users = [np.empty((0, self.config.dim), np.float32)]
        for start in range(0, self.num_users, _TOGETHER):
            rows = slice(start, start + _TOGETHER)
            users.append(self._compiled_users(click[rows], pay[rows]).numpy())
        return np.concatenate(users), self._of_all_items(self._compiled_items)

    def save_own_variables(self, store: dict[str, Any]) -> None:
        """Keras' hook: with the weights goes what was given to `adapt`."""
        super().save_own_variables(store)
        for name, values in self._tables.items():
            store[name] = values.numpy()
        for number, features in enumerate(self._features):
            store[f"{_FEATURES}{number}"] = features.numpy()

    def load_own_variables(self, store: dict[str, Any]) -> None:
        """Keras' hook."""
        names = set(store.keys())
        super().load_own_variables({name: store[name] for name in names if name.isdigit()})
        if _TABLES[0] in names:
            features = [np.asarray(store[f"{_FEATURES}{number}"]) for number in range(len(self.feature_dims))]
            self._fill({name: np.asarray(store[name]) for name in _TABLES}, features)

    def _fill(self, tables: dict[str, np.ndarray], features: Sequence[np.ndarray]) -> None:
        # Held as tensors, which graphs refer to; an array would become a part of each graph.
        self._tables = {name: tf.constant(values) for name, values in tables.items()}
        self._features = [tf.constant(each, tf.float32) for each in features]
        self.seen = Pairs(tables["seen_users"], tables["seen_items"])

    def _tower(self, name: str, inputs: int) -> keras.Sequential:
        """What a tower adds to the sum of what goes in: nothing, before it is trained."""
        return keras.Sequential(
            [
                keras.layers.Input((inputs,)),
                keras.layers.Dense(self.config.hidden_units, activation="relu"),
                keras.layers.Dense(self.config.dim, kernel_initializer="zeros"),
            ],
            name=name,
        )

    def _histories(self, page: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return page["click_item"][:, : self.config.click_steps], page["pay_item"][:, : self.config.pay_steps]

    def _encode(self, *groups: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Base vectors of the distinct items among rows, and where those of each row are: -1 where there is none."""
        flat = tf.concat([tf.reshape(tf.cast(rows, tf.int32), [-1]) for rows in groups], axis=0)
        distinct, places = tf.unique(tf.maximum(flat, 0))
        base = self.items(
            tf.gather(self._tensor("ids"), distinct),
            tf.gather(self._tensor("categories"), distinct),
            [tf.gather(each, distinct) for each in self._features],
            training=training,
        )
        places = tf.split(places, [tf.size(rows) for rows in groups])
        return base, [
            tf.where(rows >= 0, tf.reshape(place, tf.shape(rows)), PADDING)
            for rows, place in zip(groups, places, strict=True)
        ]

    def _items(self, base: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(base, [-1, self.config.dim])
        return tf.reshape(_unit(flat + self.item_tower(flat)), tf.shape(base))

    def _users(self, base: tf.Tensor, clicks: tf.Tensor, pays: tf.Tensor) -> tf.Tensor:
        pooled = [
            pooling(tf.gather(base, tf.maximum(places, 0)), places >= 0)
            for pooling, places in ((self.clicks, clicks), (self.pays, pays))
        ]
        return _unit(tf.add_n(pooled) + self.user_tower(tf.concat(pooled, axis=1)))

    def _of_all_items(self, function: Callable[..., tf.Tensor]) -> np.ndarray:
        ids, categories = self._tensor("ids"), self._tensor("categories")
        parts = [np.empty((0, self.config.dim), np.float32)]
        for start in range(0, self.num_items, _TOGETHER):
            rows = slice(start, start + _TOGETHER)
            parts.append(function(ids[rows], categories[rows], [each[rows] for each in self._features]).numpy())
        return np.concatenate(parts)

    def _tensor(self, name: str) -> tf.Tensor:
        if self.seen is None:
            raise InputError("TwoTower knows no users and items yet; call `adapt`")
        return self._tables[name]

    def _logs(self, loss: tf.Tensor, x: dict[str, tf.Tensor], y: Any, sample_weight: Any) -> dict[str, Any]:
        self._loss_tracker.update_state(loss, sample_weight=tf.reduce_sum(tf.cast(y > 0, tf.int32)))
        if self._compile_metrics is None:
            return self.get_metrics_result()
        return self.compute_metrics(x, y, self(x, training=False), sample_weight)


def _required(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        raise InputError("the method two_tower reads the histories of pages; give a page dataset")
    return dataset


def _last_moment(interactions: Interactions) -> int:
    assert interactions.train.times is not None  # as they are from pages
    return int(interactions.train.times.max())


def _lengths(dataset: Dataset, config: TwoTowerConfig) -> PageLengths:
    return PageLengths(
        candidates=dataset.manifest.max_candidates, click=config.click_steps, pay=config.pay_steps, cart=0
    )


def _unit(vectors: tf.Tensor) -> tf.Tensor:
    return vectors * tf.math.rsqrt(tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True) + _LENGTH_FLOOR)
