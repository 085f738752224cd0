"""Cosines of embeddings and reconstructions, in float32 whatever the precision of the encoder."""

from typing import Any

from keras import ops

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
