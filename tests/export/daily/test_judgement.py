import pytest

from export.daily.bounds import DayBounds
from export.daily.judgement import slice_differences, whats_worse

BOUNDS = DayBounds(max_gauc_loss=0.01, max_log_loss_rise=0.02, min_slice_pages=50)
SAME = (0.0, -0.02, 0.02)


def side(value, ends=None):
    metrics = dict.fromkeys(("gauc_page_mean", "auc", "log_loss", "copc"), value)
    if ends is None:
        return metrics
    differs = dict(zip(("difference", "low", "high"), ends, strict=True))
    return {**metrics, "differences": {name: dict(differs) for name in metrics}}


def report(gauc=SAME, log_loss=(0.0, -0.001, 0.001), slices=()):
    """A report on both, with slices of (value, pages, difference, low, high)."""
    candidate = side(0.6, gauc)
    candidate["differences"]["log_loss"] = dict(zip(("difference", "low", "high"), log_loss, strict=True))
    kinds = [
        {"value": value, "pages": pages, "systems": {"served": side(0.6), "candidate": side(0.6, ends)}}
        for value, pages, *ends in slices
    ]
    systems = {"served": {"all": side(0.6)}, "candidate": {"all": candidate}}
    return {"systems": systems, "slices": {"category": kinds}}


@pytest.mark.parametrize(
    ("measured", "worse"),
    [
        (report(), 0),
        (report(gauc=(-0.02, -0.03, -0.001)), 1),
        (report(gauc=(-0.02, -0.05, 0.001)), 0),  # it may be chance
        (report(gauc=(-0.009, -0.012, -0.006)), 0),  # it is within the bound
        (report(slices=[("rings", 50, -0.02, -0.03, -0.009)]), 0),  # of many slices, one may lose by chance
        (report(gauc=(0.02, 0.01, 0.03)), 0),
        (report(slices=[("rings", 50, -0.05, -0.08, -0.02)]), 1),
        (report(slices=[("rings", 49, -0.05, -0.08, -0.02)]), 0),  # too few pages to say
        (report(slices=[("rings", 50, None, None, None)]), 0),
        (report(log_loss=(0.02, 0.011, 0.03)), 0),  # 2 % of 0.6 is 0.012
        (report(log_loss=(0.02, 0.0121, 0.03)), 1),
    ],
)
def test_worse_is_what_is_surely_beyond_the_bound(measured, worse):
    assert len(whats_worse(measured, BOUNDS)) == worse


def test_the_largest_loss_comes_first():
    measured = report(slices=[("a", 60, 0.01, 0.0, 0.02), ("b", 70, -0.03, -0.05, 0.0), ("c", 1, -0.9, -1.0, -0.8)])
    assert [each["value"] for each in slice_differences(measured, BOUNDS)] == ["b", "a"]
