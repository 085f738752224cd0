"""A server of the project's own on the loopback interface, and requests to it: what a client gets."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.shell.progress import is_progress_shown
from export.client.predict_client import PredictClient, RankerError
from export.gates.version_check import VersionError
from export.server.endpoint import Listening

_MODEL_NAME = "ranker"
_START_SECONDS = 300


class LoopbackServer:
    """A server that is running.

    Args:
        listening: where.
        client: of its gRPC services.
    """

    def __init__(self, listening: Listening, client: PredictClient) -> None:
        self.listening = listening
        self._client = client

    def ask_grpc(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Asks for the outputs of a signature over gRPC.

        Raises:
            VersionError: the server answers with an error.
        """
        try:
            return self._client.predict(signature, inputs).outputs
        except RankerError as error:
            raise VersionError(f"the server answers over gRPC: {error}") from error

    def ask_rest(self, signature: str, instances: Sequence[Any]) -> dict[str, np.ndarray]:
        """Asks for the outputs of a signature over REST, in row format.

        Raises:
            VersionError: the server answers with an error.
        """
        document = json.dumps({"signature_name": signature, "instances": instances})
        request = urllib.request.Request(f"{self.listening.rest}:predict", data=document.encode())
        try:
            with urllib.request.urlopen(request, timeout=_START_SECONDS) as response:
                predictions = json.load(response)["predictions"]
        except urllib.error.HTTPError as error:
            raise VersionError(f"the server answers over REST: {error.code}: {error.read().decode()}") from error
        if not isinstance(predictions[0], dict):  # TensorFlow Serving names outputs where there are several
            predictions = [{"ctr": prediction} for prediction in predictions]
        return {name: np.array([prediction[name] for prediction in predictions], np.float32) for name in predictions[0]}


@contextlib.contextmanager
def loopback_server(base_path: Path) -> Iterator[LoopbackServer]:
    """A server process on free ports, ready to answer, and stopped when the block ends.

    Raises:
        VersionError: it does not start, or has no version to serve.
    """
    command = [sys.executable, "-m", "export.serve", "--base-path", str(base_path), "--model-name", _MODEL_NAME]
    with subprocess.Popen(
        [*command, "--port", "0", "--rest-port", "0"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        stdout=subprocess.PIPE,
        stderr=None if is_progress_shown() else subprocess.DEVNULL,  # the server's log
        text=True,
    ) as process:
        assert process.stdout is not None
        alarm = threading.Timer(_START_SECONDS, process.kill)
        alarm.start()
        try:
            listening = next(filter(None, map(Listening.from_line, process.stdout)), None)
            if listening is None:
                raise VersionError(f"the server did not start on {base_path} (exit code {process.wait()})")
            alarm.cancel()
            threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
            with PredictClient(listening.grpc, _MODEL_NAME, timeout=_START_SECONDS) as client:
                yield LoopbackServer(listening, client)
        finally:
            alarm.cancel()
            process.terminate()
            process.wait()
