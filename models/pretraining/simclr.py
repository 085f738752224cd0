"""SimCLR: two views of a picture are told from the views of all other pictures."""

from typing import Any

import keras
from keras import ops
from pydantic import Field

from models.pretraining.augmentation import RandomViews
from models.pretraining.losses import unit
from models.pretraining.perceptron_head import PerceptronHead
from models.pretraining.view_method import ViewConfig, ViewMethod
from models.training.replicas import gather_over_replicas, rows_over_replicas

_MASKED = -1e9


class SimCLRConfig(ViewConfig):
    """How `SimCLR` learns; see its arguments."""

    temperature: float = Field(0.2, gt=0)
    hidden_dim: int = Field(2048, gt=0)
    projection_dim: int = Field(128, gt=0)


@keras.saving.register_keras_serializable(package="courier")
class SimCLR(ViewMethod):
    """Pre-trains an image encoder without clicks: each view must find the other view of its picture among all.

    The loss is the mean over all views. Negatives are the views of the other distinct pictures of the batch, on all
    replicas: for `n` pictures, embeddings that are all alike have a loss of ln(2 n - 1).

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built. Its embeddings are what
            is used afterwards, without the head.
        temperature: of the softmax. Of 0.1, 0.2 and 0.5 COURIER's authors found 0.2 best.
        hidden_dim, projection_dim: units of the head's two layers, both normalised over the batch.
        augmentation_strength: how much views differ from their picture; 1 is SimCLR's.

    Inputs: a dictionary, see `PretrainingMethod`; pages take no part.

    Example:
        >>> simclr = SimCLR(ImageEncoder.from_preset("simclr_cpu"), hidden_dim=512)
        >>> simclr.compile("adam")
        >>> simclr.fit(Dataset("artifacts/dataset").pretraining(image_size=(48, 32)).batches(64), epochs=8)

    Reference: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations (2020); COURIER,
    section 4.2.2, has batches of 30,720 pictures.
    """

    def __init__(
        self,
        encoder: keras.Model,
        temperature: float = 0.2,
        hidden_dim: int = 2048,
        projection_dim: int = 128,
        augmentation_strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, RandomViews(augmentation_strength), **kwargs)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: {temperature}")
        self.temperature = temperature
        self.hidden_dim = hidden_dim
        self.projection_dim = projection_dim
        self.head = PerceptronHead((hidden_dim, projection_dim), "all", name="head")
        self.head.build((None, encoder.embedding_dim))
        self.built = True

    def embed_views(self, inputs: dict[str, Any], counted: Any, seed: Any, training: bool) -> dict[str, Any]:
        """The projections of two views of each picture, `view_1` and `view_2`: `(n, projection_dim)`."""
        one, other = self.encode_two(inputs, seed, training)
        return {"view_1": self.head(one, counted), "view_2": self.head(other, counted)}

    def loss_part(self, x: dict[str, Any], y_pred: dict[str, Any], pictures: Any, training: bool) -> Any:
        """See `ViewMethod`."""
        views, counted = (y_pred["view_1"], y_pred["view_2"]), y_pred["counted"]
        total = nt_xent(
            *views,
            counted,
            every=tuple(gather_over_replicas(view) for view in views),
            every_counted=gather_over_replicas(counted),
            rows=rows_over_replicas(counted),
            temperature=self.temperature,
        )
        return total / (2.0 * pictures)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "hidden_dim": self.hidden_dim,
            "projection_dim": self.projection_dim,
        }


def nt_xent(
    one: Any, other: Any, counted: Any, *, every: tuple[Any, Any], every_counted: Any, rows: Any, temperature: float
) -> Any:
    """Sums, over counted pictures and both of their views, how badly a view finds the other one by its cosine.

    The loss of a view is `-log softmax` of the cosines over temperature at its picture's other view; the softmax runs
    over all counted views but itself. As with `column_contrast`, the results of replicas on their own pictures add up
    to that of the whole batch.

    Args:
        one, other: `(n, dim)`, two views of each picture of this replica.
        counted: bool `(n,)`; the others, such as padding, have no loss.
        every: `one` and `other` of all replicas, `(m, dim)` each.
        every_counted: bool `(m,)`; the others are in no softmax.
        rows: int `(n,)`, where this replica's pictures are in `every`.
        temperature: of the softmax.

    Returns:
        float32 scalar, a sum. Divide by twice the number of counted pictures for a mean.

    Reference: Chen et al., equation 1.
    """
    one, other = unit(one), unit(other)
    all_one, all_other = (unit(view) for view in every)
    everything = ops.concatenate([all_one, all_other], axis=0)
    pictures = ops.shape(all_one)[0]
    itself = ops.arange(pictures)[None, :] == rows[:, None]
    nothing = ops.zeros_like(itself)
    possible = ops.concatenate([every_counted, every_counted], axis=0)[None, :]
    positive = ops.sum(one * other, axis=1) / temperature
    total = 0.0
    for anchors, left_out in ((one, (itself, nothing)), (other, (nothing, itself))):
        logits = ops.matmul(anchors, ops.transpose(everything)) / temperature
        logits = ops.where(possible & ~ops.concatenate(left_out, axis=1), logits, _MASKED)
        losses = ops.logsumexp(logits, axis=1) - positive
        total = total + ops.sum(ops.where(counted, losses, 0.0))
    return total
