"""Metrics of a ranker's predictions: the same in training and in reports."""

from typing import Any

import numpy as np

from models.evaluation.scored_pages import TASKS, ScoredPages
from models.metrics.auc import auc, group_auc
from models.metrics.calibration import calibration_curve, copc
from models.metrics.log_loss import candidate_weights, log_loss, log_losses
from models.metrics.xauc import xauc


def measure(scored: ScoredPages, negative_rate: float = 1.0) -> dict[str, Any]:
    """Metrics of scored candidates.

    Args:
        scored: the candidates.
        negative_rate: share of the unclicked candidates that is left on their pages. Log loss and calibration are those
            of all candidates, see `candidate_weights`.

    Returns:
        - `auc`.
        - `gauc_page_mean`, `gauc_user_mean`: mean AUC of pages or users, each with the same weight.
        - `gauc_page_impressions`, `gauc_user_impressions`: the same, weighted by candidates.
        - `log_loss`; `copc`, clicks over predicted clicks; `ece`, see `CalibrationCurve`.
        - `pages`, `pages_of_one_class`, `users`, `users_of_one_class`: those with and without an AUC, which GAUC
          leaves out; `candidates`, `clicks`.
        - `ctcvr` and `long_visit`, where they are predicted: `auc`, `gauc_page_mean`, `gauc_user_mean`, `log_loss`,
          `candidates` and `conversions`, or `long_visits`, of candidates of which it is known whether they were clicked
          and converted, or visited for long.
        - `dwell`, where it is predicted: of the `clicks`, the mean absolute error of log(1 + seconds) as
          `mean_absolute_log_error`, and `xauc`.
    """
    pages, users = (group_auc(scored.ctr, scored.clicked, group) for group in (scored.page, scored.user))
    metrics: dict[str, Any] = {
        "auc": auc(scored.ctr, scored.clicked),
        "gauc_page_mean": pages.mean(),
        "gauc_page_impressions": pages.mean_by_impressions(),
        "gauc_user_mean": users.mean(),
        "gauc_user_impressions": users.mean_by_impressions(),
        "log_loss": log_loss(scored.ctr, scored.clicked, negative_rate),
        "copc": copc(scored.ctr, scored.clicked, negative_rate),
        "ece": calibration_curve(scored.ctr, scored.clicked, negative_rate).ece(),
        "pages": int(pages.valid.sum()),
        "pages_of_one_class": int((~pages.valid).sum()),
        "users": int(users.valid.sum()),
        "users_of_one_class": int((~users.valid).sum()),
        "candidates": len(scored.ctr),
        "clicks": int(scored.clicked.sum()),
    }
    for task in TASKS:
        if getattr(scored, task) is not None:
            metrics[task] = _measure_task(scored, task, negative_rate)
    if scored.dwell is not None:
        metrics["dwell"] = _measure_dwell(scored, scored.dwell)
    return metrics


def _measure_task(scored: ScoredPages, task: str, negative_rate: float) -> dict[str, float | int]:
    happened, known = scored.outcome(task)
    scored, happened = scored.select(known), happened[known]
    predicted = getattr(scored, task)
    weights = candidate_weights(scored.clicked, negative_rate)
    losses = log_losses(predicted, happened)
    return {
        "auc": auc(predicted, happened),
        "gauc_page_mean": group_auc(predicted, happened, scored.page).mean(),
        "gauc_user_mean": group_auc(predicted, happened, scored.user).mean(),
        "log_loss": float(np.average(losses, weights=weights)) if weights.any() else float("nan"),
        "candidates": len(happened),
        "conversions" if task == "ctcvr" else "long_visits": int(happened.sum()),
    }


def _measure_dwell(scored: ScoredPages, dwell: np.ndarray) -> dict[str, float | int]:
    dwell, label = dwell[scored.clicked], scored.dwell_label[scored.clicked]
    errors = np.abs(np.log1p(dwell.astype(np.float64)) - np.log1p(label))
    return {
        "mean_absolute_log_error": float(errors.mean()) if len(errors) else float("nan"),
        "xauc": xauc(dwell, label),
        "clicks": len(errors),
    }
