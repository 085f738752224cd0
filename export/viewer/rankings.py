"""Asks the versions of a served ranker for the scores of stored pages."""

import re
import threading
from collections.abc import Sequence
from typing import Any, Self

from export.client.page import Page
from export.client.predict_client import RankerError
from export.client.ranker_client import RankerClient, page_inputs
from export.version.base_path import MAX_VERSION
from export.version.request_rows import request_row
from models.features.spec import STATISTICS
from models.ranker.run import RowIds

LATEST = "latest"
_CHOICE = re.compile(r"latest|version (?P<version>[0-9]{1,19})|label (?P<label>[^/:\s]{1,100})")


class Rankings:
    """Scores by the versions of a served ranker; a context manager. Several threads may ask it.

    Args:
        server: `host:port` of the gRPC services.
        model: the model's name.
        ids: the string IDs of the dataset's rows.
        timeout: seconds after which a request is given up.
    """

    def __init__(self, server: str, model: str, ids: RowIds, timeout: float) -> None:
        self._server = server
        self._model = model
        self._ids = ids
        self._timeout = timeout
        self._clients: dict[str, RankerClient] = {}
        self._making = threading.Lock()
        self.client(LATEST)  # which refuses an address that can be read in two ways

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def client(self, choice: str) -> RankerClient:
        """The client that asks for a version.

        Args:
            choice: `latest`, `version N` or `label NAME`.

        Raises:
            ValueError: it is none of these.
        """
        matched = _CHOICE.fullmatch(choice)
        version = int(matched["version"]) if matched and matched["version"] else None
        if matched is None or (version or 0) > MAX_VERSION:
            raise ValueError(f"`choice` must be latest, version N or label NAME. Received: {choice!r}")
        with self._making:
            if choice not in self._clients:
                self._clients[choice] = RankerClient(
                    self._server, self._model, version=version, label=matched["label"], timeout=self._timeout
                )
            return self._clients[choice]

    def scores(self, record: bytes, choice: str) -> dict[str, Any]:
        """The scores of a page.

        Args:
            record: the serialized page.
            choice: the version; see `client`.

        Returns:
            `version`, the one that answered, and `outputs`: name to the scores of the candidates. Or `error`, in words,
            where there is no answer.

        Raises:
            ValueError: the choice is none.
        """
        client = self.client(choice)
        row = request_row(record, self._ids, STATISTICS)
        try:
            known = client.inputs
            row = {name: value for name, value in row.items() if name in known or name not in STATISTICS}
            answer = client.predict("serving_default", page_inputs(Page.from_row(row), known))
        except RankerError as error:
            return {"error": f"{self._server} does not answer for {self._model}, {choice}: {error}"}
        candidates = len(row["item_id"])
        outputs = {name: values[0, :candidates].astype(float).tolist() for name, values in answer.outputs.items()}
        return {"version": answer.version, "outputs": outputs}

    def close(self) -> None:
        """Closes the connections."""
        for client in self._clients.values():
            client.close()


def choices(versions: Sequence[int], labels: Sequence[str]) -> list[str]:
    """What can be chosen between: the latest version, labels, and versions from the newest on."""
    return [LATEST, *(f"label {label}" for label in labels), *(f"version {n}" for n in sorted(versions, reverse=True))]
