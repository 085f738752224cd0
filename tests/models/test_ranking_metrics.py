import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.metrics.auc import auc, page_auc
from models.metrics.log_loss import log_loss


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


def test_a_large_report_is_one_sort():
    n = 400_000
    rng = np.random.default_rng(0)
    scores, clicked, page = rng.random(n).astype(np.float32), rng.random(n) < 0.1, rng.integers(0, n // 10, n)
    start = time.process_time()
    page_auc(scores, clicked, page)
    assert time.process_time() - start < 1.0
