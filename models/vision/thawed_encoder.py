"""An encoder behind its frozen stages, which encode each picture once, however often it is shown."""

import itertools
import math
from typing import Any

import keras
from keras import ops

from models.vision.encoder import ImageEncoder


class ThawedEncoder(keras.Model):
    """What an encoder does behind its frozen stages; its weights are the encoder's.

    Args:
        encoder: its backbone is an `EfficientNetLite` with `frozen_stages`.
        image_size: height and width of its pictures.

    Attributes:
        length: of what the frozen stages make of a picture.

    Shapes:
        float32 `(pictures, length)`, of `frozen`, to float32 `(pictures, embedding_dim)`.

    Example:
        >>> thawed = ThawedEncoder(encoder, (112, 80))
        >>> thawed(thawed.frozen(pictures))  # encoder(pictures)
    """

    def __init__(self, encoder: ImageEncoder, image_size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not getattr(encoder.backbone, "frozen_stages", 0):
            raise ValueError("`encoder` must have a backbone with frozen stages")
        self.encoder = encoder
        last, averages = encoder.backbone.frozen(ops.zeros((1, *image_size, 3)))
        self._map = tuple(last.shape[1:])
        sizes = [math.prod(self._map), *(average.shape[1] for average in averages)]
        self.length = sum(sizes)
        self._boundaries = list(itertools.accumulate(sizes))[:-1]
        self.built = True

    @property
    def embedding_dim(self) -> int:
        """Length of the embeddings."""
        return self.encoder.embedding_dim

    @property
    def batch_statistics(self) -> bool:
        """Whether `call` takes `valid`, as that of the encoder does."""
        return self.encoder.batch_statistics

    def frozen(self, pictures: Any) -> Any:
        """What the frozen stages make of pictures: uint8 `(n, height, width, 3)` to float32 `(n, length)`."""
        last, averages = self.encoder.backbone.frozen(self.encoder.normalize(pictures))
        flat = ops.reshape(last, (-1, math.prod(self._map)))
        return ops.concatenate([ops.cast(part, "float32") for part in (flat, *averages)], axis=-1)

    def call(self, frozen: Any, training: bool = False, valid: Any = None) -> Any:
        """See the class."""
        backbone = self.encoder.backbone
        flat, *averages = ops.split(ops.cast(frozen, backbone.compute_dtype), self._boundaries, axis=1)
        last = ops.reshape(flat, (-1, *self._map))
        return self.encoder.project(backbone.thawed(last, averages, training=training, valid=valid))
