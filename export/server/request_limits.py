"""How large a request may be, before anything is computed for it, and how long it may take."""

from collections.abc import Sequence
from typing import NamedTuple

import grpc

from export.server.serving_error import ServingError


class RequestLimits(NamedTuple):
    """The largest request.

    What a model computes grows with the product of its inputs' sizes (candidates times history, for one), so a request
    of a few megabytes could ask for more memory than there is.

    Attributes:
        request_bytes: of the message or body.
        row_length: the largest dimension of an input after the first, the batch.
        values: of all inputs together.
        rest_seconds: that a REST request may take, which brings no deadline of its own.
    """

    request_bytes: int = 32 << 20
    row_length: int = 4096
    values: int = 4 << 20
    rest_seconds: float = 30.0

    def check(self, shapes: dict[str, Sequence[int]]) -> None:
        """Refuses inputs that are too large.

        Args:
            shapes: of the inputs by name.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, with the limit.
        """
        values = 0
        for name, shape in shapes.items():
            if max(shape[1:], default=0) > self.row_length:
                raise _too_large(f"Input {name} has shape {list(shape)}; a row may have {self.row_length} values")
            size = 1
            for length in shape:  # Python integers do not overflow
                size *= length
            values += size
        if values > self.values:
            raise _too_large(f"The inputs have {values} values; a request may have {self.values}")


def _too_large(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
