"""Scores pages and measures the scores: the same code for validation and for reports."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.special import expit

from models.data.dataset import Dataset
from models.data.map_ahead import map_ahead
from models.data.pages import PADDING, page_records
from models.evaluation.scores import Scores
from models.metrics.auc import auc, group_auc
from models.metrics.calibration import calibration_curve, copc
from models.metrics.log_loss import candidate_weights, log_loss, log_losses
from models.metrics.pair_order import xauc
from models.ranker.calibrator import Calibrator, to_logits
from models.ranker.ranker import Ranker

_TOGETHER = 1024
_SMALLEST = np.float32(1e-30)


def score_pages(ranker: Ranker, pages: Iterable[dict[str, tf.Tensor]]) -> Scores:
    """Scores all candidates.

    Args:
        ranker: the model; `score` gives `ctr`, and `ctcvr` and `dwell` if it learned them.
        pages: batches of parsed pages.
    """
    parts: list[tuple[np.ndarray | None, ...]] = []
    count = 0
    for page in pages:
        outputs = ranker.score({name: values for name, values in page.items() if name != "clicked"})
        row, column = np.nonzero(page["item"].numpy() != PADDING)
        user, timestamp = (page[name].numpy()[row] for name in ("user", "timestamp"))
        item, position, clicked, converted, dwell_label = (
            page[name].numpy()[row, column] for name in ("item", "position", "clicked", "converted", "dwell")
        )
        predictions = (
            outputs[name].numpy()[row, column] if name in outputs else None for name in ("ctr", "ctcvr", "dwell")
        )
        labels = (clicked == 1, converted, dwell_label)
        parts.append((page["page_id"].numpy(), count + row, user, timestamp, item, position, *labels, *predictions))
        count += len(page["user"])
    return Scores(*(None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)))


def calibrated(scores: Scores, calibrator: Calibrator) -> Scores:
    """The scores of a ranker without a calibrator as they are with one.

    Args:
        scores: of `score_pages`.
        calibrator: of the click probability; that of click and conversion follows it.
    """
    logits = calibrator.apply_numpy(to_logits(scores.ctr))
    ctr = expit(logits).astype(np.float32)
    if scores.ctcvr is None:
        return scores._replace(ctr=ctr)
    return scores._replace(ctr=ctr, ctcvr=scores.ctcvr / np.maximum(scores.ctr, _SMALLEST) * ctr)


def click_history_lengths(dataset: Dataset, split: str) -> np.ndarray:
    """Steps in the click history of each page, whole ones whatever a ranker reads, in the order of `page_batches`.

    Returns:
        int64, shape `(pages,)`.
    """
    spec = {"click_item": tf.io.RaggedFeature(tf.int64)}

    def lengths(serialized: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.io.parse_example(serialized, spec)["click_item"].row_lengths(), tf.int64)

    records = page_records(dataset, split).batch(_TOGETHER)
    return np.concatenate(list(map_ahead(records, lengths).as_numpy_iterator()))


def measure(scores: Scores, negative_rate: float = 1.0) -> dict[str, Any]:
    """Metrics of scored candidates.

    Args:
        scores: the candidates.
        negative_rate: share of the unclicked candidates that is left on their pages. Log loss and calibration are those
            of all candidates, see `candidate_weights`.

    Returns:
        - `auc`.
        - `gauc_page_mean`, `gauc_user_mean`: mean AUC of pages or users, each with the same weight.
        - `gauc_page_impressions`, `gauc_user_impressions`: the same, weighted by candidates.
        - `log_loss`; `copc`, clicks over predicted clicks; `ece`, see `CalibrationCurve`.
        - `pages`, `pages_of_one_class`, `users`, `users_of_one_class`: those with and without an AUC, which GAUC
          leaves out; `candidates`, `clicks`.
        - `ctcvr`, where it is predicted: `auc`, `gauc_page_mean`, `log_loss`, `candidates` and `conversions` of
          candidates of which it is known whether they were clicked and converted.
        - `dwell`, where it is predicted: of the `clicks`, the mean absolute error of log(1 + seconds) as
          `mean_absolute_log_error`, and `xauc`.
    """
    pages, users = (group_auc(scores.ctr, scores.clicked, group) for group in (scores.page, scores.user))
    metrics: dict[str, Any] = {
        "auc": auc(scores.ctr, scores.clicked),
        "gauc_page_mean": pages.mean(),
        "gauc_page_impressions": pages.mean_by_impressions(),
        "gauc_user_mean": users.mean(),
        "gauc_user_impressions": users.mean_by_impressions(),
        "log_loss": log_loss(scores.ctr, scores.clicked, negative_rate),
        "copc": copc(scores.ctr, scores.clicked, negative_rate),
        "ece": calibration_curve(scores.ctr, scores.clicked, negative_rate).ece(),
        "pages": int(pages.valid.sum()),
        "pages_of_one_class": int((~pages.valid).sum()),
        "users": int(users.valid.sum()),
        "users_of_one_class": int((~users.valid).sum()),
        "candidates": len(scores.ctr),
        "clicks": int(scores.clicked.sum()),
    }
    if scores.ctcvr is not None:
        metrics["ctcvr"] = _measure_ctcvr(scores.of_candidates(scores.converted >= 0), negative_rate)
    if scores.dwell is not None:
        metrics["dwell"] = _measure_dwell(scores.of_candidates(scores.clicked))
    return metrics


def _measure_ctcvr(scores: Scores, negative_rate: float) -> dict[str, float | int]:
    converted = scores.clicked & (scores.converted == 1)
    weights = candidate_weights(scores.clicked, negative_rate)
    losses = log_losses(scores.ctcvr, converted)
    return {
        "auc": auc(scores.ctcvr, converted),
        "gauc_page_mean": group_auc(scores.ctcvr, converted, scores.page).mean(),
        "log_loss": float(np.average(losses, weights=weights)) if weights.any() else float("nan"),
        "candidates": len(converted),
        "conversions": int(converted.sum()),
    }


def _measure_dwell(clicks: Scores) -> dict[str, float | int]:
    errors = np.abs(np.log1p(clicks.dwell.astype(np.float64)) - np.log1p(clicks.dwell_label))
    return {
        "mean_absolute_log_error": float(errors.mean()) if len(errors) else float("nan"),
        "xauc": xauc(clicks.dwell, clicks.dwell_label),
        "clicks": len(errors),
    }
