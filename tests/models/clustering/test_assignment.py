import numpy as np
import pytest

from models.clustering.assignment import ExactAssigner, ScannAssigner, make_assigner
from models.clustering.cell_assigner import CellAssigner
from tests.models.planted import planted

ASSIGNERS = [ExactAssigner, ScannAssigner, CellAssigner]


def nearest_by_loop(points, centers):
    return [min(range(len(centers)), key=lambda c: float(((p - centers[c]) ** 2).sum())) for p in points]


def distances(points, centers, ids):
    return np.square(points - centers[ids], dtype=np.float64).sum()


@pytest.mark.parametrize("assigner", ASSIGNERS)
@pytest.mark.parametrize(("n", "clusters", "dim"), [(1, 1, 2), (50, 7, 3), (200, 40, 16)])
def test_assigns_to_the_nearest_center(assigner, n, clusters, dim):
    rng = np.random.default_rng(n)
    points = rng.normal(size=(n, dim)).astype(np.float32)
    centers = rng.normal(size=(clusters, dim)).astype(np.float32)
    ids = assigner(centers).assign(points)
    assert ids.dtype == np.int32
    assert ids.tolist() == nearest_by_loop(points, centers)


@pytest.mark.parametrize("assigner", ASSIGNERS)
def test_no_points_get_no_centers(assigner):
    ids = assigner(np.eye(3, dtype=np.float32)).assign(np.zeros((0, 3), np.float32))
    assert ids.shape == (0,)
    assert ids.dtype == np.int32


def test_tiles_do_not_change_the_exact_assignment(monkeypatch):
    points, centers = planted(500, 30, 8), planted(30, 30, 8, seed=1)
    whole = ExactAssigner(centers).assign(points)
    monkeypatch.setattr(ExactAssigner, "_TILE_POINTS", 37)
    monkeypatch.setattr(ExactAssigner, "_TILE_CENTERS", 11)
    np.testing.assert_array_equal(ExactAssigner(centers).assign(points), whole)


@pytest.mark.parametrize("assigner", [ExactAssigner, CellAssigner])
def test_of_equal_centers_the_lower_id_wins(assigner, monkeypatch):
    monkeypatch.setattr(ExactAssigner, "_TILE_CENTERS", 2)
    centers = np.array([[5, 5], [1, 0], [1, 0], [1, 0]], np.float32)
    assert assigner(centers).assign(np.array([[1.0, 0.1]], np.float32)).tolist() == [1]


@pytest.mark.parametrize("assigner", [ScannAssigner, CellAssigner])
def test_large_indices_are_close_to_exact(assigner):
    sample = planted(14_000, 300, 16, spread=0.2)
    points, centers = sample[:2000], sample[2000:]  # 12,000 centers: both are beyond their exhaustive search
    exact, found = (a(centers).assign(points) for a in (ExactAssigner, assigner))
    assert np.mean(exact == found) > 0.99
    assert distances(points, centers, found) <= 1.001 * distances(points, centers, exact)


def test_more_probes_find_more_and_all_cells_everything():
    sample = planted(6000, 40, 24, spread=1.0)
    points, centers = sample[:1000], sample[1000:]
    exact = ExactAssigner(centers).assign(points)
    recall = [np.mean(CellAssigner(centers, probes).assign(points) == exact) for probes in (1, 4, 16)]
    assert recall == sorted(recall)
    assert recall[0] < recall[2]
    everything = CellAssigner(centers, probes=10**6, variance=1.0).assign(points)
    np.testing.assert_array_equal(everything, exact)


def test_points_that_moved_a_little_are_found_again():
    sample = planted(9000, 100, 16, spread=0.3)
    points, centers = sample[:3000], sample[3000:]
    assigner = CellAssigner(centers)
    exact = ExactAssigner(centers).assign(points)
    moved = CellAssigner(centers + planted(6000, 1, 16, spread=0.05, of=1) * 0.02)
    again = assigner.reassign(points, moved.assign(points))
    assert np.mean(again == exact) > 0.99
    assert distances(points, centers, again) <= 1.001 * distances(points, centers, exact)


def test_a_far_center_is_left_for_a_nearer_one():
    sample = planted(5000, 50, 8, spread=0.4)
    points, centers = sample[:500], sample[500:]
    assigner = CellAssigner(centers, variance=1.0)
    before = np.random.default_rng(0).integers(len(centers), size=500)
    after = assigner.reassign(points, before)
    own, new = (np.square(points - centers[ids]).sum(axis=1) for ids in (before, after))
    assert (new <= own + 1e-4).all()
    assert new.mean() < own.mean()


@pytest.mark.parametrize("assigner", [ExactAssigner, ScannAssigner])
def test_other_searches_search_in_full_again(assigner):
    points, centers = planted(300, 20, 8), planted(20, 20, 8, seed=1)
    found = assigner(centers)
    np.testing.assert_array_equal(found.reassign(points, np.zeros(300, np.int32)), found.assign(points))


def test_equal_centers_do_not_break_the_cells():
    centers = np.concatenate([np.zeros((5000, 4)), planted(100, 10, 4)]).astype(np.float32)
    points = planted(50, 10, 4)
    exact, cells = (a(centers).assign(points) for a in (ExactAssigner, CellAssigner))
    np.testing.assert_allclose(distances(points, centers, cells), distances(points, centers, exact), rtol=1e-5)


@pytest.mark.parametrize(("arguments", "name"), [({"probes": 0}, "probes"), ({"variance": 0.0}, "variance")])
def test_impossible_arguments_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        CellAssigner(np.eye(3, dtype=np.float32), **arguments)


def test_every_search_has_an_assigner():
    for search in ("scann", "cells", "exact"):
        assert make_assigner(search, np.eye(2, dtype=np.float32)).assign(np.eye(2, dtype=np.float32)).tolist() == [0, 1]
