"""Compares a candidate with the version that serves, on pages that neither has learned on."""

from collections.abc import Mapping
from typing import Any

from export.daily.bounds import DayBounds

CANDIDATE, SERVED = "candidate", "served"

_METRICS = ("gauc_page_mean", "auc", "log_loss", "copc")
_GAUC = "gauc_page_mean"


def measured(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The metrics of a ranker over all pages, and their `intervals`.

    Args:
        report: of `models.evaluate`.
        name: `CANDIDATE` or `SERVED`.
    """
    every = report["systems"][name]["all"]
    return {
        **{metric: every[metric] for metric in _METRICS},
        "intervals": {metric: every["intervals"][metric] for metric in _METRICS},
    }


def difference(report: Mapping[str, Any]) -> dict[str, Any]:
    """The candidate less what serves: `difference`, `low` and `high` by metric."""
    every = report["systems"][CANDIDATE]["all"]["differences"]
    return {metric: every[metric] for metric in _METRICS}


def slice_differences(report: Mapping[str, Any], bounds: DayBounds) -> list[dict[str, Any]]:
    """GAUC by kind of candidate: those with enough pages, the largest loss first.

    Returns:
        `title`, `value`, `pages`, the GAUC of `candidate` and `served`, `difference`, `low` and `high`.
    """
    found = []
    for title, values in report["slices"].items():
        for each in values:
            systems = each["systems"]
            differs = systems[CANDIDATE]["differences"][_GAUC]
            if each["pages"] < bounds.min_slice_pages or differs["low"] is None:
                continue
            sides = {name: systems[name][_GAUC] for name in (CANDIDATE, SERVED)}
            found.append({"title": title, "value": each["value"], "pages": each["pages"], **sides, **differs})
    return sorted(found, key=lambda each: each["difference"])


def whats_worse(report: Mapping[str, Any], bounds: DayBounds) -> list[str]:
    """Says where a candidate is worse than what serves, beyond the bounds.

    Args:
        report: of both, what serves first.
        bounds: the bounds.

    Returns:
        A line for each bound that is broken; none for a candidate to publish.
    """
    worse = []
    every = report["systems"][CANDIDATE]["all"]["differences"]
    overall = {"title": "all", "value": "pages", **every[_GAUC]}
    for each in [overall, *slice_differences(report, bounds)]:
        # Of dozens of slices, some lose by chance what one figure hardly does.
        sure = 0.0 if each is overall else -bounds.max_gauc_loss
        if each["high"] is not None and each["high"] < sure and each["difference"] < -bounds.max_gauc_loss:
            worse.append(
                f"{each['title']} {each['value']}: GAUC {each['difference']:+.4f} "
                f"[{each['low']:+.4f}, {each['high']:+.4f}]; max_gauc_loss is {bounds.max_gauc_loss:g}"
            )
    loss = every["log_loss"]
    allowed = bounds.max_log_loss_rise * report["systems"][SERVED]["all"]["log_loss"]
    if loss["low"] > allowed:
        worse.append(
            f"all pages: log loss {loss['difference']:+.4f} [{loss['low']:+.4f}, {loss['high']:+.4f}]; "
            f"max_log_loss_rise is {bounds.max_log_loss_rise:g} of it, {allowed:.4f}"
        )
    return worse
