"""A server of the project's own on the loopback interface, and requests to it: what a client gets."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, predict_pb2
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from beam_pipelines.shell.command import CommandError
from export.server.endpoint import Listening

_MODEL_NAME = "ranker"
_START_SECONDS = 300


class LoopbackServer:
    """A server that is running.

    Args:
        listening: where.
        channel: to its gRPC port.
    """

    def __init__(self, listening: Listening, channel: grpc.Channel) -> None:
        self.listening = listening
        self._stub = PredictionServiceStub(channel)

    def ask_grpc(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Asks for the outputs of a signature over gRPC.

        Raises:
            CommandError: the server answers with an error.
        """
        request = predict_pb2.PredictRequest()
        request.model_spec.name = _MODEL_NAME
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        try:
            response = self._stub.Predict(request, timeout=_START_SECONDS)
        except grpc.RpcError as error:
            raise CommandError(f"the server answers over gRPC: {error.code().name}: {error.details()}") from error
        return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}

    def ask_rest(self, signature: str, instances: Sequence[Any]) -> dict[str, np.ndarray]:
        """Asks for the outputs of a signature over REST, in row format.

        Raises:
            CommandError: the server answers with an error.
        """
        document = json.dumps({"signature_name": signature, "instances": instances})
        request = urllib.request.Request(f"{self.listening.rest}:predict", data=document.encode())
        try:
            with urllib.request.urlopen(request, timeout=_START_SECONDS) as response:
                predictions = json.load(response)["predictions"]
        except urllib.error.HTTPError as error:
            raise CommandError(f"the server answers over REST: {error.code}: {error.read().decode()}") from error
        if not isinstance(predictions[0], dict):  # TensorFlow Serving names outputs where there are several
            predictions = [{"ctr": prediction} for prediction in predictions]
        return {name: np.array([prediction[name] for prediction in predictions], np.float32) for name in predictions[0]}


@contextlib.contextmanager
def loopback_server(base_path: Path) -> Iterator[LoopbackServer]:
    """A server process on free ports, ready to answer, and stopped when the block ends.

    Raises:
        CommandError: it does not start, or has no version to serve.
    """
    command = [sys.executable, "-m", "export.serve", "--base-path", str(base_path), "--model-name", _MODEL_NAME]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    with subprocess.Popen(
        [*command, "--port", "0", "--rest-port", "0"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        alarm = threading.Timer(_START_SECONDS, process.kill)
        alarm.start()
        try:
            listening = next(filter(None, map(Listening.from_line, process.stdout)), None)
            if listening is None:
                raise CommandError(f"the server did not start on {base_path} (exit code {process.wait()})")
            alarm.cancel()
            threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
            with grpc.insecure_channel(listening.grpc) as channel:
                _wait_until_available(channel)
                yield LoopbackServer(listening, channel)
        finally:
            alarm.cancel()
            process.terminate()
            process.wait()


def _wait_until_available(channel: grpc.Channel) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = _MODEL_NAME
    service = model_service_pb2_grpc.ModelServiceStub(channel)
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        states = service.GetModelStatus(request, wait_for_ready=True, timeout=_START_SECONDS).model_version_status
        if any(state.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE for state in states):
            return
        time.sleep(0.1)
    raise CommandError(f"the server has no version in state AVAILABLE after {_START_SECONDS} s")
