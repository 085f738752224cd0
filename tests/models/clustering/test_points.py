import numpy as np
import pytest

from models.clustering.points import Points, Share


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)


def all_rows(points, share=None):
    return np.concatenate([points.rows_of(block, *([share] if share else [])) for block in points.blocks()])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("mapped", [True, False])
def test_reads_what_is_there(vectors, dtype, mapped, tmp_path):
    vectors = vectors.astype(dtype)
    np.save(tmp_path / "v.npy", vectors)
    source = np.load(tmp_path / "v.npy", mmap_mode="r") if mapped else vectors
    present = np.arange(1000) % 3 > 0
    points = Points(source, present, block_rows=64)
    read = np.concatenate([points.read(points.rows_of(block)) for block in points.blocks()])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, vectors[present].astype(np.float32))
    assert (points.count, points.rows, points.dim) == (present.sum(), 1000, 4)
    np.testing.assert_array_equal(points.read(np.array([3, 4, 900])), vectors[[3, 4, 900]].astype(np.float32))
    assert points.read(np.array([], int)).shape == (0, 4)


def test_normalising_keeps_zero_rows():
    read = Points(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), normalize=True).read(np.arange(2))
    np.testing.assert_allclose(read, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


@pytest.mark.parametrize("size", [1e-30, 1e-13, 1e19, 3e38])
def test_vectors_whose_squares_float32_does_not_hold(size):
    vectors = np.array([[size, size], [0, 0], [3, 4]], np.float32)
    read = Points(vectors, normalize=True).read(np.arange(3))
    np.testing.assert_allclose(read, [[0.5**0.5, 0.5**0.5], [0, 0], [0.6, 0.8]], rtol=1e-6)
    if size > 1:
        with pytest.raises(ValueError, match=r"vectors must be below 1e\+15: float32 holds no distances of row 0"):
            Points(vectors).largest()
    else:
        assert Points(vectors).largest() == 4


def test_samples_are_nested_disjoint_shares_and_of_the_size_asked_for(vectors):
    points = Points(vectors)
    small, large, rest = (all_rows(points, Share(*s)) for s in ((0, 0.1), (0, 0.4), (0.4, 1)))
    assert set(small) < set(large)
    assert not set(large) & set(rest)
    assert sorted([*large, *rest]) == list(range(1000))
    assert len(large) == pytest.approx(400, abs=60)
    np.testing.assert_array_equal(all_rows(Points(vectors, block_rows=7), Share(0, 0.1)), small)
    assert set(all_rows(points, Share(0, 0.1, seed=1))) != set(small)


def test_samples_are_not_a_stretch_of_the_file(vectors):
    rows = all_rows(Points(vectors), Share(0, 0.2))
    quarters = np.histogram(rows, bins=4, range=(0, 1000))[0]
    assert quarters.min() > 25


def test_sample_draws_without_repetition_whatever_the_blocks(vectors):
    present = np.arange(1000) % 2 == 0
    rows = Points(vectors, present).sample(50, seed=3)
    assert len(set(rows)) == 50
    assert present[rows].all()
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(Points(vectors, present, block_rows=11).sample(50, seed=3), rows)
    np.testing.assert_array_equal(Points(vectors, present).sample(500), np.flatnonzero(present))


def test_largest_names_the_row_that_is_not_finite(vectors):
    assert Points(vectors).largest() == np.abs(vectors).max()
    vectors[777, 2] = np.nan
    with pytest.raises(ValueError, match="Row 777 is not"):
        Points(vectors, block_rows=100).largest()
    present = np.arange(1000) != 777
    assert np.isfinite(Points(vectors, present).largest())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(3),), "`vectors` must have two axes"),
        ((np.zeros((3, 2)), np.ones(2, bool)), "`present` must have a flag per row"),
    ],
)
def test_wrong_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Points(*arguments)
    with pytest.raises(ValueError, match="`block_rows`"):
        Points(np.zeros((1, 1)), block_rows=0)
