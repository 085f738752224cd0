import itertools

import numpy as np
import pytest

from models.clustering.assignment import make_assigner
from models.clustering.kmeans import KMeans, assign_to_centers, growing_samples
from models.clustering.points import Points
from tests.models.planted import planted

ALL_PASSES = {"tolerance": 0.0, "max_passes": 200}


def passes(kmeans, points):
    seen = []
    return kmeans.fit(Points(points), on_pass=seen.append), seen


def over_all(seen, points):
    return [done for done in seen if done.points == len(points)]


@pytest.mark.parametrize("spread", [0.05, 0.6])
def test_exact_distance_never_rises(spread):
    points = planted(2000, 10, 6, spread=spread)
    result, seen = passes(KMeans(10, search="exact", seed=3, **ALL_PASSES), points)
    distances = [done.mean_squared_distance for done in over_all(seen, points)]
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(distances))
    assert result.mean_squared_distance == distances[-1]
    nearest = np.square(points[:, None].astype(np.float64) - result.centers).sum(axis=2)
    np.testing.assert_array_equal(result.ids, nearest.argmin(axis=1))
    np.testing.assert_allclose(result.mean_squared_distance, nearest.min(axis=1).mean(), rtol=1e-6)


def test_no_cluster_mixes_planted_ones():
    points = planted(2000, 10, 6)  # noise far below the distance of any two
    result = KMeans(40, search="exact", **ALL_PASSES).fit(Points(points))
    origin = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)  # as `planted` draws them
    of_point = np.square(points[:, None] - origin).sum(axis=2).argmin(axis=1)
    assert len(np.unique(of_point)) == 10
    assert all(len(np.unique(of_point[result.ids == c])) == 1 for c in range(40))


def test_centers_are_means_and_preserve_the_overall_mean():
    points = planted(700, 5, 4)
    result = KMeans(5, search="exact", **ALL_PASSES).fit(Points(points))
    counts = np.bincount(result.ids, minlength=5)
    assert counts.sum() == len(points)
    for c in range(5):
        np.testing.assert_allclose(result.centers[c], points[result.ids == c].mean(0), atol=1e-6)
    np.testing.assert_allclose(counts @ result.centers / len(points), points.mean(0), atol=1e-6)


def test_one_cluster_is_the_mean():
    points = planted(100, 3, 4)
    result = KMeans(1, search="exact").fit(Points(points))
    np.testing.assert_allclose(result.centers[0], points.mean(0), atol=1e-6)
    np.testing.assert_allclose(result.mean_squared_distance, points.var(0).sum(), rtol=1e-5)


@pytest.mark.parametrize("search", ["scann", "cells"])
def test_searches_that_compare_with_all_centers_give_the_exact_result(search):
    points = Points(planted(3000, 20, 8))
    exact, other = (KMeans(20, search=s, seed=1).fit(points) for s in ("exact", search))
    np.testing.assert_array_equal(exact.ids, other.ids)
    np.testing.assert_array_equal(exact.centers, other.centers)


@pytest.mark.parametrize("search", ["scann", "cells"])
def test_within_a_percent_of_exact_where_search_is_not_exhaustive(search):
    points = planted(20_000, 400, 16, spread=0.4)
    clusters = 10_000 if search == "scann" else 5000
    exact, other = (
        KMeans(clusters, search=s, max_passes=3).fit(Points(points)).mean_squared_distance for s in ("exact", search)
    )
    assert other <= 1.01 * exact


@pytest.mark.parametrize("schedule", ["passes", "single_pass"])
@pytest.mark.parametrize("search", ["exact", "cells"])
def test_blocks_workers_and_reruns_do_not_change_the_result(schedule, search):
    points = planted(4000, 8, 5, spread=0.3)
    ways = [{"block_rows": 4000}, {"block_rows": 700}, {"block_rows": 700, "workers": 3}, {"block_rows": 4000}]
    results = []
    for way in ways:
        kmeans = KMeans(9, search=search, schedule=schedule, seed=2, workers=way.get("workers", 1))
        results.append(kmeans.fit(Points(points, block_rows=way["block_rows"])))
    for other in results[1:]:
        np.testing.assert_array_equal(other.ids, results[0].ids)
        np.testing.assert_array_equal(other.centers, results[0].centers)


def test_seeds_give_different_starts():
    points = planted(1000, 8, 5, spread=0.5)
    first, second = (KMeans(20, seed=s).fit(Points(points)).centers for s in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("schedule", ["passes", "single_pass"])
def test_going_on_from_any_pass_ends_alike(schedule):
    points = Points(planted(3000, 10, 4, spread=0.5))
    kmeans = KMeans(25, search="exact", schedule=schedule, max_passes=6, tolerance=0.0, seed=5)
    states, seen = [], []
    whole = kmeans.fit(points, on_state=states.append, on_pass=seen.append)
    assert len(states) == len(seen) - 1 >= 3
    # A state shares its IDs with the run that made it; a checkpoint on disk does not.
    states = []
    kmeans.fit(points, on_state=lambda state: states.append(state._replace(ids=state.ids.copy())))
    for state in states:
        later = []
        other = kmeans.fit(points, state=state, on_pass=later.append)
        np.testing.assert_array_equal(other.ids, whole.ids)
        np.testing.assert_array_equal(other.centers, whole.centers)
        assert [done[:6] for done in later] == [done[:6] for done in seen[state.number :]]


def test_clusters_emptied_by_equal_points_are_split():
    # 90 copies of one point: of the random start, most centers coincide and all but one of those lose every point.
    points = np.concatenate([np.zeros((90, 2)), planted(60, 6, 2, spread=0.2)]).astype(np.float32)
    result, seen = passes(KMeans(12, search="exact", **ALL_PASSES), points)
    assert seen[0].empty > 0
    assert seen[-1].empty < seen[0].empty
    assert np.isfinite(result.centers).all()
    assert result.empty == 12 - len(np.unique(result.ids))


@pytest.mark.parametrize("schedule", ["passes", "single_pass"])
def test_no_cluster_is_left_empty(schedule):
    points = planted(5000, 40, 8, spread=0.4)
    result = KMeans(100, schedule=schedule).fit(Points(points))
    assert result.empty == 0
    assert set(result.ids) == set(range(100))


def test_growing_samples_start_small_double_and_leave_the_passes_most_of_the_work():
    shares = growing_samples(4000, 5, 0, disjoint=False)
    assert [share.high * 4000 for share in shares] == pytest.approx([160, 320, 640, 1280])
    assert growing_samples(300, 5, 0, disjoint=False) == []


def test_single_pass_samples_hold_every_point_once():
    shares = growing_samples(4000, 5, 0, disjoint=True)
    assert shares[0].low == 0
    assert shares[-1].high == 1
    assert all(a.high == b.low for a, b in itertools.pairwise(shares))
    sizes = [share.high - share.low for share in shares]
    assert [b / a for a, b in itertools.pairwise(sizes)] == pytest.approx([2] * (len(sizes) - 1))
    assert 8 * 5 <= sizes[0] * 4000 < 2 * 8 * 5 + 5
    assert growing_samples(6, 5, 9, disjoint=True) == [(0.0, 1.0, 9)]


def test_single_pass_reads_each_point_twice_and_comes_near_to_k_means():
    points = planted(20_000, 50, 8, spread=0.3)
    single, seen = passes(KMeans(60, search="cells", schedule="single_pass", seed=1), points)
    assert sum(done.points for done in seen[:-1]) == len(points)
    assert seen[-1].points == len(points)
    full = KMeans(60, search="cells", seed=1).fit(Points(points))
    assert single.mean_squared_distance <= 1.1 * full.mean_squared_distance


def test_threshold_zero_gives_means_and_more_makes_small_coordinates_zero():
    # One cluster, one sample, then the assigning pass: the center is the thresholded mean.
    points = np.array([[1.0, 0.02, -0.5]] * 6, np.float32) + planted(6, 1, 3, spread=0.001) * 0.0
    for threshold, expected in ((0.0, [1.0, 0.02, -0.5]), (0.1, [0.9, 0.0, -0.4])):
        result = KMeans(1, schedule="single_pass", threshold=threshold).fit(Points(points))
        np.testing.assert_allclose(result.centers[0], expected, atol=1e-6)


def test_planted_sparse_centers_are_recovered_better_with_a_threshold():
    rng = np.random.default_rng(0)
    centers = np.zeros((4, 50), np.float32)
    for c in range(4):
        centers[c, rng.choice(50, 3, replace=False)] = 3
    points = (centers[rng.integers(4, size=400)] + rng.normal(size=(400, 50))).astype(np.float32)

    def error(threshold):
        found = KMeans(4, schedule="single_pass", threshold=threshold, seed=1).fit(Points(points)).centers
        return np.square(found[:, None] - centers).sum(axis=2).min(axis=0).sum()

    assert error(0.3) < error(0.0)


def test_spherical_centers_have_unit_length():
    points = Points(planted(500, 6, 5), normalize=True)
    for spherical in (True, False):
        lengths = np.linalg.norm(KMeans(8, spherical=spherical).fit(points).centers, axis=1)
        assert np.allclose(lengths, 1, atol=1e-6) == spherical


@pytest.mark.parametrize("search", ["scann", "cells", "exact"])
def test_assigning_the_points_again_gives_the_same_ids(search):
    points = Points(planted(20_000, 60, 8, spread=0.4))
    result = KMeans(4500 if search == "cells" else 100, search=search, max_passes=3).fit(points)
    again = assign_to_centers(points, result.centers, search=search)
    np.testing.assert_array_equal(again.ids, result.ids)
    assert again.mean_squared_distance == result.mean_squared_distance
    np.testing.assert_array_equal(
        make_assigner(search, result.centers).assign(points.read(np.arange(9))), again.ids[:9]
    )


def test_rows_that_take_no_part_have_no_cluster_and_no_influence():
    points = planted(400, 6, 4)
    present = np.arange(400) % 4 > 0
    first = KMeans(6).fit(Points(points, present))
    points[~present] = np.nan
    second = KMeans(6).fit(Points(points, present))
    assert (first.ids[~present] == -1).all()
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.centers, second.centers)


@pytest.mark.parametrize(
    ("points", "clusters", "message"),
    [
        (np.zeros((3, 2), np.float32), 4, "only 3 points"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]], np.float32), 1, "Row 1 is not"),
    ],
)
def test_bad_points_are_refused(points, clusters, message):
    with pytest.raises(ValueError, match=message):
        KMeans(clusters, search="exact").fit(Points(points))


def test_centers_of_another_length_are_refused():
    with pytest.raises(ValueError, match="`centers` must have the 2 dimensions"):
        assign_to_centers(Points(np.zeros((3, 2), np.float32)), np.zeros((4, 3), np.float32))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_clusters": 0}, "num_clusters"),
        ({"max_passes": 0}, "max_passes"),
        ({"schedule": "twice"}, "schedule"),
        ({"threshold": -1.0}, "threshold"),
    ],
)
def test_impossible_arguments_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        KMeans(**{"num_clusters": 2, **arguments})
