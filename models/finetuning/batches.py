"""Which pictures each training step sees: a function of the seed and the step's number alone."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class PictureSteps:
    """Steps of pictures in random order, each once per epoch; what does not fill a step is left out of the epoch.

    Args:
        rows: of the pictures.
        batch_size: pictures per step.
        seed: of the order.

    Attributes:
        per_epoch: number of steps of an epoch.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self.per_epoch = len(rows) // batch_size

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Rows `(steps, batch)`."""
        order = np.random.default_rng([self._seed, epoch]).permutation(self._rows)
        return order[: self.per_epoch * self._batch_size].reshape(self.per_epoch, self._batch_size)


class ProductSteps(PictureSteps):
    """Steps of two random pictures of each of `batch_size / 2` products, every product once per epoch.

    Args:
        rows: of the pictures, those of products with two or more.
        products: int `(pictures,)`, of all pictures.
        batch_size: pictures per step; even.
        seed: of the draws.
    """

    def __init__(self, rows: np.ndarray, products: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__(rows, batch_size, seed)
        rows = rows[np.argsort(products[rows], kind="stable")]
        _, self._first, self._size = np.unique(products[rows], return_index=True, return_counts=True)
        self._rows = rows
        self.per_epoch = 2 * len(self._first) // batch_size

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Rows `(steps, batch)`; those of a product are side by side."""
        random = np.random.default_rng([self._seed, epoch])
        chosen = random.permutation(len(self._first))[: self.per_epoch * self._batch_size // 2]
        one = random.integers(0, self._size[chosen])
        other = (one + random.integers(1, self._size[chosen])) % self._size[chosen]
        pairs = self._rows[self._first[chosen, None] + np.stack([one, other], axis=1)]
        return pairs.reshape(self.per_epoch, self._batch_size)


def training_batches(
    steps: PictureSteps, pictures: tf.Tensor, targets: np.ndarray, augment: Augment | None, first_step: int, epochs: int
) -> tf.data.Dataset:
    """Batches from a step of the whole training on.

    Args:
        steps: which pictures.
        pictures: uint8 `(n, height, width, 3)`.
        targets: int64 `(n,)`, what is learned of each.
        augment: changes the pictures of a batch, see `flip_crop`; `None` leaves them.
        first_step: number of steps that are left out.
        epochs: how many there are.

    Returns:
        Pictures uint8 `(batch, height, width, 3)` and targets `(batch,)`.
    """
    known = tf.constant(targets, tf.int64)

    def rows() -> Iterator[tuple[np.ndarray, int]]:
        epoch, done = divmod(first_step, steps.per_epoch)
        for number in range(epoch, max(epochs, epoch + 1)):  # one that goes on behind the last step gets one more
            for step, batch in enumerate(steps.of_epoch(number)):
                if number > epoch or step >= done:
                    yield batch, number * steps.per_epoch + step

    def batch(rows: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shown = tf.gather(pictures, rows)
        shown.set_shape((None, *pictures.shape[1:]))
        return shown if augment is None else augment(shown, step), tf.gather(known, rows)

    signature = (tf.TensorSpec((None,), tf.int64), tf.TensorSpec((), tf.int64))
    return tf.data.Dataset.from_generator(rows, output_signature=signature).map(batch).prefetch(2)
