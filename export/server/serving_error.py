"""How a request fails, the same for every protocol."""

import grpc


class ServingError(Exception):
    """A request that cannot be answered.

    Args:
        code: what TensorFlow Serving answers in this case.
        message: one line for the client.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
