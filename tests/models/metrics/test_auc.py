import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.metrics.auc import auc, group_auc, page_auc, placements
from tests.models.metrics.page_cases import auc_by_pairs, scored_pages


def pages_by_pairs(scores, clicked, page):
    aucs = np.array([auc_by_pairs(scores[page == p], clicked[page == p]) for p in np.unique(page)])
    valid = ~np.isnan(aucs)
    return (aucs[valid].mean() if valid.any() else np.nan), valid.sum(), (~valid).sum()


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


def test_errors():
    with pytest.raises(ValueError, match="vectors of the same length"):
        auc(np.zeros(3), np.zeros(2, bool))
    with pytest.raises(ValueError, match="NaN"):
        auc(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="`group` must be of the same length"):
        group_auc(np.zeros(3), np.zeros(3, bool), np.zeros(2, int))
