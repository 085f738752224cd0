"""SimSiam: one view of a picture predicts the other; nothing is pushed apart."""

from typing import Any

import keras
from pydantic import Field

from models.pretraining.augmentation import RandomViews
from models.pretraining.losses import negative_similarity
from models.pretraining.perceptron_head import PerceptronHead
from models.pretraining.view_method import ViewConfig, ViewMethod


class SimSiamConfig(ViewConfig):
    """How `SimSiam` learns; see its arguments."""

    projection_dim: int = Field(2048, gt=0)
    hidden_dim: int = Field(512, gt=0)


@keras.saving.register_keras_serializable(package="courier")
class SimSiam(ViewMethod):
    """Pre-trains an image encoder without clicks and without negatives: a view's prediction must be the other view.

    The loss is minus the mean cosine, between -1 and 0 for what has learnt something: of the predictions from one view
    with the projections of the other one, which are targets without gradient, and the other way round. That the targets
    have no gradient is what keeps embeddings apart.

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built. Its embeddings are what
            is used afterwards, without projector and predictor.
        projection_dim: units of the projector's three layers, all normalised over the batch.
        hidden_dim: units of the predictor's hidden layer, normalised; its last layer is as long as a projection.
        augmentation_strength: how much views differ from their picture; 1 is SimCLR's, which COURIER's authors took
            here too (SimSiam's own jitter is half as strong).

    Inputs: a dictionary, see `PretrainingMethod`; pages take no part.

    Reference: Chen and He, Exploring Simple Siamese Representation Learning (2021); COURIER, section 4.2.2, has batches
    of 30,720 pictures and Adam.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projection_dim: int = 2048,
        hidden_dim: int = 512,
        augmentation_strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, RandomViews(augmentation_strength), **kwargs)
        self.projection_dim = projection_dim
        self.hidden_dim = hidden_dim
        self.projector = PerceptronHead((projection_dim,) * 3, "all", name="projector")
        self.projector.build((None, encoder.embedding_dim))
        self.predictor = PerceptronHead((hidden_dim, projection_dim), "hidden", name="predictor")
        self.predictor.build((None, projection_dim))
        self.built = True

    def embed_views(self, inputs: dict[str, Any], counted: Any, seed: Any, training: bool) -> dict[str, Any]:
        """Projections of two views, `view_1` and `view_2`, and what is predicted from each, `predicted_from_1` and
        `predicted_from_2`: `(n, projection_dim)`.
        """
        one, other = (self.projector(view, counted) for view in self.encode_two(inputs, seed, training))
        return {
            "view_1": one,
            "view_2": other,
            "predicted_from_1": self.predictor(one, counted),
            "predicted_from_2": self.predictor(other, counted),
        }

    def loss_part(self, x: dict[str, Any], y_pred: dict[str, Any], pictures: Any, training: bool) -> Any:
        """See `ViewMethod`."""
        counted = y_pred["counted"]
        total = negative_similarity(y_pred["view_2"], y_pred["predicted_from_1"], counted)
        total = total + negative_similarity(y_pred["view_1"], y_pred["predicted_from_2"], counted)
        return total / (2.0 * pictures)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "projection_dim": self.projection_dim, "hidden_dim": self.hidden_dim}
