"""What all recommenders have in common, however they learn: a vector for each user and each item."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
import tensorflow as tf
from pydantic import Field, NonNegativeFloat, PositiveInt

from beam_pipelines.format.errors import InputError
from models.config import Config
from models.data.dataset import Dataset
from models.retrieval.interactions import Interactions, Pairs

Reading = Literal["never", "optional", "always"]
"""Whether a recommender reads item features."""

_SCORES_TOGETHER = 1 << 24

if TYPE_CHECKING:  # a mixin is what it is mixed into
    from keras import Model as _Model
else:
    _Model = object


class RecommenderConfig(Config):
    """What all recommenders and their training have in common; a method adds its own keys.

    Attributes:
        dim: length of the embeddings.
        learning_rate: of Adam.
        regularization: weight of the penalty on the embeddings of a batch.
        batch_size: interactions per step, or pages where a step reads pages.
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


class TrainingSteps(Protocol):
    """The data of a whole training; what a step reads follows from its number."""

    steps_per_epoch: int

    def from_step(self, step: int) -> tf.data.Dataset:
        """Batches for `fit` from a step on, at least to the end of the training."""


class Retriever(_Model):
    """Mixin of models with a vector for each user and each item; what suits a user has a high product with the user's.

    `Recommender` is the base of those that learn a vector for each user. What learns otherwise implements the methods
    here.

    Attributes:
        num_users, num_items: number of rows.
        feature_dims: lengths of the item features, kind by kind.
        config: of the class `Config`.
        seen: the interactions that it learns from; `None` before it knows them.
    """

    Config: ClassVar[type[RecommenderConfig]] = RecommenderConfig
    reads_features: ClassVar[Reading] = "never"
    num_users: int
    num_items: int
    feature_dims: tuple[int, ...]
    config: RecommenderConfig
    seen: Pairs | None

    @classmethod
    def of(
        cls,
        interactions: Interactions,
        features: Sequence[np.ndarray],
        dataset: Dataset | None,
        config: RecommenderConfig,
    ) -> Self:
        """Makes one that knows all but its weights.

        Args:
            interactions: what it learns from.
            features: of the items, float32 `(items, dim)` each.
            dataset: the page dataset that the interactions come from, if they do.
            config: of the class `Config`.

        Raises:
            InputError: something is missing or does not fit.
        """
        raise NotImplementedError

    @classmethod
    def training_steps(
        cls, interactions: Interactions, dataset: Dataset | None, config: RecommenderConfig, seed: int
    ) -> TrainingSteps:
        """What `fit` reads; arguments as in `of`.

        Raises:
            InputError: there is nothing to learn.
        """
        raise NotImplementedError

    def begin_epoch(self) -> None:
        """Called before the first step of each epoch of training: for what changes once per epoch.

        What it changes must be weights, so that checkpoints hold it.
        """

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of all users and of all items, float32: what an index of a server needs."""
        raise NotImplementedError

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
        return best_items(users, *self.vectors(), self.seen, k)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "num_users": self.num_users,
            "num_items": self.num_items,
            "feature_dims": self.feature_dims,
            "config": self.config.model_dump(mode="json"),
        }

    @classmethod
    def _check_feature_dims(cls, feature_dims: Sequence[int]) -> None:
        """Raises an `InputError` if there are features where none are read, or none where they are needed."""
        if cls.reads_features == ("never" if feature_dims else "always"):
            wanted = "empty" if feature_dims else "at least one length"
            raise InputError(f"`feature_dims` must be {wanted} for {cls.__name__}. Received: {tuple(feature_dims)}")

    def _check_fits(self, interactions: Interactions, features: Sequence[np.ndarray]) -> None:
        """Raises an `InputError` if there are other numbers of users, items or features."""
        if (interactions.num_users, interactions.num_items) != (self.num_users, self.num_items):
            raise InputError(
                f"`interactions` must be of {self.num_users} users and {self.num_items} items. "
                f"Received: {interactions.num_users} and {interactions.num_items}"
            )
        shapes = [np.shape(each) for each in features]
        if shapes != [(self.num_items, dim) for dim in self.feature_dims]:
            raise InputError(f"`features` must be of the lengths {self.feature_dims}. Received: shapes {shapes}")


def best_items(
    users: Sequence[int] | np.ndarray, user_vectors: np.ndarray, item_vectors: np.ndarray, seen: Pairs, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The items of the highest products with users' vectors, without those that the users have.

    Args:
        users: user rows, `(n,)`.
        user_vectors, item_vectors: float32 `(rows, dim)`.
        seen: what users have.
        k: how many items.

    Returns:
        See `Retriever.recommend`.
    """
    users = np.asarray(users, np.int64)
    items = tf.constant(item_vectors)
    order = np.argsort(seen.users, kind="stable")
    starts = np.searchsorted(seen.users[order], np.arange(len(user_vectors) + 1))
    k = min(k, len(item_vectors))
    rows, scores = np.empty((len(users), k), np.int32), np.empty((len(users), k), np.float32)
    step = max(1, _SCORES_TOGETHER // len(item_vectors))
    for first in range(0, len(users), step):
        block = users[first : first + step]
        product = tf.matmul(user_vectors[block], items, transpose_b=True).numpy()
        for number, user in enumerate(block):
            product[number, seen.items[order[starts[user] : starts[user + 1]]]] = -np.inf
        top = tf.math.top_k(product, k)
        scores[first : first + step] = top.values
        rows[first : first + step] = tf.where(tf.math.is_finite(top.values), top.indices, -1)
    return rows, scores
