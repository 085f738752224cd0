"""The column-wise contrastive loss of COURIER."""

from typing import Any

from keras import ops

_MASKED = -1e9
_SMALLEST_NORM = 1e-12


def column_contrast(
    embeddings: Any,
    reconstructions: Any,
    positive: Any,
    *,
    negatives: Any,
    negatives_valid: Any,
    temperature: float,
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

    Returns:
        float32 scalar, a sum. Divide by the number of positives for a mean.

    Reference: COURIER, equations 4-6.
    """
    columns = _unit(reconstructions)
    logits = ops.matmul(_unit(negatives), ops.transpose(columns)) / temperature  # rows, columns
    logits = ops.where(ops.cast(negatives_valid, "bool")[:, None], logits, _MASKED)
    own = ops.sum(_unit(embeddings) * columns, axis=-1) / temperature
    losses = ops.logsumexp(logits, axis=0) - own
    return ops.sum(ops.where(ops.cast(positive, "bool"), losses, 0.0))


def _unit(vectors: Any) -> Any:
    """Scales rows to unit length in float32; zero rows stay zero, with a gradient of zero."""
    vectors = ops.cast(vectors, "float32")
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, _SMALLEST_NORM**2))
