"""MaskCLIP: CLIP whose encoders must also say of a masked input what a slowly moving teacher says of the whole one."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops
from pydantic import Field

from models.pretraining.clip import Clip, TitleContrastConfig
from models.pretraining.losses import cosine
from models.pretraining.perceptron_head import PerceptronHead
from models.pretraining.title_contrast import TitleContrast
from models.training.replicas import gather_over_replicas
from models.vision.backbone import MEAN

_TABLE = 8192  # rows of random numbers that pictures share
_VALIDATION_SEED = (0, 0)  # masks of validation are the same each time


class MaskClipConfig(TitleContrastConfig):
    """How `MaskClip` learns; see its arguments and `TitleContrast`."""

    mask_share: float = Field(0.5, ge=0, le=1)
    grid: int = Field(4, gt=0)
    distillation_weight: float = Field(1.0, ge=0)
    momentum: float = Field(0.996, ge=0, le=1)
    hidden_dim: int = Field(512, gt=0)


@keras.saving.register_keras_serializable(package="courier")
class MaskClip(Clip):
    """Pre-trains an image encoder as `Clip` does, and by masked self-distillation of pictures and titles.

    Teachers are copies of both encoders whose weights follow slowly and have no gradient. They see the whole; the
    encoders, as students, see it with parts masked, and a head on them must come to what the teachers make of it. To
    the contrast of CLIP are added, with a weight, the mean of `1 - cosine` over pictures, and that over masked tokens.

    The paper names the method, its code was never published, and neither says more: this is our reading. Encoders of
    any architecture have no patches to leave out, so that cells of a grid over the picture are painted in the mean
    colour, and what is compared of pictures is the embedding. Of titles it is the last state of each masked token,
    whose embedding is replaced by a learnt one. With no weight it is `Clip`.

    Metrics are those of `Clip` and, of the whole batch, `picture_distillation` and `title_distillation`.

    Args:
        encoder, titles: see `Clip`; the text encoder is a `TextEncoder`.
        mask_share: share of a picture's cells and of a title's tokens that are masked, in the mean.
        grid: rows and columns of cells.
        distillation_weight: of both distillations.
        momentum: share of a teacher's weight that is kept in a step.
        hidden_dim: units of the heads' hidden layer.

    Reference: COURIER, section 4.2.2, "MaskCLIP"; Dong et al., MaskCLIP (CVPR 2023).
    """

    def __init__(
        self,
        encoder: keras.Model,
        titles: TitleContrast,
        mask_share: float = 0.5,
        grid: int = 4,
        distillation_weight: float = 1.0,
        momentum: float = 0.996,
        hidden_dim: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, titles, **kwargs)
        for name, value in (("mask_share", mask_share), ("momentum", momentum)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be between 0 and 1. Received: {value}")
        self.mask_share = mask_share
        self.grid = grid
        self.distillation_weight = distillation_weight
        self.momentum = momentum
        self.hidden_dim = hidden_dim
        bert = titles.text_encoder.bert
        self.picture_head = PerceptronHead((hidden_dim, encoder.embedding_dim), name="picture_head")
        self.picture_head.build((None, encoder.embedding_dim))
        self.token_head = PerceptronHead((hidden_dim, bert.width), name="token_head")
        self.token_head.build((None, bert.width))
        self.mask_token = self.add_weight(
            shape=(bert.width,),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            autocast=False,
            name="mask_token",
        )
        self.picture_teacher, self.text_teacher = (
            keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
            for model in (encoder, titles.text_encoder)
        )
        for teacher, student in self._teachers():
            teacher.set_weights(student.get_weights())
            teacher.trainable = False
        # Replicas draw the same numbers; those of a picture are told by its own number.
        self.mask_seed = keras.random.SeedGenerator()
        self.picture_distillation = keras.metrics.Mean(name="picture_distillation")
        self.title_distillation = keras.metrics.Mean(name="title_distillation")
        self.built = True

    def embed_pairs(self, inputs: dict[str, Any], counted: Any, training: bool) -> dict[str, Any]:
        """Those of `Clip`; of each picture `picture_distance`, of its title's tokens `token_distance` and `masked`."""
        seed = self.mask_seed.next() if training else ops.convert_to_tensor(_VALIDATION_SEED, "int64")
        tokens, cells = inputs["tokens"], self.grid**2
        draws = tf.random.stateless_uniform((_TABLE, cells + tokens.shape[1]), ops.cast(seed, "int64"))
        masked = tf.gather(draws, inputs["picture_id"] % _TABLE) < self.mask_share
        shown = {**inputs, "pictures": mask_pictures(inputs["pictures"], masked[:, :cells], self.grid)}
        predicted = self.picture_head(self.embed(shown, training=training))
        target = ops.stop_gradient(self.picture_teacher(inputs["pictures"], training=False))

        masked = masked[:, cells:] & (tokens >= 0)
        student, teacher = self.titles.text_encoder.bert, self.text_teacher.bert
        embedded = ops.where(masked[..., None], ops.convert_to_tensor(self.mask_token), student.embed(tokens))
        states = student.contextualize(embedded, tokens >= 0, training=training)
        guessed = self.token_head(ops.reshape(states, (-1, student.width)))
        whole = ops.stop_gradient(ops.reshape(teacher.states(tokens), (-1, student.width)))
        return {
            **super().embed_pairs(inputs, counted, training),
            "picture_distance": 1.0 - cosine(predicted, target),
            "token_distance": ops.reshape(1.0 - cosine(guessed, whole), ops.shape(tokens)),
            "masked": masked,
        }

    def loss_part(self, x: dict[str, Any], y_pred: dict[str, Any], pictures: Any, training: bool) -> Any:
        """See `PairMethod`."""
        counted = y_pred["counted"]
        parts = (
            (self.picture_distillation, y_pred["picture_distance"], counted),
            (self.title_distillation, y_pred["token_distance"], y_pred["masked"] & counted[:, None]),
        )
        loss = super().loss_part(x, y_pred, pictures, training)
        for metric, distances, measured in parts:
            own = ops.sum(ops.where(measured, distances, 0.0))
            sums = ops.stack([ops.stop_gradient(own), ops.sum(ops.cast(measured, "float32"))])
            total, count = ops.unstack(ops.sum(gather_over_replicas(sums[None]), axis=0), 2)
            metric.update_state(total / ops.maximum(count, 1.0), ops.minimum(count, 1.0))
            loss = loss + self.distillation_weight * own / ops.maximum(count, 1.0)
        return loss

    def finish_step(self, begun: Any) -> None:
        """The teachers follow."""
        for teacher, student in self._teachers():
            for slow, fast in zip(teacher.weights, student.weights, strict=True):
                if fast.trainable:
                    slow.assign(self.momentum * slow + (1.0 - self.momentum) * fast)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("mask_share", "grid", "distillation_weight", "momentum", "hidden_dim")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def _teachers(self) -> tuple[tuple[keras.Model, keras.Model], ...]:
        return (self.picture_teacher, self.encoder), (self.text_teacher, self.titles.text_encoder)


def mask_pictures(pictures: Any, masked: Any, grid: int) -> Any:
    """Paints cells of pictures in the mean colour.

    Args:
        pictures: uint8 `(n, height, width, 3)`.
        masked: bool `(n, grid * grid)`, which cells, row by row.
        grid: rows and columns of cells; sizes that it does not divide make cells of sizes that differ by one.
    """
    rows, columns = (ops.arange(side) * grid // side for side in pictures.shape[1:3])
    cells = ops.reshape(masked, (-1, grid, grid))
    mask = ops.take(ops.take(cells, rows, axis=1), columns, axis=2)
    colour = ops.convert_to_tensor([round(value) for value in MEAN], pictures.dtype)
    return ops.where(mask[..., None], colour, pictures)
