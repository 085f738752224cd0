"""The base of the methods that learn from views of pictures, without pages."""

from typing import Any

import keras
from keras import ops
from pydantic import Field

from models.config import Config
from models.pretraining.augmentation import RandomViews
from models.pretraining.pair_method import PairMethod

_VALIDATION_SEED = (0, 0)  # views of validation are the same each time


class ViewConfig(Config):
    """What the methods that compare views have in common.

    Attributes:
        augmentation_strength: how much views differ from their picture; 1 is as published, 0 not at all.
    """

    augmentation_strength: float = Field(1.0, ge=0, le=1)


class ViewMethod(PairMethod):
    """Base of the methods that compare random views of the same picture.

    The random state of the views is a variable of the model, which checkpoints hold. A method implements `embed_views`
    and `loss_part`.

    Args:
        encoder: see `PretrainingMethod`.
        views: how views are drawn.
    """

    def __init__(self, encoder: keras.Model, views: RandomViews, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        self.views = views
        # Replicas draw the same numbers; those of a picture are told by its own number.
        self.view_seed = keras.random.SeedGenerator()

    def embed_views(self, inputs: dict[str, Any], counted: Any, seed: Any, training: bool) -> dict[str, Any]:
        """What the loss compares of a batch.

        Args:
            inputs: see `PretrainingMethod`.
            counted: bool `(n,)`, which pictures this replica answers for.
            seed: int64 `(2,)`; for a step's further views, add to its first number.
            training: whether the model learns.

        Returns:
            `view_1` and `view_2`, `(n, dim)`, and what else the loss needs.
        """
        raise NotImplementedError

    def embed_pairs(self, inputs: dict[str, Any], counted: Any, training: bool) -> dict[str, Any]:
        """See `PairMethod`; draws the views of this step."""
        seed = self.view_seed.next() if training else ops.convert_to_tensor(_VALIDATION_SEED, "int64")
        return self.embed_views(inputs, counted, ops.cast(seed, "int64"), training)

    def two_views(self, inputs: dict[str, Any], seed: Any) -> tuple[Any, Any]:
        """Two views of each picture, uint8."""
        pictures, number = inputs["pictures"], inputs["picture_id"]
        return tuple(self.views(pictures, number, seed + ops.convert_to_tensor([i, 0], "int64")) for i in range(2))

    def encode_two(self, inputs: dict[str, Any], seed: Any, training: bool) -> tuple[Any, Any]:
        """The encoder's embeddings of two views of each picture, `(n, dim)` each, in one pass."""
        shown = {
            "pictures": ops.concatenate(self.two_views(inputs, seed), axis=0),
            "picture_id": ops.tile(inputs["picture_id"], 2),
        }
        return tuple(ops.split(self.embed(shown, training=training), 2, axis=0))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments that all methods have."""
        return {**super().get_config(), "augmentation_strength": self.views.strength}
