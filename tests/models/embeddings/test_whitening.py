import dataclasses
import functools

import numpy as np
import pytest

from models.embeddings.whitening import Moments, Whitening

VARIANCES = np.array([40.0, 15.0, 6.0, 2.0, 0.5, 0.02])


def correlated(n=3000, seed=0, offset=50.0):
    """Vectors with known, well separated variances, in directions of no axis and far from the origin."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    return (rng.normal(size=(n, 6)) * np.sqrt(VARIANCES) @ rotation.T + offset).astype(np.float32)


def blocks(vectors, rows):
    return [vectors[start : start + rows] for start in range(0, len(vectors), rows)]


def distances(vectors):
    vectors = vectors.astype(np.float64)
    return np.linalg.norm(vectors[:, None] - vectors, axis=-1)


@pytest.mark.parametrize("rows", [1, 7, 500, 10_000])
@pytest.mark.parametrize("offset", [0.0, 50.0, 1e4])
def test_streamed_moments_are_those_of_numpy(rows, offset):
    vectors = correlated(1000, offset=offset)
    moments = functools.reduce(Moments.merge, map(Moments.of, blocks(vectors, rows)))
    assert moments.count == 1000
    np.testing.assert_allclose(moments.mean, vectors.mean(axis=0, dtype=np.float64), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.covariance(), np.cov(vectors.astype(np.float64).T), rtol=1e-9, atol=1e-9)


def test_moments_of_parts_merge_in_any_order_and_empty_ones_change_nothing():
    parts = [Moments.of(block) for block in blocks(correlated(1000), 130)]
    nothing = Moments.of(np.zeros((0, 6), np.float32))
    whole = functools.reduce(Moments.merge, parts)
    tree = [functools.reduce(Moments.merge, half) for half in (parts[4:], [nothing, *parts[:4][::-1], nothing])]
    for other in (functools.reduce(Moments.merge, parts[::-1]), tree[0].merge(tree[1])):
        for field in dataclasses.fields(Moments):
            np.testing.assert_allclose(getattr(other, field.name), getattr(whole, field.name), rtol=1e-10, atol=1e-9)
    assert nothing.merge(nothing).count == 0


def test_mean_is_zero_and_covariance_the_identity():
    vectors = correlated()
    whitened = Whitening.fit(blocks(vectors, 700)).transform(vectors)
    assert whitened.dtype == np.float32
    whitened = whitened.astype(np.float64)
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(6), atol=1e-6)
    # Before rounding to float32 it is exact.
    whitening = Whitening.fit([vectors])
    exact = (vectors.astype(np.float64) - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(np.cov(exact.T), np.eye(6), atol=1e-10)


def test_two_points_on_a_line_become_plus_and_minus_half_the_square_root_of_two():
    # Their distance is sqrt(2) for any two points: the unbiased variance of two values is half their squared distance.
    whitened = Whitening.fit([np.array([[1.0, 5.0], [3.0, 5.0]])]).transform(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(np.sort(whitened[:, 0]), [-(0.5**0.5), 0.5**0.5], rtol=1e-6)
    assert whitened.shape == (2, 1)


@pytest.mark.parametrize("rows", [1, 17, 999, 3000])
def test_block_size_does_not_change_the_result(rows):
    vectors = correlated()
    expected = Whitening.fit([vectors])
    whitening = Whitening.fit(blocks(vectors, rows))
    np.testing.assert_allclose(whitening.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(whitening.projection, expected.projection, rtol=1e-8, atol=1e-9)
    parts = np.concatenate([whitening.transform(block) for block in blocks(vectors, rows)])
    np.testing.assert_allclose(parts, expected.transform(vectors), rtol=1e-5, atol=1e-6)


def test_distances_do_not_depend_on_affine_maps_of_the_input():
    vectors = correlated(200).astype(np.float64)
    rng = np.random.default_rng(5)
    left, right = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))
    mapped = vectors @ (left * rng.uniform(0.3, 3.0, 6) @ right) + rng.normal(size=6) * 10
    expected, found = (distances(Whitening.fit([x]).transform(x)) for x in (vectors, mapped))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(distances(mapped) - distances(vectors)).max() > 1


def test_components_are_the_directions_of_largest_variance_first_and_truncation_keeps_the_first():
    vectors = correlated(20_000)
    full = Whitening.fit([vectors])
    np.testing.assert_allclose(np.linalg.norm(full.projection, axis=0) ** -2, VARIANCES, rtol=0.05)
    for dim in range(1, 7):
        whitening = Whitening.fit([vectors], dim=dim)
        assert whitening.dim == dim
        np.testing.assert_array_equal(whitening.projection, full.projection[:, :dim])
        np.testing.assert_allclose(whitening.transform(vectors[:9]), full.transform(vectors[:9])[:, :dim], rtol=1e-6)


def test_l2_scales_to_unit_length_after_whitening():
    vectors = correlated()
    plain, unit = (Whitening.fit([vectors], dim=4, l2=l2).transform(vectors) for l2 in (False, True))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_directions_that_do_not_vary_are_left_out(dtype):
    rng = np.random.default_rng(2)
    vectors = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 8)) + 1).astype(dtype)
    whitening = Whitening.fit([vectors])
    assert whitening.dim == 3
    whitened = whitening.transform(vectors)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(3), atol=1e-5)
    assert np.abs(whitening.transform(rng.normal(size=(100, 8)))).max() < 100
    assert Whitening.fit([vectors], dim=3).dim == 3
    with pytest.raises(ValueError, match=r"`dim` must be at most 3: so many of the 8 directions.*Received: 4"):
        Whitening.fit([vectors], dim=4)


def test_fewer_vectors_than_dimensions():
    vectors = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    whitening = Whitening.fit([vectors])
    assert whitening.dim == 4
    # All of them are equally far apart then.
    apart = distances(whitening.transform(vectors))[~np.eye(5, dtype=bool)]
    np.testing.assert_allclose(apart, apart[0], rtol=1e-5)


def test_unseen_vectors_are_mapped_as_the_fitted_ones():
    vectors, unseen = correlated(), correlated(40, seed=9)
    whitening = Whitening.fit([vectors])
    covariance = np.cov(vectors.astype(np.float64).T)
    centred = unseen.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    mahalanobis = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(covariance), centred)
    np.testing.assert_allclose(np.square(whitening.transform(unseen)).sum(axis=1), mahalanobis, rtol=1e-4)


@pytest.mark.parametrize("l2", [False, True])
def test_saved_and_loaded_it_maps_alike_and_equal_maps_are_equal_files(tmp_path, l2):
    vectors = correlated()
    whitening = Whitening.fit([vectors], dim=3, l2=l2)
    whitening.save(tmp_path / "a.npz")
    again = Whitening.load(tmp_path / "a.npz")
    assert (again.dim, again.l2, again.count) == (3, l2, 3000)
    np.testing.assert_array_equal(again.transform(vectors), whitening.transform(vectors))
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_what_is_no_whitening_is_not_loaded(tmp_path):
    np.savez(tmp_path / "other.npz", a=1)
    (tmp_path / "text.npz").write_text("text")
    for name in ("other.npz", "text.npz"):
        with pytest.raises(ValueError, match=name):
            Whitening.load(tmp_path / name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(bad):
    vectors = correlated(100)
    vectors[73, 2] = bad
    with pytest.raises(ValueError, match="Row 73 is not"):
        Whitening.fit(blocks(vectors, 30))


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        ([], {}, "Received: none"),
        ([np.ones((1, 3))], {}, "at least two vectors. Received: 1"),
        ([np.ones((4, 3))], {}, "Received: 4 equal ones"),
        ([np.full((10_001, 3), 0.1)] * 3, {}, "Received: 30003 equal ones"),
        ([correlated(10)], {"dim": 0}, "`dim` must be at least 1. Received: 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(vectors, options, message):
    with pytest.raises(ValueError, match=message):
        Whitening.fit(vectors, **options)


def test_vectors_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"shape `\(n, 6\)`. Received: \(2, 5\)"):
        Whitening.fit([correlated(10)]).transform(np.zeros((2, 5)))
