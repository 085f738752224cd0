"""COURIER with a hinge in place of the contrast: each clicked candidate against one mismatched reconstruction."""

from typing import Any

import keras
from keras import ops

from models.pretraining.cosine import cosine


def draw_mismatched(valid: Any, seed: keras.random.SeedGenerator | int) -> Any:
    """Draws another valid row for each row, all with the same probability.

    Args:
        valid: bool `(rows,)`.
        seed: of the draw.

    Returns:
        int32 `(rows,)`. A row that has no other valid row gets its own number.
    """
    valid = ops.cast(valid, "int32")
    up_to = ops.cumsum(valid)
    others = ops.sum(valid) - valid
    drawn = ops.cast(keras.random.uniform(ops.shape(valid), seed=seed) * ops.cast(others, "float32"), "int32")
    drawn = ops.maximum(ops.minimum(drawn, others - 1), 0)  # rounding may reach `others`
    # `drawn` counts the valid rows other than the row itself: past itself, one more is to be counted.
    drawn = drawn + valid * ops.cast(drawn >= up_to - 1, "int32")
    row = ops.cast(ops.searchsorted(up_to, drawn + 1, side="left"), "int32")
    return ops.where(others > 0, row, ops.arange(ops.shape(valid)[0], dtype="int32"))


def hinge(embeddings: Any, reconstructions: Any, mismatched: Any, positive: Any, *, margin: float) -> Any:
    """Sums `max(0, Sim(j0, j1) - Sim(j0, j0) + margin)` over positive rows `j0`.

    A row whose own reconstruction is nearer than the mismatched one by the margin has no loss and no gradient.

    Args:
        embeddings: `(rows, dim)`.
        reconstructions: `(rows, dim)`.
        mismatched: int `(rows,)`, the reconstruction `j1` that a row is compared with; a row that is given its own
            number has no loss.
        positive: bool `(rows,)`.
        margin: the paper's m, which it does not state.

    Returns:
        float32 scalar, a sum. Divide by the number of positives for a mean.

    Reference: COURIER, appendix F, equations 11 and 12.
    """
    own = cosine(embeddings, reconstructions)
    other = cosine(embeddings, ops.take(reconstructions, mismatched, axis=0))
    compared = ops.cast(positive, "bool") & (mismatched != ops.arange(ops.shape(mismatched)[0], dtype="int32"))
    return ops.sum(ops.where(compared, ops.relu(other - own + margin), 0.0))
