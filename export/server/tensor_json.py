"""TensorFlow Serving's JSON: requests in row or column format to arrays, and results back."""

import base64
import codecs
import collections
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from export.server.servable import TensorSpec, shape_text, type_name
from export.server.serving_error import ServingError

_JSON_TYPES = {
    type(None): "Null",
    int: "Number",
    float: "Number",
    str: "String",
    list: "Array",
    dict: "Object",
}

_MAX_RANK = 32  # of NumPy
_MAX_DEPTH = 64
"""Lists and objects inside each other: the largest rank, and some more for the document around it."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_EXACT = {tf.float16: 2**11 - 1, tf.bfloat16: 2**8 - 1, tf.float32: 2**24 - 1, tf.float64: 2**53 - 1}
"""The largest integer up to which a type holds every integer."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        raise _invalid(
            f"JSON Parse error: an object has the key {_excerpt(json.dumps(counts.most_common(1)[0][0]))} twice"
        )
    return keys


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parse_document(body: bytes) -> dict[str, Any]:
    """Parses the body of a predict request, as leniently as TensorFlow Serving: `NaN` and `Infinity` are numbers, and
    text after the document is ignored. Of a key that an object has twice, no reader knows which value was meant: it is
    refused.

    Raises:
        ServingError: the body is no JSON object, or holds not exactly one of `instances` and `inputs`, or a key twice,
            or is nested too deep (RESOURCE_EXHAUSTED).
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:4]:
        raise _invalid("JSON Parse error: the body seems to be UTF-16 or UTF-32; JSON is sent as UTF-8")
    if _depth(body) > _MAX_DEPTH:
        raise ServingError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, f"JSON is nested too deep: more than {_MAX_DEPTH} levels"
        )
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(
            f"JSON Parse error: Invalid encoding in string. at offset: {error.start}; JSON is sent as UTF-8"
        ) from error
    start = len(text) - len(text.lstrip(" \t\r\n"))
    if start == len(text):
        raise _invalid("JSON Parse error: The document is empty")
    try:
        document, _ = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except ValueError as error:  # an integer of thousands of digits
        raise _invalid("JSON Parse error: a number is too long") from error
    if not isinstance(document, dict):
        raise _invalid(f"Request must be a JSON object. Received: {_json_type(document)}")
    if ("instances" in document) == ("inputs" in document):
        raise _invalid("Request must have exactly one of 'instances' (row format) and 'inputs' (column format)")
    if not isinstance(document.get("signature_name", ""), str):
        raise _invalid("'signature_name' key must be a string value.")
    return document


def decode_inputs(
    document: Mapping[str, Any], specs: Mapping[str, TensorSpec], optional: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """The inputs of a predict request.

    Args:
        document: from `parse_document`.
        specs: the inputs of its signature.
        optional: those that may be left out, in row format from all rows.

    Raises:
        ServingError: the values do not fit the signature.
    """
    if "instances" in document:
        columns = _columns_of_rows(document["instances"], specs, optional)
    else:
        columns = _columns(document["inputs"], specs, optional)
    return {name: _to_array(name, columns[name], spec) for name, spec in specs.items() if name in columns}


def encode_outputs(outputs: Mapping[str, np.ndarray], *, row_format: bool) -> str:
    """The response to a predict request.

    Args:
        outputs: output name to value. Strings of an output whose name ends in `_bytes` are written as base64.
        row_format: whether the request was in row format; the response is then a list of rows.

    Raises:
        ServingError: in row format, the outputs do not share their first dimension.
    """
    columns = {name: _to_json(value, as_base64=name.endswith("_bytes")) for name, value in sorted(outputs.items())}
    if not row_format:
        values = columns if len(columns) > 1 else next(iter(columns.values()))
        return json.dumps({"outputs": values}, ensure_ascii=False)
    if any(value.ndim == 0 for value in outputs.values()) or len({len(value) for value in outputs.values()}) > 1:
        shapes = {name: shape_text(tf.TensorShape(value.shape)) for name, value in sorted(outputs.items())}
        raise _invalid(f"Outputs have no common batch dimension, ask in column format ('inputs'). Shapes: {shapes}")
    if len(columns) == 1:
        rows = next(iter(columns.values()))
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return json.dumps({"predictions": rows}, ensure_ascii=False)


def _columns_of_rows(instances: Any, specs: Mapping[str, TensorSpec], optional: Collection[str]) -> dict[str, list]:
    if not isinstance(instances, list):
        raise _invalid(f"Expecting 'instances' to be a list. Received: {_json_type(instances)}")
    if not instances:
        raise _invalid("No values in 'instances' array.")
    if len(specs) == 1:
        (name,) = specs
        if all(isinstance(row, dict) and row.keys() == {name} for row in instances):
            return {name: [row[name] for row in instances]}
        return {name: instances}
    names = specs.keys()
    if isinstance(instances[0], dict) and specs.keys() - set(optional) <= instances[0].keys() <= specs.keys():
        names = instances[0].keys()
    for number, row in enumerate(instances):
        if not isinstance(row, dict):
            raise _invalid(
                f"Failed to process element: {number} of 'instances' list. The signature has several inputs, so each "
                f"element must be an object. Received: {_json_type(row)}"
            )
        if row.keys() != names:
            raise _invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: keys must be equal to: "
                f"{','.join(sorted(names))}. Received: {_excerpt(','.join(sorted(row)))}"
            )
    return {name: [row[name] for row in instances] for name in names}


def _columns(inputs: Any, specs: Mapping[str, TensorSpec], optional: Collection[str]) -> dict[str, Any]:
    if len(specs) == 1 and not (isinstance(inputs, dict) and inputs.keys() >= specs.keys()):
        return {next(iter(specs)): inputs}
    if not isinstance(inputs, dict):
        raise _invalid(
            f"The signature has several inputs, so 'inputs' must be an object. Received: {_json_type(inputs)}"
        )
    for name in sorted(specs):
        if name not in inputs and name not in optional:
            raise _invalid(f"Missing named input: {name} in 'inputs' object.")
    return inputs


def _to_array(name: str, value: Any, spec: TensorSpec) -> np.ndarray:
    shape, scalars = _flatten(name, value, spec.shape)
    return _scalars_to_array(name, scalars, spec.dtype).reshape(shape)


def _flatten(name: str, value: Any, expected: tf.TensorShape) -> tuple[list[int], list]:
    """The shape of nested lists and their scalars in order."""
    max_rank = _MAX_RANK if expected.rank is None else expected.rank
    shape: list[int] = []
    flat = [value]
    while flat and any(isinstance(element, list) for element in flat):
        level = len(shape)
        if level == max_rank:
            raise _invalid(
                f"Encountered list at unexpected level: {level}: input {name} has shape {shape_text(expected)}"
            )
        size = next(len(element) for element in flat if isinstance(element, list))
        for element in flat:
            if not isinstance(element, list):
                raise _invalid(f"Encountered {_json_type(element)} at level: {level} expected a list: {name}")
            if len(element) != size:
                raise _invalid(
                    f"Encountered list at unexpected size: {len(element)} at level: {level} expected size: {size}: "
                    f"input {name}; shorter lists must be padded"
                )
        shape.append(size)
        flat = [scalar for element in flat for scalar in element]
    return shape, flat


def _scalars_to_array(name: str, scalars: Sequence[Any], dtype: tf.DType) -> np.ndarray:
    if dtype == tf.string:
        array = np.empty(len(scalars), object)
        array[:] = [_to_bytes(name, scalar) for scalar in scalars]
        return array
    if dtype in _EXACT:
        allowed: tuple[type, ...] = (int, float)
    elif dtype.is_integer:
        allowed = (int,)
    elif dtype.is_bool:
        allowed = (bool,)
    else:
        raise _invalid(f"Input {name} is of type {type_name(dtype)}, which JSON cannot express")
    if not {*map(type, scalars)} <= {*allowed}:  # `isinstance` would take a bool for an int
        raise _wrong_type(name, next(scalar for scalar in scalars if type(scalar) not in allowed), dtype)
    if dtype in _EXACT:
        return _floats_to_array(name, scalars, dtype)
    if dtype.is_integer and scalars and not dtype.min <= min(scalars) <= max(scalars) <= dtype.max:
        raise _invalid(f"JSON number out of range: input {name} must fit {type_name(dtype)}")
    return np.array(scalars, dtype.as_numpy_dtype)


def _floats_to_array(name: str, scalars: Sequence[int | float], dtype: tf.DType) -> np.ndarray:
    """Floats; refuses integers that the type cannot hold exactly and numbers that it would round to infinity.

    The shortest decimal of a type's largest value may lie above that value, as 3.4028235e+38 does for float32, so that
    what counts is what a number is rounded to.
    """
    exact = _EXACT[dtype]
    for scalar in scalars:
        if type(scalar) is int and not -exact <= scalar <= exact:
            raise _lossy(name, scalar, dtype)
    with np.errstate(over="ignore"):
        array = np.array(scalars, np.float64).astype(dtype.as_numpy_dtype)
    for position in np.flatnonzero(np.isinf(array)):
        if math.isfinite(scalars[position]):
            raise _lossy(name, scalars[position], dtype)
    return array


def _to_bytes(name: str, scalar: Any) -> bytes:
    try:
        if isinstance(scalar, str):
            return scalar.encode("utf-8")
        if isinstance(scalar, dict) and scalar.keys() == {"b64"} and isinstance(scalar["b64"], str):
            return _from_base64(name, scalar["b64"])
    except UnicodeEncodeError as error:
        raise _invalid(f"JSON Parse error: a lone surrogate in input {name} is no text") from error
    raise _wrong_type(name, scalar, tf.string)


def _from_base64(name: str, text: str) -> bytes:
    """Decodes as TensorFlow Serving does: with line ends and blanks anywhere, and with or without padding."""
    digits = "".join(text.split())
    data = digits.rstrip("=")
    missing = "=" * (-len(data) % 4)
    try:
        if digits not in (data, data + missing):
            raise ValueError("Incorrect padding")
        return base64.b64decode(data + missing, validate=True)
    except ValueError as error:  # also of characters that base64 does not have
        hint = "; - and _ are digits of another alphabet" if re.search("[-_]", data) else ""
        raise _invalid(f"Unable to base64 decode input {name}: {error}{hint}") from error


def _to_json(array: np.ndarray, *, as_base64: bool) -> list | Any:
    if array.dtype == object:
        return _map(array.tolist(), _to_base64 if as_base64 else lambda value: value.decode("utf-8", "replace"))
    if array.dtype == bool or np.issubdtype(array.dtype, np.integer):
        return array.tolist()
    # The shortest decimals that read back as the same float32, instead of the digits of a double.
    return array.astype(np.float32).astype("U32").astype(np.float64).tolist() if array.itemsize <= 4 else array.tolist()


def _to_base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode("ascii")}


def _map(value: Any, function: Any) -> Any:
    return [_map(element, function) for element in value] if isinstance(value, list) else function(value)


def _wrong_type(name: str, scalar: Any, dtype: tf.DType) -> ServingError:
    text = "{...}" if isinstance(scalar, dict) else _excerpt(json.dumps(scalar))
    return _invalid(
        f"JSON Value: {text} Type: {_json_type(scalar)} is not of expected type: {type_name(dtype)} (input {name})"
    )


def _lossy(name: str, scalar: int | float, dtype: tf.DType) -> ServingError:
    return _invalid(
        f"Cannot convert JSON value: {_excerpt(json.dumps(scalar))} to {type_name(dtype)} without loss of "
        f"precision. (input {name})"
    )


def _json_type(value: Any) -> str:
    return str(value) if isinstance(value, bool) else _JSON_TYPES[type(value)]


def _depth(body: bytes) -> int:
    """How deep lists and objects lie inside each other, at most. Brackets in strings do not count."""
    if body.count(b"[") + body.count(b"{") <= _MAX_DEPTH:
        return 0
    marks = np.frombuffer(_STRING.sub(b"", body), np.uint8)
    opened = np.isin(marks, (0x5B, 0x7B)).astype(np.int32)
    return int(np.cumsum(opened - np.isin(marks, (0x5D, 0x7D))).max(initial=0))


def _excerpt(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "..."


def _invalid(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
