"""How much the pictures of candidates look like those of a history."""

import tensorflow as tf

from models.layers import matches


class Similarities:
    """Cosines of candidates with the steps of their history, each computed once for all that reads them.

    Args:
        candidates: unit vectors, zeros without picture, `(batch, candidates, dim)`.
        steps: the same of the steps, `(batch, steps, dim)`.
        mask: bool `(batch, steps)`, false at padding.
        scale: mean and standard deviation of the cosines of two items.

    Attributes:
        candidates, steps: as given.
        cosines: `(batch, candidates, steps)`.
        present: bool, that shape: whether both have a picture; false at padding.
        step_present: bool `(batch, steps)`.
        standard: the cosines in standard deviations from the mean, 0 where not both have a picture. As they are,
            cosines of clothes lie close together, all far from 0, and are learned from slowly.
    """

    def __init__(self, candidates: tf.Tensor, steps: tf.Tensor, mask: tf.Tensor, scale: tf.Tensor) -> None:
        self.candidates, self.steps = candidates, steps
        self._mean, self._deviation = tf.unstack(scale)
        candidate_present, step_present = (tf.reduce_any(each != 0, axis=-1) for each in (candidates, steps))
        self.step_present = step_present & mask
        self.present = candidate_present[:, :, None] & self.step_present[:, None, :]
        self.cosines = matches.cosine(candidates, steps)
        self.standard = self.standardize(self.cosines, self.present)

    def standardize(self, cosines: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Cosines, or means of some, in standard deviations from the mean; 0 where there is none.

        Args:
            cosines: any shape.
            present: bool, broadcastable to it.
        """
        return tf.where(present, (cosines - self._mean) / self._deviation, 0.0)
