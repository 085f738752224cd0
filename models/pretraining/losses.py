"""The losses of COURIER: contrast, plain similarity and hinge, on cosines in float32 at any precision of the encoder.

Each is a sum over positives, so that the parts of replicas add up; divide by the number of positives for a mean.
"""

from typing import Any

import keras
from keras import ops

_MASKED = -1e9
_SMALLEST_NORM = 1e-12


def unit(vectors: Any) -> Any:
    """Scales rows to unit length in float32; zero rows stay zero, with a gradient of zero.

    Shapes:
        `(..., dim)` to the same.
    """
    vectors = ops.cast(vectors, "float32")
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, _SMALLEST_NORM**2))


def cosine(one: Any, other: Any) -> Any:
    """The cosine of each row of `one` and the same row of `other`; 0 where one of them is zero.

    Shapes:
        `(..., dim)` twice, to float32 `(...)`.

    Reference: COURIER, equation 4.
    """
    return ops.sum(unit(one) * unit(other), axis=-1)


def column_contrast(
    embeddings: Any,
    reconstructions: Any,
    positive: Any,
    *,
    negatives: Any,
    negatives_valid: Any,
    temperature: float,
    same_item: Any = None,
) -> Any:
    """Sums, over positive columns, how badly a reconstruction picks its own embedding out of all rows.

    With `Sim(j0, j1)` the cosine of row `j0`'s embedding and column `j1`'s reconstruction, the loss of column `j1` is
    `-log softmax` over rows of `Sim / temperature` at `j0 = j1`. Columns that are not positive contribute nothing, but
    their embeddings stay as rows to be told apart. Rows that are not valid (padding) leave the softmax.

    Rows and columns are separate arguments so that one replica can compute its own columns against the rows of all:
    the sum of the results over replicas is the result on the whole batch.

    Args:
        embeddings: `(columns, dim)`, the embeddings of the columns.
        reconstructions: `(columns, dim)`.
        positive: bool `(columns,)`; a positive column must be among the valid rows.
        negatives: `(rows, dim)`, all embeddings of the batch, those of the columns included.
        negatives_valid: bool `(rows,)`.
        temperature: the paper's tau.
        same_item: bool `(rows, columns)`, which rows show the item of a column, its own row included: all but its own
            row leave its softmax. `None` leaves all rows in, as the paper does.

    Returns:
        float32 scalar, a sum. Divide by the number of positives for a mean.

    Reference: COURIER, equations 4-6.
    """
    logits = ops.matmul(unit(negatives), ops.transpose(unit(reconstructions))) / temperature  # rows, columns
    logits = ops.where(ops.cast(negatives_valid, "bool")[:, None], logits, _MASKED)
    own = cosine(embeddings, reconstructions) / temperature
    if same_item is not None:
        # Where its own row is among all rows a column need not know: it leaves with the others and comes back apart.
        logits = ops.concatenate([ops.where(ops.cast(same_item, "bool"), _MASKED, logits), own[None]], axis=0)
    losses = ops.logsumexp(logits, axis=0) - own
    return ops.sum(ops.where(ops.cast(positive, "bool"), losses, 0.0))


def negative_similarity(embeddings: Any, reconstructions: Any, positive: Any) -> Any:
    """Sums, over positives, minus the cosine of an embedding and its reconstruction.

    The embedding is a target without gradient and the reconstruction learns to meet it, as in SimSiam, whose stopped
    side is the target. (The paper does not say which side it stops.) Nothing pushes embeddings apart.

    Args:
        embeddings: `(rows, dim)`.
        reconstructions: `(rows, dim)`.
        positive: bool `(rows,)`.

    Returns:
        float32 scalar, a sum. Divide by the number of positives for a mean.

    Reference: COURIER, section 4.3.2, "w/o Contrast"; SimSiam, equations 1-4.
    """
    similarities = cosine(ops.stop_gradient(embeddings), reconstructions)
    return -ops.sum(ops.where(ops.cast(positive, "bool"), similarities, 0.0))


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
