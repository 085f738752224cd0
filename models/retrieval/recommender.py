"""The base of all recommenders: tables of users and items, what is given about them, and training by triples."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf
from pydantic import Field, NonNegativeFloat, PositiveInt

from beam_pipelines.format.errors import InputError
from models.config import Config
from models.retrieval.interactions import Interactions, Pairs
from models.retrieval.losses import bpr_loss
from models.retrieval.propagation import Propagation, normalized_bipartite
from models.training.distributed_fit import DistributedFit

Reading = Literal["never", "optional", "always"]
"""Whether a recommender reads item features."""

_USERS, _ITEMS, _FEATURES = "seen_users", "seen_items", "features_"
_SCORES_TOGETHER = 1 << 24


class RecommenderConfig(Config):
    """What all recommenders and their training have in common; a method adds its own keys.

    Attributes:
        dim: length of the embeddings.
        learning_rate: of Adam.
        regularization: weight of the penalty on the embeddings of a batch.
        batch_size: interactions per step.
        epochs: at most.
        patience: epochs without a higher recall@20 on the validation interactions after which training ends.
        validation_share: of the train pages of a page dataset, the latest, which validate.
        checkpoint_minutes: time between checkpoints; 0 writes one after every step.
    """

    dim: PositiveInt = 64
    learning_rate: float = Field(1e-3, gt=0)
    regularization: NonNegativeFloat = 0.0
    batch_size: PositiveInt = 2048
    epochs: PositiveInt = 1000
    patience: PositiveInt = 20
    validation_share: float = Field(0.1, gt=0, lt=1)
    checkpoint_minutes: NonNegativeFloat = 5.0


class EpochBegins(keras.callbacks.Callback):
    """Tells a recommender when an epoch begins; not when one that was interrupted goes on."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook."""
        if not self.model.steps_to_skip:
            self.model.begin_epoch()


class Recommender(DistributedFit, keras.Model):
    """A model that has a vector for each user and each item; what suits a user has a high product with the user's.

    A method implements `representations`, and `compute_loss` if it learns otherwise than by BPR. Its weights are made
    in the constructor (`add_table`, and layers that it builds); what follows from the interactions and the features, in
    `prepare`, which is called once they are known: by `adapt`, or when a saved model is loaded.

    Args:
        num_users, num_items: number of rows.
        feature_dims: lengths of the item features, one for each kind (pictures, texts).
        config: of the class `Config`, or a mapping of its keys; unset: the defaults.

    Attributes:
        seen: the interactions that it learns from, after `adapt`.
        features: the item features, float32 `(items, dim)` each, after `adapt`.

    Call arguments:
        x: a batch of `TrainingTriples`: `user`, `item` and `negative`, int `(batch,)`.

    Output shape: `(batch, 2)`, the scores of `item` and of `negative`. `recommend` ranks all items.

    Example:
        >>> interactions = read_interactions("baby.inter")
        >>> model = Bpr(interactions.num_users, interactions.num_items)
        >>> model.adapt(interactions)
        >>> model.compile(LazyAdam(1e-3))
        >>> triples = TrainingTriples(interactions.train, model.num_items, 2048, seed=0)
        >>> model.fit(triples.from_step(0), steps_per_epoch=triples.steps_per_epoch, epochs=20)
        >>> items, scores = model.recommend([0, 1, 2], k=20)
    """

    Config: ClassVar[type[RecommenderConfig]] = RecommenderConfig
    reads_features: ClassVar[Reading] = "never"
    shapes_vary = True

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: Sequence[int] = (),
        config: RecommenderConfig | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.reads_features == ("never" if feature_dims else "always"):
            wanted = "empty" if feature_dims else "at least one length"
            raise InputError(
                f"`feature_dims` must be {wanted} for {type(self).__name__}. Received: {tuple(feature_dims)}"
            )
        self.num_users = num_users
        self.num_items = num_items
        self.feature_dims = tuple(feature_dims)
        self.config = config if isinstance(config, RecommenderConfig) else self.Config.model_validate(config or {})
        self.seen: Pairs | None = None
        self.features: list[tf.Tensor] = []
        self.built = True

    def representations(self, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """The vectors of all users, `(users, d)`, and of all items, `(items, d)`."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Called when `seen` and `features` are known: for what follows from them, graphs for example."""

    def begin_epoch(self) -> None:
        """Called by `adapt` and before the first step of each epoch of training: for what changes once per epoch.

        What it changes must be weights, so that checkpoints hold it.
        """

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """BPR on `representations`. Of Keras' arguments, `x` is a batch of triples and the others are unused."""
        return bpr_loss(*self.scores_of(x, *self.representations(training=training)))

    def rows_of(
        self, x: dict[str, tf.Tensor], users: tf.Tensor, items: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The rows of a batch of triples, of a table of all users and one of all items: `(batch, d)` each."""
        return tf.gather(users, x["user"]), tf.gather(items, x["item"]), tf.gather(items, x["negative"])

    def scores_of(self, x: dict[str, tf.Tensor], users: tf.Tensor, items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The scores of a batch's items and of its negative ones, `(batch,)` each, from the vectors of all."""
        user, item, negative = self.rows_of(x, users, items)
        return tf.reduce_sum(user * item, axis=1), tf.reduce_sum(user * negative, axis=1)

    def call(self, x: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Scores of triples; see the class."""
        return tf.stack(self.scores_of(x, *self.representations(training=training)), axis=1)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Keras' hook: a step, whose forward pass is that of the loss alone."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, training=True)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        # Adam as published moves all rows in every step, by their moments. By rows alone, `LazyAdam` is no faster at
        # these sizes, and BPR finds 3 % less on Amazon Baby.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(scaled, variables)]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return self._logs(loss, x, y)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Keras' hook: loss and metrics of a batch."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self._logs(self.compute_loss(x, training=False), x, y)

    def fit(self, x: Any = None, *args: Any, callbacks: Any = None, **options: Any) -> keras.callbacks.History:
        """Keras' `fit`, which also calls `begin_epoch`."""
        if isinstance(x, tf.data.Dataset):
            options.setdefault("shuffle", False)  # Keras would warn that it leaves the order alone
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [EpochBegins(), *(callbacks or [])]
        return super().fit(x, *args, callbacks=callbacks, **options)

    def adapt(self, interactions: Interactions, features: Sequence[np.ndarray] = ()) -> None:
        """Tells the model what it is about, before it is trained.

        Args:
            interactions: `train` is what it learns from.
            features: of the items, one `(items, dim)` for each of `feature_dims`.

        Raises:
            InputError: there are other numbers of users, items or features.
        """
        if (interactions.num_users, interactions.num_items) != (self.num_users, self.num_items):
            raise InputError(
                f"`interactions` must be of {self.num_users} users and {self.num_items} items. "
                f"Received: {interactions.num_users} and {interactions.num_items}"
            )
        shapes = [np.shape(each) for each in features]
        if shapes != [(self.num_items, dim) for dim in self.feature_dims]:
            raise InputError(f"`features` must be of the lengths {self.feature_dims}. Received: shapes {shapes}")
        self._fill(Pairs(interactions.train.users, interactions.train.items), features)
        self.begin_epoch()

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of all users and of all items, float32: what an index of a server needs."""
        users, items = self._vectors()
        return users.numpy(), items.numpy()

    def recommend(self, users: Sequence[int] | np.ndarray, k: int = 20) -> tuple[np.ndarray, np.ndarray]:
        """The best items for users, without those that they have in the interactions learned from.

        Args:
            users: user rows, `(n,)`.
            k: how many items.

        Returns:
            Item rows int32 `(n, k)` and scores float32 `(n, k)`, best first. Where a user has fewer than `k` items
            left, the row is -1 and the score minus infinity.

        Raises:
            InputError: the model knows no interactions yet.
        """
        if self.seen is None:
            raise InputError(f"{type(self).__name__} knows no interactions yet; call `adapt`")
        users = np.asarray(users, np.int64)
        user_vectors, item_vectors = self._vectors()
        order = np.argsort(self.seen.users, kind="stable")
        starts = np.searchsorted(self.seen.users[order], np.arange(self.num_users + 1))
        k = min(k, self.num_items)
        rows, scores = np.empty((len(users), k), np.int32), np.empty((len(users), k), np.float32)
        step = max(1, _SCORES_TOGETHER // self.num_items)
        for first in range(0, len(users), step):
            block = users[first : first + step]
            product = tf.matmul(tf.gather(user_vectors, block), item_vectors, transpose_b=True).numpy()
            for number, user in enumerate(block):
                product[number, self.seen.items[order[starts[user] : starts[user + 1]]]] = -np.inf
            top = tf.math.top_k(product, k)
            scores[first : first + step] = top.values
            rows[first : first + step] = tf.where(tf.math.is_finite(top.values), top.indices, -1)
        return rows, scores

    def add_table(self, name: str, rows: int, dim: int | None = None) -> keras.Variable:
        """A trained table of vectors, from Glorot's uniform distribution.

        Args:
            name: of the weight.
            rows: how many vectors.
            dim: their length; unset: `config.dim`.
        """
        shape = (rows, self.config.dim if dim is None else dim)
        return self.add_weight(name=name, shape=shape, initializer="glorot_uniform", autocast=False)

    def add_dense(self, name: str, inputs: int, units: int, **options: Any) -> keras.layers.Dense:
        """A dense layer that is built already.

        Args:
            name: of the layer.
            inputs, units: lengths of what goes in and comes out.
            options: of `keras.layers.Dense`.
        """
        layer = keras.layers.Dense(units, name=name, **options)
        layer.build((None, inputs))
        return layer

    def interaction_graph(self) -> Propagation:
        """The graph of users and items, users first, symmetrically normalised, of the interactions learned from."""
        assert self.seen is not None
        return Propagation(normalized_bipartite(self.seen.users, self.seen.items, self.num_users, self.num_items))

    def split(self, nodes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The users' and the items' rows of a table of all nodes of the graph."""
        return nodes[: self.num_users], nodes[self.num_users :]

    def save_own_variables(self, store: dict[str, Any]) -> None:
        """Keras' hook: with the weights goes what was given to `adapt`."""
        super().save_own_variables(store)
        if self.seen is not None:
            store[_USERS], store[_ITEMS] = self.seen.users, self.seen.items
            for number, features in enumerate(self.features):
                store[f"{_FEATURES}{number}"] = features.numpy()

    def load_own_variables(self, store: dict[str, Any]) -> None:
        """Keras' hook."""
        names = set(store.keys())
        super().load_own_variables({name: store[name] for name in names if name.isdigit()})
        if _USERS in names:
            features = [np.asarray(store[f"{_FEATURES}{number}"]) for number in range(len(self.feature_dims))]
            self._fill(Pairs(np.asarray(store[_USERS]), np.asarray(store[_ITEMS])), features)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_users": self.num_users,
            "num_items": self.num_items,
            "feature_dims": self.feature_dims,
            "config": self.config.model_dump(mode="json"),
        }

    def _fill(self, seen: Pairs, features: Sequence[np.ndarray]) -> None:
        self.seen = seen
        self.features = [tf.constant(each, tf.float32) for each in features]
        self.prepare()

    def _logs(self, loss: tf.Tensor, x: dict[str, tf.Tensor], y: Any) -> dict[str, Any]:
        self._loss_tracker.update_state(loss, sample_weight=tf.shape(x["user"])[0])
        if self._compile_metrics is None:
            return self.get_metrics_result()
        return self.compute_metrics(x, y, self(x, training=False))

    def _vectors(self) -> tuple[tf.Tensor, tf.Tensor]:
        users, items = self.representations(training=False)
        return tf.convert_to_tensor(users), tf.convert_to_tensor(items)
