"""Pictures against titles: the symmetric contrast of CLIP."""

import math
from typing import Any

import keras
from keras import ops

from models.pretraining.losses import column_contrast
from models.training.replicas import gather_over_replicas

_LARGEST_SCALE = 100.0


@keras.saving.register_keras_serializable(package="courier")
class TitleContrast(keras.layers.Layer):
    """Tells a picture's title from all others by the picture, and a title's picture from all others by the title.

    The loss is the mean over pairs of the two cross-entropies of cosines over temperature, in float32. Under a strategy
    the negatives come from all replicas.

    Args:
        text_encoder: tokens int `(n, length)` to vectors `(n, dim)`, those of the pictures in length; built.
        temperature: of the softmax. The paper has 0.1, the best of those that it tried, and does not learn it.
        learned_temperature: whether it is learnt from there, with an inverse of at most 100, as CLIP does.
        mask_same_title: whether other pictures with the very same title leave the softmax. Catalogues give one title
            to many pictures (a garment in several colours), which no picture could tell apart.

    Call arguments:
        tokens: int `(n, length)`, -1 = padding.
        training: whether the text encoder learns.

    Output shape: float32 `(n, dim)`.

    Reference: Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021), figure 3;
    COURIER, section 4.2.2.
    """

    def __init__(
        self,
        text_encoder: keras.Model,
        temperature: float = 0.1,
        learned_temperature: bool = False,
        mask_same_title: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: {temperature}")
        self.text_encoder = text_encoder
        self.temperature = temperature
        self.learned_temperature = learned_temperature
        self.mask_same_title = mask_same_title
        if learned_temperature:
            self.log_scale = self.add_weight(
                name="log_scale",
                shape=(),
                initializer=keras.initializers.Constant(-math.log(temperature)),
                autocast=False,
            )
        self.built = True

    def call(self, tokens: Any, training: bool = False) -> Any:
        """See the class."""
        return ops.cast(self.text_encoder(tokens, training=training), "float32")

    def loss_part(self, pictures: Any, titles: Any, tokens: Any, counted: Any) -> Any:
        """This replica's part of the loss; the parts of all replicas add up to it.

        Args:
            pictures, titles: `(n, dim)`, the vectors of each picture and of its title.
            tokens: int `(n, length)`, of the titles.
            counted: bool `(n,)`; other rows have no loss and are in no softmax.
        """
        temperature = self.temperature
        if self.learned_temperature:
            temperature = 1.0 / ops.minimum(ops.exp(self.log_scale), _LARGEST_SCALE)
        every_counted = gather_over_replicas(counted)
        same = None
        if self.mask_same_title:
            same = ops.all(gather_over_replicas(tokens)[:, None] == tokens[None], axis=-1)
        total = sum(
            column_contrast(
                one,
                other,
                counted,
                negatives=gather_over_replicas(one),
                negatives_valid=every_counted,
                temperature=temperature,
                same_item=same,
            )
            for one, other in ((titles, pictures), (pictures, titles))
        )
        pairs = ops.sum(ops.cast(every_counted, "float32"))
        return total / (2.0 * ops.maximum(pairs, 1.0))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "text_encoder": keras.saving.serialize_keras_object(self.text_encoder),
            "temperature": self.temperature,
            "learned_temperature": self.learned_temperature,
            "mask_same_title": self.mask_same_title,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "TitleContrast":
        """Builds a layer from what `get_config` returned."""
        encoder = keras.saving.deserialize_keras_object(config["text_encoder"], custom_objects=custom_objects)
        return cls(**{**config, "text_encoder": encoder})


def has_title(tokens: Any) -> Any:
    """Which rows of tokens have any: bool `(n,)`."""
    return ops.any(tokens >= 0, axis=-1)
