import struct

import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.tfrecord import read_records, write_records

RECORDS = [b"", b"one", bytes(300), b"x"]


def written(path, records=RECORDS):
    with open(path, "wb") as file:
        for record in records:
            write_records(file, [record])
    return path


def test_records_come_back_as_tensorflow_writes_and_reads_them(tmp_path):
    assert list(read_records(written(tmp_path / "ours"))) == RECORDS
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    assert list(read_records(tmp_path / "theirs")) == RECORDS
    assert list(read_records(written(tmp_path / "none", []))) == []


def test_every_damaged_byte_and_every_cut_is_noticed(tmp_path):
    content = written(tmp_path / "whole", RECORDS[:2]).read_bytes()
    ends = (0, 16, len(content))
    damaged = tmp_path / "damaged"
    for place in range(len(content)):
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(ArtifactError, match=f"damaged is damaged at byte {0 if place < 16 else 16}"):
            list(read_records(damaged))
        if place not in ends:
            damaged.write_bytes(content[:place])
            with pytest.raises(ArtifactError, match="damaged at byte"):
                list(read_records(damaged))
    damaged.write_bytes(struct.pack("<Q", 2**63) + content[8:])
    with pytest.raises(ArtifactError, match="damaged at byte 0"):
        list(read_records(damaged))
