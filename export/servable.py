"""One loaded version of a model: a TF1 session over a SavedModel, as TensorFlow Serving runs it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from export.serving_error import ServingError
from export.warmup import read_warmup

DEFAULT_SIGNATURE = "serving_default"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class TensorSpec(NamedTuple):
    """One input or output of a signature: its tensor in the graph, type and static shape."""

    tensor: str
    dtype: tf.DType
    shape: tf.TensorShape


class Signature(NamedTuple):
    """The inputs and outputs of a signature by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class Servable:
    """A SavedModel in memory.

    TensorFlow Serving calls `Session::Run` on the tensors that a signature names; so does this class. It therefore
    needs nothing of the code that made the model, and an operation that fails gives the same error.

    The warm-up requests of the model are run before the constructor returns: a model that fails on them does not load.

    Args:
        path: the version's directory.
        version: its number.

    Raises:
        Exception: TensorFlow cannot load it (the type depends on what is damaged), or a warm-up request fails.
    """

    def __init__(self, path: Path, version: int) -> None:
        self.version = version
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(path))
        self._session.graph.finalize()
        self.signature_defs: dict[str, meta_graph_pb2.SignatureDef] = dict(meta_graph.signature_def)
        self._signatures = {
            name: Signature(_specs(definition.inputs), _specs(definition.outputs))
            for name, definition in self.signature_defs.items()
            if not name.startswith("__")  # `__saved_model_init_op`
        }
        for signature, inputs in read_warmup(path):
            self.predict(signature, inputs)

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

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature: its name, empty for `serving_default`.
            inputs: input name to value; the types and shapes must be those of the signature.
            output_filter: the outputs to compute; empty for all.

        Raises:
            ServingError: the request does not fit the signature, or an operation of the graph failed.
        """
        specs, outputs = self.signature(signature)
        check_names(specs, inputs)
        for index, (name, spec) in enumerate(sorted(specs.items())):
            received = tf.as_dtype(inputs[name].dtype)
            if received != spec.dtype:
                raise ServingError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Expects arg[{index}] to be {type_name(spec.dtype)} but {type_name(received)} is provided "
                    f"(input {name})",
                )
            if not spec.shape.is_compatible_with(inputs[name].shape):
                raise ServingError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Input {name} must have shape {shape_text(spec.shape)}. "
                    f"Received: {shape_text(tf.TensorShape(inputs[name].shape))}",
                )
        feed = {spec.tensor: inputs[name] for name, spec in specs.items()}
        fetch = {name: outputs[name].tensor for name in _selected(outputs, output_filter)}
        try:
            values = self._session.run(fetch, feed)
        except tf.errors.OpError as error:
            # Python raises it anew with remarks on where the operation was created; clients get the original.
            original = error.__context__ if isinstance(error.__context__, tf.errors.OpError) else error
            raise ServingError(_CODES[error.error_code], original.message) from error
        except UnicodeDecodeError as error:  # an operation failed, and its message quotes bytes of the request
            message = error.object.decode("utf-8", "replace")
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, message) from error
        return {name: np.asarray(value, outputs[name].dtype.as_numpy_dtype) for name, value in values.items()}

    def close(self) -> None:
        """Frees the model."""
        self._session.close()


def check_names(specs: Mapping[str, TensorSpec], received: Mapping[str, object]) -> None:
    """Refuses a request whose inputs are not exactly those of the signature."""
    if received.keys() != specs.keys():
        extra, missing = sorted(received.keys() - specs.keys()), sorted(specs.keys() - received.keys())
        raise ServingError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"input size does not match signature: {len(received)}!={len(specs)}. Sent extra: {{{','.join(extra)}}}. "
            f"Missing but required: {{{','.join(missing)}}}.",
        )


def type_name(dtype: tf.DType) -> str:
    """TensorFlow's C++ name of a type: `float` for float32, `double` for float64."""
    return types_pb2.DataType.Name(dtype.as_datatype_enum).removeprefix("DT_").lower()


def shape_text(shape: tf.TensorShape) -> str:
    """A shape as TensorFlow's C++ writes it: `[?,3]`."""
    if shape.rank is None:
        return "<unknown>"
    return f"[{','.join('?' if size is None else str(size) for size in shape.as_list())}]"


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
