"""Asks a model behind TensorFlow Serving's gRPC services, and tells errors apart."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2, predict_pb2
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from beam_pipelines.format.errors import InputError

_MAX_MESSAGE = 32 << 20  # bytes; gRPC's own limit on answers is 4 MB


class RankerError(Exception):
    """A request that was not answered.

    Args:
        code: of gRPC.
        details: the server's message.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class RequestRefused(RankerError):
    """The server does not take such a request; to ask again does not help."""


class RankerNotFound(RankerError):
    """The server has no such model, version or label."""


class RankerBusy(RankerError):
    """The server cannot be reached, or has too much to do; to ask again later may help."""


class DeadlineExceeded(RankerError):
    """The answer did not come in time."""


_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT: RequestRefused,
    grpc.StatusCode.FAILED_PRECONDITION: RequestRefused,
    grpc.StatusCode.OUT_OF_RANGE: RequestRefused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RequestRefused,
    grpc.StatusCode.NOT_FOUND: RankerNotFound,
    grpc.StatusCode.UNAVAILABLE: RankerBusy,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


class Prediction(NamedTuple):
    """An answer: the version that gave it, and its outputs by name."""

    version: int
    outputs: dict[str, np.ndarray]


class SignatureInputs(NamedTuple):
    """The types of a signature's inputs by name, and the version that they are of."""

    version: int
    types: dict[str, tf.DType]


class PredictClient:
    """Asks one model behind TensorFlow Serving or `export.serve`; a context manager.

    One client may be used by several threads.

    Args:
        address: `host:port` of the gRPC services; an address of IPv6 is in brackets.
        model: the model's name.
        version: asks for this version; `None` for the latest.
        label: asks for the version with this label instead.
        timeout: seconds after which a request is given up; the server is told.

    Raises:
        InputError: both `version` and `label` are given, or the address can be read in two ways.
    """

    def __init__(
        self,
        address: str,
        model: str = "ranker",
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        if version is not None and label is not None:
            raise InputError(f"`version` and `label` exclude each other. Received: {version} and {label!r}")
        if _is_ipv6(address) or _is_ipv6(address.rpartition(":")[0]):  # whose last part may or may not be the port
            raise InputError(f"`address` must have brackets around IPv6, as [::1]:8500 has. Received: {address}")
        self._spec = model_pb2.ModelSpec(name=model)
        if version is not None:
            self._spec.version.value = version
        if label is not None:
            self._spec.version_label = label
        self._timeout = timeout
        limits = [("grpc.max_receive_message_length", _MAX_MESSAGE), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address, limits)
        self._stub = PredictionServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()
    ) -> Prediction:
        """Asks for the outputs of a signature.

        Args:
            signature: its name.
            inputs: by name; texts as arrays of `bytes` objects.
            output_filter: the outputs to ask for; empty for all.

        Raises:
            RankerError: there is no answer; the class says why.
        """
        request = predict_pb2.PredictRequest(model_spec=self._spec, output_filter=output_filter)
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(_to_proto(value))
        try:
            response = self._stub.Predict(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise _typed(error) from error
        outputs = {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
        return Prediction(response.model_spec.version.value, outputs)

    def signature_inputs(self, signature: str) -> SignatureInputs:
        """Asks what the inputs of a signature are.

        Raises:
            RankerError: the server does not say.
        """
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec, metadata_field=["signature_def"]
        )
        try:
            response = self._stub.GetModelMetadata(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise _typed(error) from error
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        inputs = signatures.signature_def[signature].inputs
        dtypes = {name: tf.as_dtype(info.dtype) for name, info in inputs.items()}
        return SignatureInputs(response.model_spec.version.value, dtypes)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    if array.dtype != object:
        return tf.make_tensor_proto(array)
    # `make_tensor_proto` looks at every string on its own, which takes several times as long.
    shape = tf.TensorShape(array.shape).as_proto()
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=array.ravel().tolist())


def _typed(error: grpc.RpcError) -> RankerError:
    return _ERRORS.get(error.code(), RankerError)(error.code(), error.details() or "")
