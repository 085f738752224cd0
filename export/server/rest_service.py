"""TensorFlow Serving's REST API, and its metrics for Prometheus."""

import json
import logging
import re
import urllib.parse
from collections.abc import Mapping

import grpc
import numpy as np
from google.protobuf import json_format, message

from export.server.admission import Deadline
from export.server.content_encoding import encode
from export.server.cross_origin import CrossOrigin
from export.server.http_request import HttpError, HttpRequest
from export.server.http_response import HttpResponse
from export.server.predict import ArrayInput, ModelCall, Predictor, PredictRequest
from export.server.servable import DEFAULT_SIGNATURE, Servable
from export.server.served_models import ModelSpec, ServedModels
from export.server.serving_error import ServingError
from export.server.serving_metrics import PROMETHEUS_PATH
from export.server.tensor_json import decode_inputs, encode_outputs, parse_document
from export.version.base_path import MAX_VERSION

_LOG = logging.getLogger("export.serve")
_MODEL = r"/v1/models/(?P<name>[^/:]+?)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+?))?"
_INFERENCE = re.compile(_MODEL + "(?::|%3A)(?P<method>predict|classify|regress)", re.IGNORECASE)
_STATUS = re.compile(_MODEL + "(?P<metadata>/metadata)?", re.IGNORECASE)
_METHODS = "GET, HEAD, POST, OPTIONS"
_KNOWN_METHODS = (*_METHODS.split(", "), "PUT", "DELETE", "PATCH")


class RestService:
    """Answers HTTP requests for models.

    Args:
        predictor: of the models; inputs beyond its limits are refused with 429.
        cross_origin: the web pages that may read the answers.
    """

    def __init__(self, predictor: Predictor, cross_origin: CrossOrigin) -> None:
        self._predictor = predictor
        self._cross_origin = cross_origin

    def answer(self, request: HttpRequest) -> HttpResponse:
        """Answers a request."""
        try:
            response = self._respond(request)
        except ServingError as error:
            response = HttpResponse.of_error(error.http_status, error.message)
        except Exception:
            _LOG.exception("%s %s failed", request.method, request.path)
            response = HttpResponse.of_error(500, "internal error, see the server's log")
        body, encoding_fields = encode(response.body, request.fields.get("accept-encoding", ""))
        fields = _joined(response.fields, encoding_fields, self._cross_origin.fields(request.fields))
        return HttpResponse(response.status, body, fields)

    def refuse(self, error: HttpError, fields: Mapping[str, str]) -> HttpResponse:
        """Answers what is no HTTP request."""
        response = HttpResponse.of_error(error.status, error.message)
        return response._replace(fields=_joined(response.fields, error.fields, self._cross_origin.fields(fields)))

    def _respond(self, request: HttpRequest) -> HttpResponse:
        match request.method:
            case "GET" | "HEAD":
                return self._get(request)
            case "POST":
                return self._post(request)
            case "OPTIONS":
                preflight = self._cross_origin.preflight_fields(request.fields, _METHODS)
                return HttpResponse(204, fields={"Allow": _METHODS, **preflight})
            case method if method in _KNOWN_METHODS:
                return _other_path(request)
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported method ({request.method[:80]})")

    def _get(self, request: HttpRequest) -> HttpResponse:
        path, models = request.path, self._predictor.models
        if path == PROMETHEUS_PATH:
            return HttpResponse.of_text(200, models.metrics.text(), "text/plain")
        if matched := _STATUS.fullmatch(path):
            if matched["metadata"]:
                return HttpResponse.of_text(200, _metadata(models, _requested(matched)))
            return HttpResponse.of_text(200, _to_json(models.status(*_requested(matched))))
        if path.rstrip("/").lower() == "/v1/models":
            raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, "Missing model name in request.")
        return _other_path(request)

    def _post(self, request: HttpRequest) -> HttpResponse:
        matched = _INFERENCE.fullmatch(request.path)
        if matched is None:
            return _other_path(request)
        if matched["method"].lower() != "predict":
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f":{matched['method']} is not served; use :predict")
        deadline = Deadline(self._predictor.limits.rest_seconds)
        predict = _RestPredict(_requested(matched), deadline, request.body)
        return HttpResponse.of_text(200, self._predictor.predict(predict))


class _RestPredict(PredictRequest[str]):
    """The body of a request to `:predict`, and that of its answer."""

    entrypoint = "REST"

    def __init__(self, model: ModelSpec, deadline: Deadline, body: bytes) -> None:
        self.model = model
        self.deadline = deadline
        self._body = body
        self._has_rows = False

    def read(self, servable: Servable) -> ModelCall:
        document = parse_document(self._body)
        self._has_rows = "instances" in document
        name = document.get("signature_name") or DEFAULT_SIGNATURE
        if name not in servable.signature_names:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def'
            )
        signature = servable.signature(name)
        inputs = decode_inputs(document, signature.inputs, signature.defaults.keys())
        return ModelCall(name, {key: ArrayInput(value) for key, value in inputs.items()})

    def write(self, servable: Servable, outputs: Mapping[str, np.ndarray]) -> str:
        return encode_outputs(outputs, row_format=self._has_rows)


def _metadata(models: ServedModels, spec: ModelSpec) -> str:
    with models.lease(*spec) as servable:
        signatures = {key: json.loads(_to_json(value)) for key, value in servable.signature_defs.items()}
        number = servable.version
    return json.dumps(
        {
            "model_spec": {"name": spec.name, "signature_name": "", "version": str(number)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        },
        indent=1,
    )


def _to_json(proto: message.Message) -> str:
    return json_format.MessageToJson(proto, preserving_proto_field_name=True, including_default_value_fields=True)


def _requested(matched: re.Match[str]) -> ModelSpec:
    name = _decoded(matched["name"])
    label = None if matched["label"] is None else _decoded(matched["label"])
    if matched["version"] is None:
        return ModelSpec(name, None, label)
    if len(matched["version"]) > 19 or int(matched["version"]) > MAX_VERSION:
        raise ServingError(
            grpc.StatusCode.INVALID_ARGUMENT, f"Failed to convert version: {matched['version'][:40]} to numeric."
        )
    return ModelSpec(name, int(matched["version"]), label)


def _decoded(text: str) -> str:
    try:
        return urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, f"Failed to decode {text!r}") from error


def _other_path(request: HttpRequest) -> HttpResponse:
    if request.path.lower().startswith("/v1/"):
        message = f"Malformed request: {request.method} {request.path}"
        raise ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
    return HttpResponse.of_text(404, "")


def _joined(*parts: Mapping[str, str]) -> dict[str, str]:
    """Header fields of several sources, of which more than one may name what the answer varies with."""
    fields = {name: value for part in parts for name, value in part.items()}
    if varies := [part["Vary"] for part in parts if "Vary" in part]:
        fields["Vary"] = ", ".join(varies)
    return fields
