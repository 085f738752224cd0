"""A Python client for a served ranker, over gRPC: `RankerClient(address).rank(page)`."""

import types
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2, predict_pb2
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from export.client.page import History, Page, PageError

_SIGNATURE = "serving_default"
_MAX_MESSAGE = 32 << 20  # bytes; gRPC's own limit on answers is 4 MB


class RankerError(Exception):
    """A page that was not ranked.

    Args:
        code: of gRPC.
        details: what the server says.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class RequestRefused(RankerError):
    """The server does not take such a page; to ask again does not help."""


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


class RankerClient:
    """Ranks pages with a ranker behind TensorFlow Serving or `export.serve`; a context manager.

    One client may be used by several threads.

    Args:
        address: `host:port` of the gRPC services.
        model: the model's name.
        version: asks for this version; `None` for the latest.
        label: asks for the version with this label instead.
        timeout: seconds after which a request is given up; the server is told.

    Raises:
        ValueError: both `version` and `label` are given.
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
            raise ValueError(f"`version` and `label` exclude each other. Received: {version} and {label!r}")
        self._spec = model_pb2.ModelSpec(name=model)
        if version is not None:
            self._spec.version.value = version
        if label is not None:
            self._spec.version_label = label
        self._timeout = timeout
        limits = [("grpc.max_receive_message_length", _MAX_MESSAGE), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address, limits)
        self._stub = PredictionServiceStub(self._channel)
        self._inputs: tuple[int, Mapping[str, tf.DType]] | None = None  # version, and its inputs
        self.version: int | None = None
        """The version that gave the last scores."""

    def __enter__(self) -> "RankerClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def rank(self, page: Page, output: str = "ctr") -> dict[str, float]:
        """Scores the candidates of a page.

        Args:
            page: the page.
            output: which score: `ctr`, and `ctcvr` or `dwell` if the ranker has learned them.

        Returns:
            Scores by item, best first. `version` of the client is then the version that gave them.

        Raises:
            RankerError: it was not ranked; the class says why.
            PageError: a value on the page is not of the type that the ranker reads.
        """
        if not page.item_ids:
            return {}
        request = predict_pb2.PredictRequest(model_spec=self._spec, output_filter=[output])
        request.model_spec.signature_name = _SIGNATURE
        for name, value in page_inputs(page, self.inputs).items():
            request.inputs[name].CopyFrom(_to_proto(value))
        try:
            response = self._stub.Predict(request, timeout=self._timeout)
        except grpc.RpcError as error:
            self._inputs = None  # perhaps those of another version
            raise _typed(error) from error
        self.version = response.model_spec.version.value
        if self._inputs is not None and self.version != self._inputs[0]:
            self._inputs = None
        scores = tf.make_ndarray(response.outputs[output])[0, : len(page.item_ids)]
        best_first = np.argsort(-scores, kind="stable")
        return {page.item_ids[n]: float(scores[n]) for n in best_first}

    @property
    def inputs(self) -> Mapping[str, tf.DType]:
        """Name and type of what the ranker reads of a page; asked for once per version.

        Raises:
            RankerError: the server does not say.
        """
        known = self._inputs
        if known is None:
            request = get_model_metadata_pb2.GetModelMetadataRequest(
                model_spec=self._spec, metadata_field=["signature_def"]
            )
            try:
                response = self._stub.GetModelMetadata(request, timeout=self._timeout)
            except grpc.RpcError as error:
                raise _typed(error) from error
            signatures = get_model_metadata_pb2.SignatureDefMap()
            response.metadata["signature_def"].Unpack(signatures)
            known = response.model_spec.version.value, _input_types(signatures.signature_def[_SIGNATURE])
            self._inputs = known
        return known[1]

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()


def page_inputs(page: Page, types_by_name: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    """A page as the inputs of `serving_default`: one row.

    Raises:
        PageError: a value is of another type.
    """
    values: dict[str, Any] = {"user_id": page.user_id, "query": page.query, "timestamp": page.timestamp}
    values |= {"item_id": page.item_ids, **page.candidates}
    for name in ("click", "pay", "cart"):
        history = page.histories.get(name, History())
        values |= {f"{name}_item_id": history.item_ids, f"{name}_time": history.times}
    return {name: _row(name, value, types_by_name.get(name)) for name, value in values.items()}


def _row(name: str, value: Any, dtype: tf.DType | None) -> np.ndarray:
    scalars = [value] if isinstance(value, str | int) else list(value)
    # An input that the ranker does not have is sent as it is: the server's answer names it.
    is_text = dtype == tf.string if dtype is not None else all(isinstance(scalar, str) for scalar in scalars)
    try:
        if is_text:
            array = np.empty(len(scalars), object)
            array[:] = [scalar.encode() for scalar in scalars]
        else:
            array = np.array(scalars, None if dtype is None else dtype.as_numpy_dtype)
            if dtype is not None and dtype.is_integer and any(type(scalar) is float for scalar in scalars):
                raise TypeError("a fraction")
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        kind = "text" if is_text else dtype.name if dtype is not None else "numbers"
        raise PageError(f"{name}: must be {kind}. Received: {str(value)[:80]}") from error
    return array if isinstance(value, str | int) else array[None]


def _to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    if array.dtype != object:
        return tf.make_tensor_proto(array)
    # `make_tensor_proto` looks at every string on its own, which takes five times as long.
    shape = tf.TensorShape(array.shape).as_proto()
    return tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=array.ravel().tolist())


def _input_types(signature: meta_graph_pb2.SignatureDef) -> dict[str, tf.DType]:
    return {name: tf.as_dtype(info.dtype) for name, info in signature.inputs.items()}


def _typed(error: grpc.RpcError) -> RankerError:
    return _ERRORS.get(error.code(), RankerError)(error.code(), error.details() or "")
