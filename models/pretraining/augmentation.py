"""Views of pictures: crops, mirroring, colours, grey and blur, as methods that compare views draw them."""

from collections.abc import Sequence

import tensorflow as tf

_RATIO = 4 / 3  # of a crop's sides, at most
_FLIPPED, _JITTERED, _GREY, _BLURRED = 0.5, 0.8, 0.2, 0.5  # shares of the views
_SIGMA = (0.1, 2.0)
_DRAWS = 14  # random numbers of a view
_TABLE = 8192  # rows of random numbers that pictures share


class RandomViews:
    """Draws a view of each picture: a crop that is resized, mirrored, with other colours, grey, blurred.

    What becomes of a picture depends on the seed and its number alone, neither on the rest of the batch nor on how
    replicas share it. The order of the colours' changes is fixed (brightness, contrast, saturation, hue); SimCLR draws
    it. A strength below 1 brings all bounds, and the shares of views that are mirrored, grey or blurred, nearer to a
    picture that stays as it is; at 0 a view of the picture's own size is the picture.

    Args:
        strength: from 0 to 1, where 1 is what the arguments below say.
        area: the smallest and the largest share of the picture that a crop has.
        jitter: by how much brightness, contrast and saturation are multiplied, more or less, and how far hues turn
            (1 would be all around, in both directions together).
        scale: sides of the view over those of the picture.

    Example:
        >>> views = RandomViews(strength=0.5)
        >>> one, other = (views(pictures, picture_id, seed=[7, number]) for number in (0, 1))

    Reference: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations (SimCLR), appendix A.
    """

    def __init__(
        self,
        strength: float = 1.0,
        area: tuple[float, float] = (0.08, 1.0),
        jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2),
        scale: float = 1.0,
    ) -> None:
        import keras_cv  # takes seconds, which other methods save

        if not 0 <= strength <= 1:
            raise ValueError(f"`strength` must be between 0 and 1. Received: {strength}")
        self.strength = strength
        self.area = area
        self.jitter = jitter
        self.scale = scale
        layers = keras_cv.layers
        self._flip = layers.RandomFlip("horizontal", dtype="float32")
        self._contrast = layers.RandomContrast((0, 255), 0.5, dtype="float32")
        self._saturation = layers.RandomSaturation(0.5, dtype="float32")
        self._hue = layers.RandomHue(0.5, (0, 255), dtype="float32")
        self._grey = layers.Grayscale(3, dtype="float32")

    def __call__(self, pictures: tf.Tensor, picture_id: tf.Tensor, seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
        """Draws the views.

        Args:
            pictures: uint8 `(n, height, width, 3)`, height and width known.
            picture_id: int `(n,)`, the pictures' numbers; negative for padding.
            seed: two integers.

        Returns:
            uint8 `(n, height * scale, width * scale, 3)`.
        """
        height, width = (max(1, round(side * self.scale)) for side in pictures.shape[1:3])
        table = tf.random.stateless_uniform((_TABLE, _DRAWS), tf.cast(seed, tf.int64))
        draws = iter(tf.unstack(tf.gather(table, picture_id % _TABLE), axis=1))
        boxes = self._boxes([next(draws) for _ in range(4)])
        views = tf.image.crop_and_resize(pictures, boxes, tf.range(tf.shape(pictures)[0]), (height, width))
        flipped = tf.cast(next(draws) < self.strength * _FLIPPED, tf.float32)
        # The layer mirrors where a number is above one half.
        transformations = {"flip_horizontals": flipped[:, None], "flip_verticals": tf.zeros_like(flipped)[:, None]}
        views = self._flip.augment_images(views, transformations)
        views = self._jittered(views, [next(draws) for _ in range(5)])
        grey = next(draws) < self.strength * _GREY
        views = tf.where(grey[:, None, None, None], self._grey.augment_images(views), views)
        blurred, sigma = next(draws) < self.strength * _BLURRED, next(draws)
        sigma = _SIGMA[0] + (_SIGMA[1] - _SIGMA[0]) * sigma
        views = tf.where(blurred[:, None, None, None], gaussian_blur(views, sigma), views)
        return tf.saturate_cast(tf.round(views), tf.uint8)

    def _boxes(self, draws: Sequence[tf.Tensor]) -> tf.Tensor:
        """Crops as `(n, 4)`: top, left, bottom and right as shares of the sides."""
        smallest, largest = (1 - self.strength * (1 - bound) for bound in self.area)
        area = smallest + (largest - smallest) * draws[0]
        ratio = tf.exp(self.strength * tf.math.log(_RATIO) * (2 * draws[1] - 1))
        height, width = tf.minimum(tf.sqrt(area / ratio), 1.0), tf.minimum(tf.sqrt(area * ratio), 1.0)
        top, left = (1 - height) * draws[2], (1 - width) * draws[3]
        return tf.stack([top, left, top + height, left + width], axis=1)

    def _jittered(self, views: tf.Tensor, draws: Sequence[tf.Tensor]) -> tf.Tensor:
        changed = tf.cast(draws[0] < _JITTERED, tf.float32)
        brightness, contrast, saturation, hue = (
            self.strength * bound * changed * (2 * draw - 1) for bound, draw in zip(self.jitter, draws[1:], strict=True)
        )
        views = tf.clip_by_value(views * (1 + brightness)[:, None, None, None], 0, 255)
        views = self._contrast.augment_images(views, (1 + contrast)[:, None, None, None])
        # The layer multiplies by t / (1 - t).
        views = self._saturation.augment_images(views, (1 + saturation) / (2 + saturation))
        return self._hue.augment_images(views, hue)


def gaussian_blur(pictures: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Blurs each picture with a deviation of its own; the kernel's side is a tenth of the picture's, as in SimCLR.

    Args:
        pictures: float `(n, height, width, 3)`.
        sigma: `(n,)`, in pixels.
    """
    reach = pictures.shape[1] // 10 // 2 or 1
    offsets = tf.range(-reach, reach + 1)
    weights = tf.exp(-tf.square(tf.cast(offsets, tf.float32)) / (2 * tf.square(sigma)[:, None]))
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    for axis in (1, 2):
        padding = [[reach, reach] if at == axis else [0, 0] for at in range(4)]
        padded = tf.pad(pictures, padding, mode="SYMMETRIC")
        side = pictures.shape[axis]
        parts = []
        for at in range(2 * reach + 1):
            shifted = padded[:, at : at + side] if axis == 1 else padded[:, :, at : at + side]
            parts.append(shifted * weights[:, at, None, None, None])
        pictures = tf.add_n(parts)
    return pictures
