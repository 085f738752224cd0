"""SwAV: views of a picture are assigned to prototypes, and each view predicts the assignment of the others."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops
from pydantic import Field

from models.pretraining.augmentation import RandomViews
from models.pretraining.losses import unit
from models.pretraining.perceptron_head import PerceptronHead
from models.pretraining.view_method import ViewConfig, ViewMethod
from models.training.replicas import gather_over_replicas

_MASKED = -1e9
_LARGE, _SMALL = (0.14, 1.0), (0.05, 0.14)  # areas of crops


class SwAVConfig(ViewConfig):
    """How `SwAV` learns; see its arguments."""

    prototypes: int = Field(3000, gt=0)
    temperature: float = Field(0.1, gt=0)
    epsilon: float = Field(0.05, gt=0)
    rounds: int = Field(3, gt=0)
    small_crops: int = Field(6, ge=0)
    small_scale: float = Field(96 / 224, gt=0, le=1)
    freeze_steps: int = Field(313, ge=0)
    queue_length: int = Field(0, ge=0)
    queue_from_step: int = Field(0, ge=0)
    hidden_dim: int = Field(2048, gt=0)
    projection_dim: int = Field(128, gt=0)


@keras.saving.register_keras_serializable(package="courier")
class SwAV(ViewMethod):
    """Pre-trains an image encoder without clicks: views of one picture must belong to the same prototypes.

    The projections of a batch's two large crops are assigned to prototypes, softly and so that all prototypes are used
    alike (`balanced_codes`): the codes, which have no gradient. From every other crop of the picture, large or small, a
    softmax over the prototypes predicts each code. The loss is the mean over pictures and pairs of crops; it stays at
    ln(prototypes) if all embeddings are alike.

    Prototypes have unit length: they are scaled back after each step. At first they do not learn, which keeps trainings
    stable. With a queue, projections of earlier batches are assigned along with a small batch.

    Codes are balanced over the pictures of all replicas, in float32.

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built, for pictures of several
            sizes, which all backbones here take. Its embeddings are what is used afterwards.
        prototypes: their number. Published for a million pictures; take far fewer than pictures.
        temperature: of the predictions.
        epsilon: how soft codes are: larger is softer. A loss that stays at ln(prototypes) wants a smaller one.
        rounds: how often codes are balanced.
        small_crops: small crops beside the two large ones.
        small_scale: sides of small crops over those of the picture.
        freeze_steps: steps without change of the prototypes, one epoch as published.
        queue_length: projections of earlier batches that wait, for each of the large crops; 0 for no queue. It takes
            part once it is full.
        queue_from_step: when the queue begins to fill; epoch 15 as published.
        hidden_dim, projection_dim: units of the head's two layers, the hidden one normalised over the batch.
        augmentation_strength: how much views differ from their picture; 1 is SwAV's.

    Inputs: a dictionary, see `PretrainingMethod`; pages take no part.

    Reference: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (2020), which
    learns with LARS at 4.8 for 4,096 pictures; here the optimizer is Adam.
    """

    def __init__(
        self,
        encoder: keras.Model,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        rounds: int = 3,
        small_crops: int = 6,
        small_scale: float = 96 / 224,
        freeze_steps: int = 313,
        queue_length: int = 0,
        queue_from_step: int = 0,
        hidden_dim: int = 2048,
        projection_dim: int = 128,
        augmentation_strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, RandomViews(augmentation_strength, area=_LARGE), **kwargs)
        for name, value in (("temperature", temperature), ("epsilon", epsilon), ("prototypes", prototypes)):
            if value <= 0:
                raise ValueError(f"`{name}` must be positive. Received: {value}")
        self.small_views = RandomViews(augmentation_strength, area=_SMALL, scale=small_scale)
        self.temperature = temperature
        self.epsilon = epsilon
        self.rounds = rounds
        self.small_crops = small_crops
        self.freeze_steps = freeze_steps
        self.queue_length = queue_length
        self.queue_from_step = queue_from_step
        self.hidden_dim = hidden_dim
        self.projection_dim = projection_dim
        self.head = PerceptronHead((hidden_dim, projection_dim), "hidden", name="head")
        self.head.build((None, encoder.embedding_dim))
        self.prototypes = self.add_weight(
            shape=(prototypes, projection_dim), initializer=_random_directions, name="prototypes"
        )
        self.steps = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False, name="steps")
        if queue_length:
            self.queue = self.add_weight(
                shape=(2, queue_length, projection_dim), initializer="zeros", trainable=False, name="queue"
            )
            self.queued = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False, name="queued")
        self.built = True

    def embed_views(self, inputs: dict[str, Any], counted: Any, seed: Any, training: bool) -> dict[str, Any]:
        """Projections of the large crops, `view_1` and `view_2`, and of small ones, `view_3` and so on, of unit length:
        `(n, projection_dim)`.
        """
        embeddings = [*self.encode_two(inputs, seed, training)]
        if self.small_crops:
            pictures, number = inputs["pictures"], inputs["picture_id"]
            seeds = [seed + ops.convert_to_tensor([2 + i, 0], "int64") for i in range(self.small_crops)]
            crops = ops.concatenate([self.small_views(pictures, number, seed) for seed in seeds], axis=0)
            shown = {"pictures": crops, "picture_id": ops.tile(number, self.small_crops)}
            embeddings += ops.split(self.embed(shown, training=training), self.small_crops, axis=0)
        return {f"view_{i}": unit(self.head(view, counted)) for i, view in enumerate(embeddings, start=1)}

    def loss_part(self, x: dict[str, Any], y_pred: dict[str, Any], pictures: Any, training: bool) -> Any:
        """See `ViewMethod`; in training, the projections join the queue when the loss has been computed."""
        counted = y_pred["counted"]
        views = [y_pred[f"view_{i + 1}"] for i in range(2 + self.small_crops)]
        prototypes = ops.convert_to_tensor(self.prototypes)
        frozen = ops.convert_to_tensor(self.steps) < self.freeze_steps
        prototypes = ops.where(frozen, ops.stop_gradient(prototypes), prototypes)
        scores = [ops.matmul(view, ops.transpose(prototypes)) for view in views]
        codes = [self._codes(i, scores[i], counted, prototypes) for i in range(2)]
        total = swapped_prediction(scores, codes, counted, self.temperature)
        if training and self.queue_length:
            self._enqueue(views[:2], counted)
        return total / pictures

    def begin_step(self) -> Any:
        """The prototypes, which frozen ones are to be afterwards, to the last bit."""
        return ops.convert_to_tensor(self.prototypes) * 1  # a copy

    def finish_step(self, begun: Any) -> None:
        """Scales the prototypes to unit length, or puts them back while they are frozen."""
        # Without a gradient the optimizer would still let them decay.
        learnt = unit(ops.convert_to_tensor(self.prototypes))
        frozen = ops.convert_to_tensor(self.steps) < self.freeze_steps
        self.prototypes.assign(ops.where(frozen, begun, learnt))
        self.steps.assign_add(1)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "prototypes": self.prototypes.shape[0],
            "temperature": self.temperature,
            "epsilon": self.epsilon,
            "rounds": self.rounds,
            "small_crops": self.small_crops,
            "small_scale": self.small_views.scale,
            "freeze_steps": self.freeze_steps,
            "queue_length": self.queue_length,
            "queue_from_step": self.queue_from_step,
            "hidden_dim": self.hidden_dim,
            "projection_dim": self.projection_dim,
        }

    def _codes(self, view: int, scores: Any, counted: Any, prototypes: Any) -> Any:
        """The codes of this replica's projections of a large crop."""
        scores = ops.stop_gradient(scores)
        if not self.queue_length:
            return balanced_codes(scores, counted, epsilon=self.epsilon, rounds=self.rounds)
        waiting = ops.matmul(ops.convert_to_tensor(self.queue)[view], ops.transpose(ops.stop_gradient(prototypes)))
        full = ops.convert_to_tensor(self.queued) >= self.queue_length
        return balanced_codes(
            scores,
            counted,
            epsilon=self.epsilon,
            rounds=self.rounds,
            shared=waiting,
            shared_counted=ops.broadcast_to(full, (self.queue_length,)),
        )

    def _enqueue(self, views: Sequence[Any], counted: Any) -> None:
        """The newest projections come first, as in the published code."""
        every = gather_over_replicas(counted)
        views = [tf.boolean_mask(gather_over_replicas(ops.stop_gradient(view)), every) for view in views]
        queue = ops.convert_to_tensor(self.queue)
        moved = ops.concatenate([ops.stack(views), queue], axis=1)[:, : self.queue_length]
        fills = ops.convert_to_tensor(self.steps) >= self.queue_from_step
        self.queue.assign(ops.where(fills, moved, queue))
        self.queued.assign_add(ops.where(fills, ops.cast(ops.shape(views[0])[0], "int64"), 0))


def balanced_codes(
    scores: Any, counted: Any, *, epsilon: float, rounds: int, shared: Any = None, shared_counted: Any = None
) -> Any:
    """Assigns rows to prototypes softly, so that each row is assigned once and prototypes are used about alike.

    Begins with `exp(scores / epsilon)` and divides, in each round, the values of each prototype by their sum over the
    counted rows of all replicas, then those of each row by their sum (Sinkhorn and Knopp). So rows add up to 1 exactly,
    and prototypes to `rows / prototypes` nearly. Computes with logarithms, which no epsilon makes overflow.

    Args:
        scores: `(n, prototypes)`, those of this replica.
        counted: bool `(n,)`; the others change no code, and theirs mean nothing.
        epsilon: softness.
        rounds: of the division.
        shared: `(m, prototypes)`, rows that all replicas have alike and that are counted once.
        shared_counted: bool `(m,)`.

    Returns:
        float32 `(n, prototypes)`.

    Reference: Caron et al., section 3.1 and appendix A.
    """
    scores = ops.cast(scores, "float32") / epsilon
    own = ops.where(counted[:, None], scores, _MASKED)
    waiting = None
    if shared is not None:
        waiting = ops.where(shared_counted[:, None], ops.cast(shared, "float32") / epsilon, _MASKED)
    for _ in range(rounds):
        sums = gather_over_replicas(ops.logsumexp(own, axis=0, keepdims=True))
        if waiting is not None:
            sums = ops.concatenate([sums, ops.logsumexp(waiting, axis=0, keepdims=True)], axis=0)
        sums = ops.logsumexp(sums, axis=0, keepdims=True)
        own = ops.where(counted[:, None], ops.log_softmax(own - sums, axis=1), _MASKED)
        if waiting is not None:
            waiting = ops.where(shared_counted[:, None], ops.log_softmax(waiting - sums, axis=1), _MASKED)
    return ops.exp(own)


def swapped_prediction(scores: Sequence[Any], codes: Sequence[Any], counted: Any, temperature: float) -> Any:
    """Sums, over counted pictures, the mean cross-entropy of each code with its prediction from every other crop.

    Args:
        scores: of each crop with each prototype, `(n, prototypes)`; the crops that have codes come first.
        codes: `(n, prototypes)`, targets without gradient.
        counted: bool `(n,)`.
        temperature: of the predictions.

    Returns:
        float32 scalar, a sum. Divide by the number of counted pictures for a mean.

    Reference: Caron et al., equations 1 and 2 and section 3.2.
    """
    predicted = [ops.log_softmax(ops.cast(score, "float32") / temperature, axis=1) for score in scores]
    total = 0.0
    for i, code in enumerate(codes):
        for j, logarithm in enumerate(predicted):
            if i != j:
                losses = -ops.sum(ops.stop_gradient(code) * logarithm, axis=1)
                total = total + ops.sum(ops.where(counted, losses, 0.0))
    return total / (len(codes) * (len(scores) - 1))


def _random_directions(shape: Any, dtype: Any = None) -> Any:
    return unit(keras.random.normal(shape, dtype=dtype))
