import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.format.records import (
    FEATURES,
    HISTORIES,
    SCHEMA_HASH,
    WIRE_ORDER,
    encode_packed_page,
    encode_packed_pages,
    encode_page,
    pack_int64,
)

int64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def pages(draw):
    lengths = {"context": 1}
    page = {}
    for feature in FEATURES:
        length = lengths.setdefault(feature.group, draw(st.integers(0, 12)))
        values = {"bytes": st.binary(max_size=200), "int64": int64, "float": st.floats(width=32, allow_nan=False)}
        drawn = draw(st.lists(values[feature.kind], min_size=length, max_size=length))
        dtype = {"bytes": None, "int64": np.int64, "float": np.float32}[feature.kind]
        page[feature.name] = drawn if dtype is None else np.array(drawn, dtype)
    return page


def as_example(page):
    features = {}
    for feature in FEATURES:
        values = page[feature.name]
        features[feature.name] = {
            "bytes": lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=v)),
            "int64": lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=v)),
            "float": lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=v)),
        }[feature.kind](values)
    return tf.train.Example(features=tf.train.Features(feature=features))


@settings(max_examples=150, deadline=None)
@given(pages())
def test_bytes_equal_those_of_tf_train_example(page):
    assert encode_page(page) == as_example(page).SerializeToString(deterministic=True)


@given(st.lists(int64 | st.sampled_from([0, 127, 128, 2**14 - 1, 2**14, 2**63 - 1, -1]), max_size=30))
def test_slices_of_packed_int64_equal_packed_slices(values):
    data, offsets = pack_int64(np.array(values, np.int64))
    example = tf.train.Int64List(value=values).SerializeToString()
    assert data == example[len(example) - len(data) :]
    middle = len(values) // 2
    assert data[offsets[middle] :] == pack_int64(np.array(values[middle:], np.int64))[0]


def test_a_packed_page_is_the_same_page():
    page = {f.name: [b"x"] if f.kind == "bytes" else np.arange(1 if f.group == "context" else 3) for f in FEATURES}
    packed = {
        f.name: {
            "bytes": lambda v: v[0],
            "int64": lambda v: pack_int64(v)[0],
            "float": lambda v: v.astype("<f4").tobytes(),
        }[f.kind](page[f.name])
        for f in FEATURES
    }
    assert encode_packed_page([packed[name] for name in WIRE_ORDER]) == encode_page(page)


@pytest.mark.parametrize("largest", [128, 20_000])
def test_pages_at_once_are_the_same_pages(largest):
    pages = [[bytes([i]) * size for i in range(len(WIRE_ORDER))] for size in (0, 1, 127, largest)]
    columns = [pa.array(column, pa.binary()) for column in zip(*pages, strict=True)]
    assert encode_packed_pages(columns).to_pylist() == [encode_packed_page(page) for page in pages]
    assert encode_packed_pages([column[:0] for column in columns]).to_pylist() == []


def empty_page():
    return {f.name: ([b""] if f.kind == "bytes" else np.zeros(1 if f.group == "context" else 0)) for f in FEATURES}


def test_errors_name_the_feature():
    with pytest.raises(ValueError, match=r"Missing: \['click_item'\]"):
        encode_page({k: v for k, v in empty_page().items() if k != "click_item"})
    with pytest.raises(ValueError, match=r"unknown: \['price'\]"):
        encode_page({**empty_page(), "price": np.zeros(1)})
    with pytest.raises(ValueError, match="`position` must have 2 values like the rest of group `candidates`"):
        encode_page(
            {f.name: np.zeros(2) if f.group == "candidates" else empty_page()[f.name] for f in FEATURES}
            | {"position": np.zeros(0)}
        )
    with pytest.raises(ValueError, match="`user` must have 1 values"):
        encode_page({**empty_page(), "user": np.zeros(2)})


def test_schema_is_the_one_that_datasets_on_disk_have():
    # A change here makes every dataset unreadable: that must be meant.
    assert SCHEMA_HASH == "64a058919fdb339d"
    assert HISTORIES == {"click": 1000, "pay": 1000, "cart": 200}
    assert {f.name for f in FEATURES if f.is_label} == {"clicked", "converted", "dwell"}
