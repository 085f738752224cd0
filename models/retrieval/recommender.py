"""The base of all recommenders: tables of users and items, what is given about them, and training by triples."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import keras
import numpy as np
import tensorflow as tf

from models.data.dataset import Dataset
from models.retrieval.interactions import Interactions, Pairs
from models.retrieval.losses import bpr_loss
from models.retrieval.propagation import Propagation, normalized_bipartite
from models.retrieval.retriever import Reading, RecommenderConfig, Retriever
from models.retrieval.triples import TrainingTriples
from models.training.distributed_fit import DistributedFit

_USERS, _ITEMS, _FEATURES = "seen_users", "seen_items", "features_"


class EpochBegins(keras.callbacks.Callback):
    """Tells a recommender when an epoch begins; not when one that was interrupted goes on."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras' hook."""
        if not self.model.steps_to_skip:
            self.model.begin_epoch()


class Recommender(Retriever, DistributedFit, keras.Model):
    """A retriever that learns a vector for each user and each item.

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
        self._check_feature_dims(feature_dims)
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

    @classmethod
    def of(
        cls,
        interactions: Interactions,
        features: Sequence[np.ndarray],
        dataset: Dataset | None,
        config: RecommenderConfig,
    ) -> Self:
        """One of the interactions' users and items; see `Retriever`. The pages themselves are not read."""
        dims = [each.shape[1] for each in features]
        model = cls(interactions.num_users, interactions.num_items, feature_dims=dims, config=config)
        model.adapt(interactions, features)
        return model

    @classmethod
    def training_steps(
        cls, interactions: Interactions, dataset: Dataset | None, config: RecommenderConfig, seed: int
    ) -> TrainingTriples:
        """The triples of the train interactions."""
        return TrainingTriples(interactions.train, interactions.num_items, config.batch_size, seed)

    def adapt(self, interactions: Interactions, features: Sequence[np.ndarray] = ()) -> None:
        """Tells the model what it is about, before it is trained.

        Args:
            interactions: `train` is what it learns from.
            features: of the items, one `(items, dim)` for each of `feature_dims`.

        Raises:
            InputError: there are other numbers of users, items or features.
        """
        self._check_fits(interactions, features)
        self._fill(Pairs(interactions.train.users, interactions.train.items), features)
        self.begin_epoch()

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of all users and of all items, float32: what an index of a server needs."""
        users, items = self._vectors()
        return users.numpy(), items.numpy()

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
