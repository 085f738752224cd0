import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.metrics.auc import auc, group_auc, page_auc, placements
from models.metrics.bootstrap import bootstrap_counts, interval, resampled_sums
from models.metrics.calibration import calibration_curve, copc
from models.metrics.log_loss import log_loss
from models.metrics.pair_order import xauc


def auc_by_pairs(scores, clicked):
    positive, negative = scores[clicked][:, None], scores[~clicked][None]
    if not positive.size or not negative.size:
        return np.nan
    return np.mean((positive > negative) + 0.5 * (positive == negative))


def pages_by_pairs(scores, clicked, page):
    aucs = np.array([auc_by_pairs(scores[page == p], clicked[page == p]) for p in np.unique(page)])
    valid = ~np.isnan(aucs)
    return (aucs[valid].mean() if valid.any() else np.nan), valid.sum(), (~valid).sum()


@st.composite
def scored_pages(draw):
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    levels = draw(st.sampled_from([1, 3, 1000]))  # few levels: many ties
    return rng.integers(0, levels, n) / levels, rng.random(n) < draw(st.sampled_from([0.1, 0.5])), rng.integers(0, 6, n)


@settings(deadline=None)
@given(scored_pages())
def test_auc_counts_pairs(case):
    scores, clicked, _ = case
    np.testing.assert_allclose(auc(scores, clicked), auc_by_pairs(scores, clicked), rtol=1e-12)


@settings(deadline=None)
@given(scored_pages())
def test_page_auc_counts_pairs_page_by_page(case):
    mean, pages, of_one_class = pages_by_pairs(*case)
    result = page_auc(*case)
    np.testing.assert_allclose(result.gauc_page_mean, mean, rtol=1e-12)
    assert (result.pages, result.pages_of_one_class) == (pages, of_one_class)


@settings(deadline=None)
@given(scored_pages())
def test_increasing_transforms_change_nothing(case):
    scores, clicked, page = case
    transformed = np.exp(3 * scores) - 7
    np.testing.assert_equal(auc(transformed, clicked), auc(scores, clicked))
    assert page_auc(transformed, clicked, page) == pytest.approx(page_auc(scores, clicked, page), nan_ok=True)


@settings(deadline=None)
@given(scored_pages())
def test_a_constant_per_page_changes_no_page_auc(case):
    scores, clicked, page = case
    scores = np.round(scores * 1024) / 1024  # with whole numbers added, no rounding makes or breaks a tie
    shifted = scores + 17.0 * np.array([3, -2, 5, 0, 1, -8])[page]
    assert page_auc(shifted, clicked, page) == pytest.approx(page_auc(scores, clicked, page), nan_ok=True)


@settings(deadline=None)
@given(scored_pages(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(case, random):
    order = list(range(len(case[0])))
    random.shuffle(order)
    shuffled = [column[order] for column in case]
    assert page_auc(*shuffled) == pytest.approx(page_auc(*case), nan_ok=True)


@settings(deadline=None)
@given(scored_pages())
def test_one_page_is_the_auc(case):
    scores, clicked, _ = case
    assume(clicked.any() and not clicked.all())
    assert page_auc(scores, clicked, np.full(len(scores), 9)).gauc_page_mean == auc(scores, clicked)


def test_closed_forms():
    clicked = np.array([False, True, False, True])
    assert auc(np.array([0.1, 0.8, 0.2, 0.9]), clicked) == 1.0
    assert auc(np.array([0.9, 0.2, 0.8, 0.1]), clicked) == 0.0
    assert auc(np.zeros(4), clicked) == 0.5
    assert auc(np.array([0.1, 0.2, 0.3, 0.4]), clicked) == 0.75
    assert np.isnan(auc(np.arange(4.0), np.ones(4, bool)))
    assert np.isnan(auc(np.zeros(0), np.zeros(0, bool)))
    assert page_auc(np.zeros(0), np.zeros(0, bool), np.zeros(0, int)).pages == 0


def test_a_page_weighs_the_same_whatever_its_size():
    scores = np.r_[1.0, 0.0, np.zeros(100)]
    clicked = np.r_[True, False, True, np.zeros(99, bool)]
    page = np.r_[0, 0, np.full(100, 1)]
    assert page_auc(scores, clicked, page).gauc_page_mean == (1.0 + 0.5) / 2


def test_log_loss():
    assert log_loss(np.full(8, 0.5), np.arange(8) < 3) == pytest.approx(np.log(2), rel=1e-12)
    p, clicked = np.array([0.9, 0.2, 0.4]), np.array([True, False, True])
    assert log_loss(p, clicked) == pytest.approx(-(np.log(0.9) + np.log(0.8) + np.log(0.4)) / 3, rel=1e-12)
    assert log_loss(np.array([0.0]), np.array([True])) < 20  # certain and wrong: bad, not infinite
    assert np.isnan(log_loss(np.zeros(0), np.zeros(0, bool)))


def test_log_loss_of_what_sampling_left_is_that_of_all():
    clicked = np.arange(12) < 4
    p = np.where(clicked, 0.7, 0.2)
    left = np.arange(12) < 6  # a quarter of the unclicked
    assert log_loss(p[left], clicked[left], 0.25) == pytest.approx(log_loss(p, clicked), rel=1e-12)
    assert log_loss(p[left], clicked[left]) != pytest.approx(log_loss(p, clicked), rel=1e-2)
    assert np.isnan(log_loss(np.array([0.3]), np.array([True]), 0.0))


def test_errors():
    with pytest.raises(ValueError, match="vectors of the same length"):
        auc(np.zeros(3), np.zeros(2, bool))
    with pytest.raises(ValueError, match="NaN"):
        auc(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="must not be NaN"):
        log_loss(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="`group` must be of the same length"):
        group_auc(np.zeros(3), np.zeros(3, bool), np.zeros(2, int))


def test_a_large_report_is_one_sort():
    n = 400_000
    rng = np.random.default_rng(0)
    scores, clicked, page = rng.random(n).astype(np.float32), rng.random(n) < 0.1, rng.integers(0, n // 10, n)
    start = time.process_time()
    page_auc(scores, clicked, page)
    assert time.process_time() - start < 1.0


@settings(deadline=None)
@given(scored_pages())
def test_means_over_groups_name_their_weights(case):
    groups, sizes = np.unique(case[2], return_counts=True)
    result = group_auc(*case)
    np.testing.assert_array_equal(result.group, groups)
    np.testing.assert_array_equal(result.size, sizes)
    aucs = np.array([auc_by_pairs(case[0][case[2] == g], case[1][case[2] == g]) for g in groups])
    np.testing.assert_allclose(result.auc, aucs, rtol=1e-12)
    valid = ~np.isnan(aucs)
    assume(valid.any())
    assert result.mean() == pytest.approx(aucs[valid].mean())
    assert result.mean_by_impressions() == pytest.approx((aucs * sizes)[valid].sum() / sizes[valid].sum())


@settings(deadline=None)
@given(scored_pages())
def test_placements_are_shares_of_pairs_and_average_to_the_auc(case):
    scores, clicked, _ = case
    placed = placements(scores, clicked)
    if clicked.all() or not clicked.any():
        assert np.isnan(placed).all()
        return
    for n, (score, click) in enumerate(zip(scores, clicked, strict=True)):
        others = scores[clicked != click]
        wins = others < score if click else others > score
        assert placed[n] == pytest.approx(np.mean(wins + 0.5 * (others == score)))
    assert placed[clicked].mean() == pytest.approx(auc(scores, clicked))
    assert placed[~clicked].mean() == pytest.approx(auc(scores, clicked))


def curve_by_bins(p, clicked, weights, bins):
    """Bins by the middle of the ranks that a prediction takes."""
    rank = np.array([(p < x).sum() + (p == x).sum() / 2 for x in p])
    number = (rank * bins // len(p)).astype(int)
    chosen = [number == n for n in range(bins) if (number == n).any()]
    return [
        (np.average(p[c], weights=weights[c]), np.average(clicked[c], weights=weights[c]), c.sum(), clicked[c].sum())
        for c in chosen
    ]


@settings(deadline=None)
@given(scored_pages(), st.sampled_from([1, 4, 10]), st.sampled_from([1.0, 0.2]))
def test_calibration_curve_is_that_of_the_bins(case, bins, rate):
    p, clicked, _ = case
    curve = calibration_curve(p, clicked, rate, bins)
    expected = curve_by_bins(p, clicked, np.where(clicked, rate, 1.0), bins)
    np.testing.assert_allclose(np.transpose([*curve[:4]]), expected, rtol=1e-12)
    assert curve.weight.sum() == pytest.approx(1)
    distances = [abs(predicted - observed) for predicted, observed, *_ in expected]
    assert curve.ece() == pytest.approx(curve.weight @ distances)


def test_calibration_closed_forms():
    p, clicked = np.full(8, 0.25), np.arange(8) < 4
    assert copc(p, clicked) == 2.0
    assert calibration_curve(p, clicked).ece() == 0.25  # a constant is one bin
    assert len(calibration_curve(p, clicked).weight) == 1
    assert calibration_curve(np.arange(40) / 40, np.arange(40) % 2 == 0).candidates.tolist() == [4] * 10
    assert np.isnan(copc(np.zeros(2), np.zeros(2, bool)))
    assert np.isnan(calibration_curve(np.zeros(0), np.zeros(0, bool)).ece())


def test_calibration_of_what_sampling_left_is_that_of_all():
    clicked = np.arange(12) < 4
    p = np.where(clicked, 0.7, 0.2)
    left = np.arange(12) < 6  # a quarter of the unclicked
    assert copc(p[left], clicked[left], 0.25) == pytest.approx(copc(p, clicked))
    assert copc(p[left], clicked[left]) != pytest.approx(copc(p, clicked), rel=0.1)
    whole, sampled = calibration_curve(p, clicked, bins=1), calibration_curve(p[left], clicked[left], 0.25, bins=1)
    assert sampled.ece() == pytest.approx(whole.ece())
    assert sampled.observed == pytest.approx(whole.observed)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 25), st.sampled_from([2, 5, 1000]))
def test_xauc_counts_pairs(seed, n, levels):
    rng = np.random.default_rng(seed)
    predictions, labels = rng.integers(0, levels, n), rng.integers(0, levels, n).astype(float)
    higher = labels[:, None] > labels[None]
    ordered = (predictions[:, None] > predictions[None]) + 0.5 * (predictions[:, None] == predictions[None])
    expected = ordered[higher].mean() if higher.any() else np.nan
    np.testing.assert_allclose(xauc(predictions, labels), expected, rtol=1e-9, atol=1e-12)
    if levels == 2:
        np.testing.assert_allclose(xauc(predictions, labels), auc(predictions, labels > 0), rtol=1e-9, atol=1e-12)


def test_bootstrap_draws_as_many_as_there_are():
    counts = bootstrap_counts(50, samples=2000)
    assert counts.shape == (50, 2000)
    assert (counts.sum(axis=0) == 50).all()
    assert counts.mean(axis=1) == pytest.approx(np.ones(50), abs=0.1)
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.05)  # binomial
    np.testing.assert_array_equal(counts, bootstrap_counts(50, samples=2000))
    assert (counts != bootstrap_counts(50, seed=1, samples=2000)).any()


def test_resampled_sums_and_intervals():
    rng = np.random.default_rng(0)
    counts, values, units = bootstrap_counts(30, samples=40), rng.normal(size=(3, 20)), rng.permutation(30)[:20]
    sums = resampled_sums(values, counts, units)
    np.testing.assert_allclose(sums[:, 0], values.sum(axis=1))
    for sample in range(40):
        expected = sum(values[:, k] * counts[unit, sample] for k, unit in enumerate(units))
        np.testing.assert_allclose(sums[:, 1 + sample], expected, atol=1e-5)
    low, high = interval(np.stack([np.arange(1001.0), np.full(1001, np.nan), np.where(np.arange(1001) % 2, np.nan, 3)]))
    np.testing.assert_allclose(low, [25, np.nan, 3])
    np.testing.assert_allclose(high, [975, np.nan, 3])


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(size=(1, 2000))
    samples = resampled_sums(values, bootstrap_counts(2000), np.arange(2000))[:, 1:] / 2000
    low, high = interval(samples)
    half = 1.96 * values.std() / np.sqrt(2000)
    np.testing.assert_allclose([low[0], high[0]], values.mean() + np.array([-half, half]), atol=0.1 * half)
