"""The one way of a predict request through a server, whatever the protocol that brought it."""

import abc
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import tensorflow as tf

from export.server.admission import Deadline, RequestLimits, RequestQueue
from export.server.servable import Servable
from export.server.served_models import ModelSpec, ServedModels

ResponseT = TypeVar("ResponseT")


class InputTensor(Protocol):
    """An input of a request, which can be judged before memory is taken for its values."""

    @property
    def dtype(self) -> int:
        """Its `types_pb2.DataType`, or whatever the request gives as one."""

    @property
    def shape(self) -> Sequence[int]:
        """Its sizes, none negative."""

    def to_array(self) -> np.ndarray:
        """Its values."""


class ArrayInput:
    """An input that is an array already."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @property
    def dtype(self) -> int:
        """Its `types_pb2.DataType`."""
        return tf.as_dtype(self._array.dtype).as_datatype_enum

    @property
    def shape(self) -> Sequence[int]:
        """Its sizes."""
        return self._array.shape

    def to_array(self) -> np.ndarray:
        """The array."""
        return self._array


class ModelCall(NamedTuple):
    """What a request asks of a model.

    Attributes:
        signature: the name of a signature; empty for `serving_default`.
        inputs: by name.
        output_filter: the outputs to compute; empty for all.
    """

    signature: str
    inputs: Mapping[str, InputTensor]
    output_filter: Sequence[str] = ()


class PredictRequest(abc.ABC, Generic[ResponseT]):
    """A predict request in its protocol.

    Attributes:
        entrypoint: the protocol, as metrics name it.
        model: the model that is asked for.
        deadline: of the request.
    """

    entrypoint: str
    model: ModelSpec
    deadline: Deadline

    @abc.abstractmethod
    def read(self, servable: Servable) -> ModelCall:
        """Translates the request.

        Raises:
            ServingError: it is malformed.
        """

    @abc.abstractmethod
    def write(self, servable: Servable, outputs: Mapping[str, np.ndarray]) -> ResponseT:
        """Translates the outputs.

        Raises:
            ServingError: the protocol cannot express them.
        """


class Predictor:
    """Answers predict requests: counts each, lets it wait for its turn, checks it, and runs the model.

    Args:
        models: the models.
        limits: larger requests are refused.
        queue: what a request must pass before a model runs.
    """

    def __init__(self, models: ServedModels, limits: RequestLimits, queue: RequestQueue) -> None:
        self.models = models
        self.limits = limits
        self.queue = queue

    def predict(self, request: PredictRequest[ResponseT]) -> ResponseT:
        """Answers a request.

        Raises:
            ServingError: it cannot be answered.
        """
        models = self.models
        counted_as = request.model.name if request.model.name in models.names else ""
        with (
            models.metrics.request(counted_as, "Predict", request.entrypoint),
            self.queue.admitted(request.deadline),
            models.lease(*request.model) as servable,
        ):
            call = request.read(servable)
            signature = servable.signature(call.signature)
            signature.check_names(call.inputs)
            self.limits.check({name: tensor.shape for name, tensor in call.inputs.items()})
            for name, tensor in call.inputs.items():
                signature.check_tensor(name, tensor.dtype, tensor.shape)
            inputs = {name: tensor.to_array() for name, tensor in call.inputs.items()}
            servable.check_times(inputs)
            remaining = request.deadline.remaining()
            with models.metrics.run(counted_as, "Predict"):
                outputs = servable.run(signature, inputs, call.output_filter, remaining)
            return request.write(servable, outputs)
