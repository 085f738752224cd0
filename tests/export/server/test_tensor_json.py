import json
import math

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from export.server.servable import TensorSpec
from export.server.serving_error import ServingError
from export.server.tensor_json import decode_inputs, encode_outputs, parse_document


def spec(dtype, shape):
    return TensorSpec("t:0", dtype, tf.TensorShape(shape))


def decode(body, **specs):
    return decode_inputs(parse_document(body if isinstance(body, bytes) else json.dumps(body).encode()), specs)


def refusal(body, **specs):
    with pytest.raises(ServingError) as caught:
        decode(body, **specs)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    return caught.value.message


FLOAT, INT, TEXT, FLAG = (spec(dtype, [None]) for dtype in (tf.float32, tf.int64, tf.string, tf.bool))
MATRIX = spec(tf.float32, [None, None])


def test_rows_and_columns_give_the_same_arrays():
    rows = decode(
        {"instances": [{"a": 1, "b": ["x", "y"]}, {"a": 2, "b": ["", "é"]}]}, a=INT, b=spec(tf.string, [2, 2])
    )
    columns = decode({"inputs": {"a": [1, 2], "b": [["x", "y"], ["", "é"]]}}, a=INT, b=spec(tf.string, [2, 2]))
    for decoded in (rows, columns):
        assert decoded["a"].dtype == np.int64
        assert decoded["a"].tolist() == [1, 2]
        assert decoded["b"].tolist() == [[b"x", b"y"], [b"", "é".encode()]]


def test_a_signature_with_one_input_needs_no_name():
    for body in (
        {"instances": [1, 2]},
        {"instances": [{"a": 1}, {"a": 2}]},
        {"inputs": [1, 2]},
        {"inputs": {"a": [1, 2]}},
    ):
        assert decode(body, a=FLOAT)["a"].tolist() == [1.0, 2.0]
    assert decode({"instances": [{"b64": "AAE="}]}, a=TEXT)["a"].tolist() == [b"\x00\x01"]


@pytest.mark.parametrize(
    ("value", "expected_shape"), [([], (0,)), ([[], []], (2, 0)), ([[1], [2]], (2, 1)), (3, ()), ([[[]]], (1, 1, 0))]
)
def test_empty_lists_keep_their_shape(value, expected_shape):
    assert decode({"inputs": {"a": value}}, a=spec(tf.int64, None))["a"].shape == expected_shape


def test_numbers_follow_the_type_of_the_input():
    assert decode({"inputs": [1, 2.5]}, a=FLOAT)["a"].tolist() == [1.0, 2.5]
    assert decode(b'{"inputs": [NaN, Infinity, -Infinity]}', a=FLOAT)["a"].tolist()[1:] == [math.inf, -math.inf]
    assert decode({"inputs": [2**24 - 1, 3.4e38]}, a=FLOAT)["a"].tolist() == [2**24 - 1, np.float32(3.4e38)]
    assert decode({"inputs": [2**63 - 1, -(2**63)]}, a=INT)["a"].tolist() == [2**63 - 1, -(2**63)]
    assert decode({"inputs": [True]}, a=FLAG)["a"].tolist() == [True]


@pytest.mark.parametrize("value", ["AAE=", {"b64": "AAE="}])
def test_text_is_bytes_and_b64_is_decoded(value):
    expected = b"AAE=" if isinstance(value, str) else b"\x00\x01"
    assert decode({"inputs": [value]}, a=TEXT)["a"].tolist() == [expected]


@pytest.mark.parametrize("text", ["AAEC/w==", "AAEC/w", "AAEC\r\n/w==\r\n", " AA EC\t/w"])
def test_b64_may_have_line_ends_and_go_without_padding(text):
    assert decode({"inputs": [{"b64": text}, {"b64": ""}]}, a=TEXT)["a"].tolist() == [b"\x00\x01\x02\xff", b""]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("AAEC/w=", "Incorrect padding"),
        ("AAEC/w===", "Incorrect padding"),
        ("AAE=C/w=", ""),
        ("AAEC/", ""),
        ("====", "Incorrect padding"),
        ("AAEC_w==", "- and _ are digits of another alphabet"),
        ("é", "ASCII"),
        ("\ud800", "ASCII"),
        ("AA*=", ""),
    ],
)
def test_what_is_no_b64_is_refused_by_name(text, reason):
    message = refusal({"inputs": [{"b64": text}]}, a=TEXT)
    assert message.startswith("Unable to base64 decode input a: ")
    assert reason in message


def test_a_byte_order_mark_is_skipped():
    assert decode(b'\xef\xbb\xbf{"inputs": [1]}', a=INT)["a"].tolist() == [1]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_other_unicode_is_named(encoding):
    assert "the body seems to be UTF-16 or UTF-32" in refusal('{"inputs": [1]}'.encode(encoding), a=INT)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"inputs": [1], "inputs": [2]}', "inputs"),
        (b'{"signature_name": "x", "inputs": {"a": [1], "a": [1]}}', "a"),
        (b'{"instances": [{"a": 1}, {"a": 1, "b": 2, "\\u0061": 1}]}', "a"),
        (b'{"inputs": [{"b64": "AA==", "b64": "AA=="}]}', "b64"),
    ],
)
def test_a_key_that_is_there_twice_is_named(body, key):
    assert refusal(body, a=TEXT) == f'JSON Parse error: an object has the key "{key}" twice'


def test_what_follows_the_document_is_ignored():
    assert decode(b' \n{"inputs": [1]} trailing', a=INT)["a"].tolist() == [1]


@pytest.mark.parametrize(
    ("value", "expected", "text"),
    [
        (["1"], INT, 'JSON Value: "1" Type: String is not of expected type: int64'),
        ([1.5], INT, "JSON Value: 1.5 Type: Number is not of expected type: int64"),
        ([True], INT, "JSON Value: true Type: True is not of expected type: int64"),
        ([float("nan")], INT, "JSON Value: NaN Type: Number is not of expected type: int64"),
        ([2**63], INT, "out of range"),
        ([300], spec(tf.int8, [None]), "out of range"),
        (["x"], FLOAT, "is not of expected type: float"),
        ([1, False], FLOAT, "JSON Value: false Type: False is not of expected type: float"),
        ([None], FLOAT, "JSON Value: null Type: Null is not of expected type: float"),
        ([10**400], FLOAT, "without loss of precision"),
        ([2**24], FLOAT, "Cannot convert JSON value: 16777216 to float without loss of precision."),
        ([1e39], FLOAT, "Cannot convert JSON value: 1e+39 to float without loss of precision."),
        ([3.4028236e38], FLOAT, "Cannot convert JSON value: 3.4028236e+38 to float without loss of precision."),
        ([-3.4028236e38], FLOAT, "Cannot convert JSON value: -3.4028236e+38 to float without loss of precision."),
        ([65520.0], spec(tf.float16, [None]), "Cannot convert JSON value: 65520.0 to half without loss of precision."),
        ([1], FLAG, "is not of expected type: bool"),
        ([1], TEXT, "JSON Value: 1 Type: Number is not of expected type: string"),
        ([{"b64": "AAE=", "x": 1}], TEXT, "Type: Object is not of expected type: string"),
        ([{"b64": 1}], TEXT, "Type: Object is not of expected type: string"),
        ([{"b64": "?"}], TEXT, "Unable to base64 decode"),
        (["\ud800"], TEXT, "lone surrogate"),
        ([[1, 2], [3]], MATRIX, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ([[1], 2], MATRIX, "Encountered Number at level: 1 expected a list"),
        ([1, [2]], MATRIX, "Encountered Number at level: 1 expected a list"),
        ([[1]], FLOAT, "Encountered list at unexpected level: 1"),
        (json.loads("[" * 40 + "]" * 40), spec(tf.int64, None), "Encountered list at unexpected level: 32"),
        ([json.loads('{"a":' * 50 + "1" + "}" * 50)], TEXT, "JSON Value: {...} Type: Object"),
    ],
)
def test_values_that_do_not_fit_are_refused(value, expected, text):
    assert text in refusal({"inputs": {"a": value}}, a=expected)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "The document is empty"),
        (b" \n", "The document is empty"),
        (b"{", "JSON Parse error: Expecting property name enclosed in double quotes at offset: 1"),
        (b'{"inputs": [\xff]}', "JSON Parse error: Invalid encoding in string. at offset: 12"),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", "JSON Parse error"),
        (b"[]", "must be a JSON object. Received: Array"),
        (b"{}", "exactly one of 'instances'"),
        (b'{"inputs": 1, "instances": [1]}', "exactly one of 'instances'"),
        (b'{"inputs": 1, "signature_name": 3}', "'signature_name' key must be a string"),
        (b'{"instances": {"a": 1}}', "Expecting 'instances' to be a list"),
        (b'{"instances": []}', "No values in 'instances' array."),
        (b'{"instances": [1]}', "must be an object. Received: Number"),
        (b'{"instances": [{"a": 1}]}', "keys must be equal to: a,b. Received: a"),
        (b'{"instances": [{"a": 1, "b": 1, "c": 1}]}', "keys must be equal to: a,b. Received: a,b,c"),
        (b'{"inputs": [1]}', "'inputs' must be an object"),
        (b'{"inputs": {"a": [1]}}', "Missing named input: b in 'inputs' object."),
    ],
)
def test_documents_that_make_no_request_are_refused(body, text):
    assert text in refusal(body, a=INT, b=INT)


@pytest.mark.parametrize("levels", ["[", '{"a":', '["]",', '["\\"]",[{"[": '])
def test_nesting_beyond_any_tensor_is_refused_without_parsing(levels):
    depth = levels.count("[") + levels.count("{") - (1 if '"[' in levels else 0)
    with pytest.raises(ServingError, match="nested too deep: more than 64 levels") as caught:
        parse_document(b'{"inputs": ' + levels.encode() * (100 // depth))
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_brackets_in_strings_and_beside_each_other_are_no_depth():
    rows = [["[" * 100 + '"' + "{\\", "]"]] * 100
    assert decode({"inputs": rows}, a=spec(tf.string, [None, None]))["a"].shape == (100, 2)


def test_inputs_with_a_default_may_be_left_out():
    optional = {"b"}
    for document in ({"instances": [{"a": 1}, {"a": 2}]}, {"inputs": {"a": [1, 2]}}):
        inputs = decode_inputs(document, {"a": INT, "b": INT}, optional)
        assert {name: value.tolist() for name, value in inputs.items()} == {"a": [1, 2]}
    with pytest.raises(ServingError, match=r"keys must be equal to: a\. Received: a,b"):
        decode_inputs({"instances": [{"a": 1}, {"a": 2, "b": 3}]}, {"a": INT, "b": INT}, optional)
    with pytest.raises(ServingError, match="Missing named input: a"):
        decode_inputs({"inputs": {"b": [3]}}, {"a": INT, "b": INT}, optional)


def test_columns_may_hold_more_than_the_inputs():
    assert decode({"inputs": {"a": [1], "b": [2], "c": "?"}}, a=INT, b=INT)["b"].tolist() == [2]


def test_rows_of_several_outputs_are_objects():
    outputs = {"n": np.array([1, 2]), "x": np.array([0.1, 2], np.float32)}
    assert encode_outputs(outputs, row_format=True) == '{"predictions": [{"n": 1, "x": 0.1}, {"n": 2, "x": 2.0}]}'
    assert encode_outputs(outputs, row_format=False) == '{"outputs": {"n": [1, 2], "x": [0.1, 2.0]}}'
    assert encode_outputs({"x": np.array([[True]])}, row_format=True) == '{"predictions": [[true]]}'


def test_strings_are_text_unless_the_output_says_bytes():
    value = np.array(["é".encode(), b"\x00"], object)
    assert json.loads(encode_outputs({"s": value}, row_format=True)) == {"predictions": ["é", "\x00"]}
    assert json.loads(encode_outputs({"s_bytes": value}, row_format=True)) == {
        "predictions": [{"b64": "w6k="}, {"b64": "AA=="}]
    }


@pytest.mark.parametrize("other", [np.float32(1), np.zeros(3)])
def test_rows_need_a_common_batch_dimension(other):
    with pytest.raises(ServingError, match="no common batch dimension"):
        encode_outputs({"x": np.zeros(2), "y": np.asarray(other)}, row_format=True)


def round_trip(array):
    """An array written as a response and read as a request; bodies are compared as text, not as Python's numbers."""
    body = encode_outputs({"x": array}, row_format=False)
    return decode(body.replace("outputs", "inputs").encode(), x=spec(tf.as_dtype(array.dtype), [None] * array.ndim))[
        "x"
    ]


def assert_identical(array, expected):
    assert array.dtype == expected.dtype
    if array.dtype.kind not in "iu":  # NumPy's own comparison knows no NaN of bfloat16
        array, expected = array.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(array, expected)
    zeros = expected == 0
    assert (np.signbit(array[zeros]) == np.signbit(expected[zeros])).all()


FLOATS = [np.float16, np.float32, np.float64, tf.bfloat16.as_numpy_dtype]


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_extremes_of_a_float_are_read_as_they_are_written(dtype):
    limits = tf.as_dtype(dtype)
    smallest = {np.float16: 2.0**-24, np.float32: 2.0**-149, np.float64: 2.0**-1074}.get(dtype, 2.0**-133)
    normal = 2.0**-14 if dtype is np.float16 else 2.0**-1022 if dtype is np.float64 else 2.0**-126
    values = [limits.max, limits.min, smallest, -smallest, 3 * smallest, normal, 0.0, -0.0, 0.1, 1 / 3, np.inf, -np.inf]
    array = np.array(values, np.float64).astype(dtype)
    assert np.isinf(array).sum() == 2
    assert np.count_nonzero(array) == len(values) - 2
    assert_identical(round_trip(array), array)
    assert np.isnan(round_trip(np.array([np.nan]).astype(dtype))).all()


def test_the_largest_float_is_read_in_all_its_spellings():
    largest = np.finfo(np.float32).max
    body = (
        b'{"inputs": [3.4028235e+38, 3.4028234663852886e38, 340282346638528860000000000000000000000.0, 3.40282356e38]}'
    )
    assert decode(body, a=FLOAT)["a"].tolist() == [largest] * 4
    assert encode_outputs({"x": np.array([largest])}, row_format=True) == '{"predictions": [3.4028235e+38]}'


def test_numbers_that_are_none_have_the_names_that_tensorflow_serving_gives_them():
    for dtype in FLOATS:
        array = np.array([np.nan, np.inf, -np.inf]).astype(dtype)
        assert encode_outputs({"x": array}, row_format=True) == '{"predictions": [NaN, Infinity, -Infinity]}'


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
def test_the_extremes_of_an_integer_are_read_as_they_are_written(dtype):
    array = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max, 0, 1], dtype)
    assert_identical(round_trip(array), array)


@given(hnp.arrays(st.sampled_from([np.uint16, np.uint32, np.uint64]), st.integers(1, 30)), st.booleans())
def test_every_bit_pattern_of_a_float_is_read_as_it_is_written(bits, is_brain_float):
    floats = {2: tf.bfloat16.as_numpy_dtype if is_brain_float else np.float16, 4: np.float32, 8: np.float64}
    array = bits.view(floats[bits.itemsize])
    with np.errstate(invalid="ignore"):
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)  # JSON has one NaN
    assert_identical(round_trip(array), array)


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.int8, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0),
    )
)
def test_every_array_survives_the_way_through_json(array):
    document = json.loads(encode_outputs({"x": array}, row_format=False))
    # Sizes after an empty dimension cannot be written in JSON.
    shape = array.shape[: array.shape.index(0) + 1] if 0 in array.shape else array.shape
    back = decode({"inputs": {"x": document["outputs"]}}, x=spec(tf.as_dtype(array.dtype), [None] * len(shape)))["x"]
    np.testing.assert_array_equal(back, array.reshape(shape))
    assert back.dtype == array.dtype
