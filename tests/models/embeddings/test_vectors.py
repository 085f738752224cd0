import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError
from models.embeddings.vectors import check_finite, create_vectors, l2_normalize, write_vectors


def test_half_precision_vectors_get_unit_length_even_if_their_squares_overflow():
    unit = l2_normalize(np.array([[600, 800], [3e-4, 4e-4], [0, 0]], np.float16))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-3)


@pytest.mark.parametrize("size", [1e-45, 1e-30, 1e-13, 1e-11, 1e17, 1e19, 3e38])
def test_vectors_of_any_length_become_unit_vectors(size):
    unit = l2_normalize(np.array([[size, 0, -size], [0, 0, 0], [3, 4, 0]], np.float32))
    np.testing.assert_allclose(unit, [[0.5**0.5, 0, -(0.5**0.5)], [0, 0, 0], [0.6, 0.8, 0]], rtol=1e-6)


def test_the_item_of_a_vector_that_is_not_finite_is_named():
    vectors = np.array([[1, 2], [3, np.inf], [np.nan, 0]])
    check_finite(vectors[:1], np.array([12]), "`embeddings`")
    with pytest.raises(ArtifactError, match="`embeddings`: the vector of item row 7 is not finite"):
        check_finite(vectors, np.array([12, 7, 9]), "`embeddings`")


@pytest.mark.parametrize("dtype", [np.dtype("float32"), np.dtype("float16")])
def test_files_in_parts_are_those_that_numpy_writes_at_once(tmp_path, dtype):
    vectors = np.random.default_rng(0).normal(size=(10, 4)).astype(dtype)
    np.save(tmp_path / "whole.npy", vectors)
    write_vectors(tmp_path / "blocks.npy", (10, 4), dtype, [vectors[:7], vectors[7:]])
    create_vectors(tmp_path / "mapped.npy", (10, 4), dtype)
    assert not np.load(tmp_path / "mapped.npy").any()
    np.load(tmp_path / "mapped.npy", mmap_mode="r+")[:] = vectors
    for name in ("blocks.npy", "mapped.npy"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole.npy").read_bytes()
