import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.format.page_reader import decode_page, int64_list_lengths, packed_page, unpack_int64
from beam_pipelines.format.records import FEATURES, WIRE_ORDER, encode_packed_page, encode_page, pack_int64
from tests.beam_pipelines.format.test_records import as_example, int64, pages


def assert_same(page, expected):
    assert page.keys() == expected.keys()
    for name, kind, _, _ in FEATURES:
        if kind == "bytes":
            assert page[name] == expected[name]
        else:
            assert page[name].dtype == {"int64": np.int64, "float": np.float32}[kind]
            np.testing.assert_array_equal(page[name], expected[name])


@settings(max_examples=150, deadline=None)
@given(pages())
def test_decoding_gives_what_was_encoded_by_us_or_by_tensorflow(page):
    assert_same(decode_page(encode_page(page)), page)
    assert_same(decode_page(as_example(page).SerializeToString()), page)
    packed = packed_page(encode_page(page))
    assert encode_packed_page([packed[name] for name in WIRE_ORDER]) == encode_page(page)


@settings(max_examples=150, deadline=None)
@given(pages(), st.data())
def test_a_cut_record_is_refused(page, data):
    record = encode_page(page)
    with pytest.raises(ValueError, match="`"):
        decode_page(record[: data.draw(st.integers(0, len(record) - 1))])


@settings(max_examples=300, deadline=None)
@given(pages(), st.data())
def test_a_record_with_a_changed_byte_is_refused_or_is_another_page(page, data):
    record = bytearray(encode_page(page))
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_page(bytes(record))
    except ValueError:
        return
    example = tf.train.Example.FromString(bytes(record))
    for feature in FEATURES:
        assert len(decoded[feature.name]) == len(
            getattr(example.features.feature[feature.name], f"{feature.kind}_list").value
        )


@given(st.lists(st.lists(int64, max_size=6), max_size=6))
def test_lists_of_int64_come_back(lists):
    payloads = [pack_int64(np.array(values, np.int64))[0] for values in lists]
    values, lengths = unpack_int64(payloads)
    assert values.tolist() == [value for values in lists for value in values]
    assert lengths.tolist() == int64_list_lengths(payloads).tolist() == [len(values) for values in lists]


def test_a_varint_does_not_run_on_into_the_next_list():
    with pytest.raises(ValueError, match="whole varints"):
        unpack_int64([b"\x80", b"\x01"])
    for long in (b"\x80" * 10 + b"\x01", b"\xff" * 9 + b"\x02"):
        with pytest.raises(ValueError, match="at most 64 bits"):
            unpack_int64([long])
    assert unpack_int64([b"\xff" * 9 + b"\x01"])[0].tolist() == [-1]


def test_errors_name_the_feature():
    zero = {"bytes": b"", "int64": 0, "float": 0.0}
    page = {f.name: [zero[f.kind]] * (f.group == "context") for f in FEATURES}
    example = as_example({**page, "item": [0, 0]})
    with pytest.raises(ValueError, match="`position` must have 2 values like the rest of group `candidates`"):
        decode_page(example.SerializeToString())
    del example.features.feature["cart_time"]
    with pytest.raises(ValueError, match=r"Missing: \['cart_time'\]"):
        decode_page(example.SerializeToString())
    example.features.feature["price"].float_list.value.append(1)
    with pytest.raises(ValueError, match="Unknown: b'price'"):
        decode_page(example.SerializeToString())
    record = encode_page(page)
    with pytest.raises(ValueError, match="bytes after its end"):
        decode_page(record + record)
