"""COURIER without contrast: embeddings and reconstructions only attract each other."""

from typing import Any

from keras import ops

from models.pretraining.cosine import cosine


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
