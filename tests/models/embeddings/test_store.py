import numpy as np
import pytest

from beam_pipelines.shell.command import CommandError
from models.embeddings.store import check_finite, l2_normalize, read_blocks


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [1, 3, 10, 11])
def test_blocks_are_the_file(tmp_path, dtype, rows):
    vectors = np.random.default_rng(0).normal(size=(10, 4)).astype(dtype)
    np.save(tmp_path / "embeddings.npy", vectors)
    blocks = list(read_blocks(tmp_path, rows))
    assert [start for start, _ in blocks] == list(range(0, 10, rows))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), vectors)
    assert all(block.dtype == vectors.dtype for _, block in blocks)


def test_half_precision_vectors_get_unit_length_even_if_their_squares_overflow():
    unit = l2_normalize(np.array([[600, 800], [3e-4, 4e-4], [0, 0]], np.float16))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-3)


def test_the_item_of_a_vector_that_is_not_finite_is_named():
    vectors = np.array([[1, 2], [3, np.inf], [np.nan, 0]])
    check_finite(vectors[:1], np.array([12]), "--embeddings")
    with pytest.raises(CommandError, match="--embeddings: the vector of item row 7 is not finite"):
        check_finite(vectors, np.array([12, 7, 9]), "--embeddings")
