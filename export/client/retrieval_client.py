"""A Python client for a served retriever, over gRPC: `RetrievalClient(address).candidates(user_id)`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from export.client.page import History
from export.client.predict_client import PredictClient, RankerError, SignatureInputs

_SIGNATURE = "serving_default"


class Candidates(NamedTuple):
    """Scores by item, best first, and the version that gave them."""

    scores: dict[str, float]
    version: int


class RetrievalClient(PredictClient):
    """Asks a retriever behind TensorFlow Serving or `export.serve` for candidates; a context manager.

    One client may be used by several threads. For its arguments see `PredictClient`.

    Example:
        >>> with RetrievalClient("127.0.0.1:8500") as client:
        ...     candidates = client.candidates("anna").scores
    """

    _inputs: SignatureInputs | None = None

    def __init__(self, address: str, model: str = "retrieval", **options: Any) -> None:
        super().__init__(address, model, **options)

    def candidates(
        self, user_id: str, histories: Mapping[str, History] | None = None, *, exclude_seen: bool = True
    ) -> Candidates:
        """The items for a user, best first.

        Args:
            user_id: the user; an unknown one is answered as such.
            histories: what the user has done by now, if it is known: `click` and `pay`, as a `Page` has them. A
                retriever that reads no histories answers by the user alone.
            exclude_seen: whether items that the user has, or that the histories name, are left out.

        Raises:
            RankerError: there is no answer; the class says why.
        """
        try:
            inputs = self._inputs or self.signature_inputs(_SIGNATURE)
            self._inputs = inputs
            request = {"user_id": _texts([user_id]), "exclude_seen": np.array([exclude_seen])}
            for name, history in (histories or {}).items():
                if f"{name}_item_id" in inputs.types:
                    request[f"{name}_item_id"] = _texts(history.item_ids)[None]
            version, outputs = self.predict(_SIGNATURE, request)
        except RankerError:
            self._inputs = None  # perhaps those of another version
            raise
        if version != inputs.version:
            self._inputs = None
        pairs = zip(outputs["item_id"][0], outputs["score"][0], strict=True)
        return Candidates({item.decode(): float(score) for item, score in pairs if item}, version)


def _texts(values: Sequence[str]) -> np.ndarray:
    texts = np.empty(len(values), object)
    texts[:] = [value.encode() for value in values]
    return texts
