"""One loaded version of a model: a TF1 session over a SavedModel, as TensorFlow Serving runs it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from export.server.epoch_times import EpochTimes
from export.server.serving_error import ServingError
from export.version.recorded_requests import read_warmup

DEFAULT_SIGNATURE = "serving_default"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class TensorSpec(NamedTuple):
    """One input or output of a signature: its tensor in the graph, type and static shape."""

    tensor: str
    dtype: tf.DType
    shape: tf.TensorShape


class Signature(NamedTuple):
    """The inputs and outputs of a signature by name, and the values of inputs that a request may leave out."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    defaults: dict[str, np.ndarray]

    def check_names(self, received: Iterable[str]) -> None:
        """Refuses a request whose inputs are not those of the signature, but for some that have a default.

        Raises:
            ServingError: INVALID_ARGUMENT, with the names.
        """
        names = set(received)
        extra, missing = names - self.inputs.keys(), self.inputs.keys() - names - self.defaults.keys()
        if extra or missing:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"input size does not match signature: {len(names)}!={len(self.inputs)} "
                f"len({_set_text(names)}) != len({_set_text(self.inputs)}). Sent extra: {_set_text(extra)}. "
                f"Missing but required: {_set_text(missing)}.",
            )

    def check_tensor(self, name: str, dtype: int, shape: Sequence[int]) -> None:
        """Refuses an input of another type or shape; Python would convert some, and crash on others.

        Args:
            name: the input's.
            dtype: of `types_pb2.DataType`, or whatever a request has in its place.
            shape: its sizes, none negative.

        Raises:
            ServingError: INVALID_ARGUMENT.
        """
        spec = self.inputs[name]
        if dtype != spec.dtype.as_datatype_enum:
            is_type = dtype in types_pb2.DataType.values() and dtype != types_pb2.DT_INVALID
            received = type_name(tf.as_dtype(dtype)) if is_type else f"type {dtype}"
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Expects arg[{sorted(self.inputs).index(name)}] to be {type_name(spec.dtype)} but {received} is "
                f"provided (input {name})",
            )
        if not spec.shape.is_compatible_with(shape):
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Input {name} must have shape {shape_text(spec.shape)}. Received: {shape_text(tf.TensorShape(shape))}",
            )


class Servable:
    """A SavedModel in memory.

    TensorFlow Serving calls `Session::Run` on the tensors that a signature names; so does this class. It therefore
    needs nothing of the code that made the model, and an operation that fails gives the same error.

    The warm-up requests of the model are run before the constructor returns: a model that fails on them, or answers
    with NaN or infinity, does not load.

    Args:
        path: the version's directory.
        version: its number.

    Raises:
        Exception: TensorFlow cannot load it (the type depends on what is damaged), or a warm-up request fails.
    """

    def __init__(self, path: Path, version: int) -> None:
        self.version = version
        self._times = EpochTimes.of_version(path)
        # One thread per operation: those of a page are too small to share, and branches of its graph and other requests
        # keep the cores busy.
        threads = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1)
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=threads)
        with self._session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(path))
        self._session.graph.finalize()
        self.signature_defs: dict[str, meta_graph_pb2.SignatureDef] = dict(meta_graph.signature_def)
        self._signatures = {
            name: Signature(
                _specs(definition.inputs),
                _specs(definition.outputs),
                {key: tf.make_ndarray(value) for key, value in definition.defaults.items()},
            )
            for name, definition in self.signature_defs.items()
            if not name.startswith("__")  # `__saved_model_init_op`
        }
        try:
            for number, (signature, inputs) in enumerate(read_warmup(path)):
                self._warm_up(number, signature, inputs)
        except BaseException:
            self.close()
            raise

    @property
    def signature_names(self) -> set[str]:
        """The signatures that can be run."""
        return set(self._signatures)

    def signature(self, name: str) -> Signature:
        """The signature `name`; the empty name means `serving_default`."""
        name = name or DEFAULT_SIGNATURE
        if name not in self._signatures:
            raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        return self._signatures[name]

    def check_times(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Refuses times in another unit than that of the pages that the model was trained on, if it tells.

        Raises:
            ServingError: INVALID_ARGUMENT, with the unit.
        """
        if self._times is not None:
            self._times.check(inputs)

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Checks inputs and runs a signature.

        Args:
            signature: its name, empty for `serving_default`.
            inputs: input name to value; the types and shapes must be those of the signature. Those that have a default
                may be left out.
            output_filter: the outputs to compute; empty for all.
            timeout: seconds after which the run is given up; `None` for none.

        Raises:
            ServingError: the request does not fit the signature, or an operation of the graph failed.
        """
        called = self.signature(signature)
        called.check_names(inputs)
        for name, value in inputs.items():
            called.check_tensor(name, tf.as_dtype(value.dtype).as_datatype_enum, value.shape)
        return self.run(called, inputs, output_filter, timeout)

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs a signature on inputs that have been checked; see `predict`.

        Args:
            signature: from `signature`.
            inputs: those that `Signature.check_names` and `check_tensor` have passed.
            output_filter, timeout: as those of `predict`.

        Raises:
            ServingError: there is no such output, or an operation of the graph failed.
        """
        values = {**signature.defaults, **inputs}
        feed = {spec.tensor: values[name] for name, spec in signature.inputs.items()}
        outputs = signature.outputs
        fetch = {name: outputs[name].tensor for name in _selected(outputs, output_filter)}
        options = None
        if timeout is not None:
            options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, math.ceil(1000 * timeout)))
        try:
            fetched = self._session.run(fetch, feed, options)
        except tf.errors.OpError as error:
            # Python raises it anew with remarks on where the operation was created; clients get the original.
            original = error.__context__ if isinstance(error.__context__, tf.errors.OpError) else error
            raise ServingError(_CODES[error.error_code], original.message) from error
        except UnicodeDecodeError as error:  # an operation failed, and its message quotes bytes of the request
            message = error.object.decode("utf-8", "replace")
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, message) from error
        return {name: np.asarray(value, outputs[name].dtype.as_numpy_dtype) for name, value in fetched.items()}

    def close(self) -> None:
        """Frees the model."""
        self._session.close()

    def _warm_up(self, number: int, signature: str, inputs: Mapping[str, np.ndarray]) -> None:
        for name, value in self.predict(signature, inputs).items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ServingError(
                    grpc.StatusCode.FAILED_PRECONDITION, f"warm-up request {number}: output {name} is not finite"
                )


def type_name(dtype: tf.DType) -> str:
    """TensorFlow's C++ name of a type: `float` for float32, `double` for float64."""
    return types_pb2.DataType.Name(dtype.as_datatype_enum).removeprefix("DT_").lower()


def shape_text(shape: tf.TensorShape) -> str:
    """A shape as TensorFlow's C++ writes it: `[?,3]`."""
    if shape.rank is None:
        return "<unknown>"
    return f"[{','.join('?' if size is None else str(size) for size in shape.as_list())}]"


def _set_text(names: Iterable[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"


def _specs(infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(info.name, tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape))
        for name, info in infos.items()
    }


def _selected(outputs: Mapping[str, TensorSpec], output_filter: Sequence[str]) -> list[str]:
    for position, name in enumerate(output_filter):
        if name not in outputs:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {{{','.join(sorted(outputs))}}}.",
            )
        if name in output_filter[:position]:
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"duplicate output tensor alias: {name}")
    return list(output_filter) or list(outputs)
