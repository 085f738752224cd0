"""Metric learning: an image encoder learns which pictures show the same product."""

from typing import Any

import keras
from keras import ops

from models.finetuning.losses import product_contrast
from models.training.distributed_fit import DistributedFit
from models.training.replicas import gather_over_replicas, rows_over_replicas


@keras.saving.register_keras_serializable(package="courier")
class ProductEncoder(DistributedFit, keras.Model):
    """Teaches an image encoder to put pictures of one product next to each other, by their cosine.

    The loss is `product_contrast` of the batch, a mean over its pictures that have another one of their product; under
    a strategy, pictures are compared with those of all replicas. Batches should hold two pictures or more of each
    product.

    A loss given to `compile` takes the place of this one, and metrics given to it are measured: both compare products
    with embeddings.

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built. Its embeddings are what
            is searched by afterwards.
        temperature: by which cosines are divided.

    Inputs: pictures, uint8 `(n, height, width, 3)`; the numbers of their products, int `(n,)`, -1 for padding.

    Output: embeddings, float32 `(n, dim)`.

    Example:
        >>> model = ProductEncoder(ImageEncoder.from_preset("courier_cpu"))
        >>> model.compile("adam")
        >>> model.fit(pictures, products, batch_size=64, epochs=5)

    Reference: the companion article's metric learning, Table 6, which does not tell the loss; this one is Khosla et
    al.'s.
    """

    def __init__(self, encoder: keras.Model, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not temperature > 0:
            raise ValueError(f"`temperature` must be more than 0. Received: {temperature}")
        self.encoder = encoder
        self.temperature = temperature
        self.built = True

    def call(self, pictures: Any, training: bool = False) -> Any:
        """Embeds; see the class."""
        return self.encoder(pictures, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """This replica's part of the loss."""
        if self._compile_loss is not None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        everyone, products = gather_over_replicas(y_pred), gather_over_replicas(y)
        is_own = rows_over_replicas(y)[:, None] == ops.arange(ops.shape(products)[0])[None, :]
        losses, count = product_contrast(y_pred, y, everyone, products, is_own, temperature=self.temperature)
        return losses / ops.maximum(ops.sum(gather_over_replicas(count[None])), 1.0)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return {**super().get_config(), "encoder": encoder, "temperature": self.temperature}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "ProductEncoder":
        """Builds a model from what `get_config` returned."""
        encoder = keras.saving.deserialize_keras_object(config["encoder"], custom_objects=custom_objects)
        return cls(**{**config, "encoder": encoder})
