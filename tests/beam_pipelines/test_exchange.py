import pickle

import numpy as np
import pyarrow as pa
import pytest

from beam_pipelines.exchange import BLOCK_BYTES, Blocks, ScratchFiles

ROWS = pa.record_batch({"text": [f"{n}" * 100 for n in range(1000)], "number": np.random.default_rng(0).random(1000)})


@pytest.fixture(params=["scratch files", "blocks"])
def exchange(request, tmp_path):
    if request.param == "blocks":
        return Blocks()
    files = ScratchFiles(tmp_path / "scratch")
    files.open()
    return files


def test_what_is_written_is_read_by_another_worker(exchange):
    data = np.random.default_rng(0).bytes(2 * BLOCK_BYTES)
    with exchange.writer() as writer:
        rows = list(exchange.write_batch(writer, ROWS))
        whole = list(exchange.write_bytes(writer, data))
    other = pickle.loads(pickle.dumps(exchange))
    assert other.read_table(ROWS.schema, rows).equals(pa.Table.from_batches([ROWS]))
    assert other.read_table(ROWS.schema, []).num_rows == 0
    assert bytes(other.read_bytes(reversed(whole))) == data
    exchange.close()


def test_no_block_is_larger_than_engines_take(monkeypatch):
    blocks = Blocks()
    pieces = [piece for _, piece in blocks.write_bytes(blocks.writer(), np.random.default_rng(0).bytes(9 << 20))]
    assert len(pieces) == 3
    assert max(map(len, pieces)) <= BLOCK_BYTES == 4 << 20
    monkeypatch.setattr(Blocks, "piece_bytes", 3000)
    pieces = list(blocks.write_batch(blocks.writer(), ROWS))
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= 3000


def test_scratch_files_tell_what_is_done_and_vanish(tmp_path):
    files = ScratchFiles(tmp_path / "scratch")
    files.open()
    pickle.loads(pickle.dumps(files)).report()
    assert files.steps_done() == 1
    files.close()
    assert list(tmp_path.iterdir()) == []
