"""The column-wise contrastive loss of COURIER."""

from typing import Any

from keras import ops

from models.pretraining.cosine import cosine, unit

_MASKED = -1e9


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
