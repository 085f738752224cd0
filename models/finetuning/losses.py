"""The losses of fine-tuning, in float32 at any precision of the encoder.

Each is a sum, so that the parts of replicas add up; divide by what counts for a mean.
"""

from typing import Any

from keras import ops

from models.pretraining.losses import unit

_MASKED = -1e9


def label_cross_entropy(logits: Any, labels: Any) -> Any:
    """Sums, over pictures that have a label, the cross-entropy of the label.

    Args:
        logits: `(pictures, classes)`.
        labels: int `(pictures,)`, -1 = none: such a picture adds nothing, to the loss and to gradients.

    Returns:
        float32 scalar. Divide by the number of labels for a mean.
    """
    logits = ops.cast(logits, "float32")
    own = ops.take_along_axis(logits, ops.cast(ops.maximum(labels, 0), "int32")[:, None], axis=1)[:, 0]
    losses = ops.logsumexp(logits, axis=1) - own
    return ops.sum(ops.where(labels >= 0, losses, 0.0))


def product_contrast(
    embeddings: Any, products: Any, others: Any, other_products: Any, is_own: Any, *, temperature: float
) -> Any:
    """Sums, over pictures with another one of their product, how badly those are told from all other pictures.

    The loss of a picture is the mean, over the other pictures of its product, of `-log softmax` of their cosine /
    temperature among all pictures but itself. A picture without another one of its product has no loss, but stays among
    those that others are told from. Rows and columns are separate arguments so that a replica can compare its own
    pictures with those of all: the sum over replicas is that of the whole batch.

    Args:
        embeddings: `(pictures, dim)`.
        products: int `(pictures,)`; -1 = padding, which adds nothing, to the loss and to gradients.
        others: `(all, dim)`, the embeddings of the whole batch, those of `embeddings` among them.
        other_products: int `(all,)`.
        is_own: bool `(pictures, all)`, which of all is the picture itself.
        temperature: by which cosines are divided.

    Returns:
        float32 scalar, and how many pictures have a loss.

    Reference: Khosla et al., Supervised Contrastive Learning (NeurIPS 2020), equation 2, on products.
    """
    logits = ops.matmul(unit(embeddings), ops.transpose(unit(others))) / temperature
    compared = (other_products >= 0)[None, :] & ops.logical_not(is_own)
    same = (products[:, None] == other_products[None, :]) & compared & (products >= 0)[:, None]
    log_shares = logits - ops.logsumexp(ops.where(compared, logits, _MASKED), axis=1, keepdims=True)
    counts = ops.sum(ops.cast(same, "float32"), axis=1)
    losses = -ops.sum(ops.where(same, log_shares, 0.0), axis=1) / ops.maximum(counts, 1.0)
    return ops.sum(losses), ops.sum(ops.cast(counts > 0, "float32"))
