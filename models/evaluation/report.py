"""What a report says of rankers, from their scores on the same candidates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.evaluation.comparison import Candidates, evaluate_slices, mean_over_runs, metric_samples, summaries
from models.evaluation.measure import measure
from models.evaluation.scored_pages import ScoredPages
from models.evaluation.slices import Slices
from models.metrics.bootstrap import LEVEL, SAMPLES, bootstrap_counts
from models.metrics.calibration import calibration_curve

PARTS = ("all", "unseen_items")


def evaluation_report(
    scores: Mapping[str, ScoredPages],
    unseen: np.ndarray,
    slices: Sequence[Slices],
    systems: Mapping[str, Sequence[int]],
    negative_rate: float,
) -> dict[str, Any]:
    """Measures and compares rankers.

    Args:
        scores: of each ranker by name, all on the same candidates; the others are compared with the first.
        unseen: candidates whose item no ranker has seen in training: bool, shape `(n,)`.
        slices: kinds of candidates to look at one by one.
        systems: name to the positions in `scores` of its runs, which are averaged; every ranker is in one system, and
            the first in the first.
        negative_rate: share of the unclicked candidates that is left.

    Returns:
        - `models`: by name, `all` and `unseen_items`: what `measure` and `summaries` say.
        - `systems`: by name, `models`, the names of its runs; the means over them as `all` and `unseen_items`, see
          `summaries`; and `calibration`, the curve of the predictions of all its runs.
        - `slices`: see `evaluate_slices`.
        - `users`, `negative_rate`; `samples` and `level` of the intervals.
    """
    first = next(iter(scores.values()))
    ctrs = [each.ctr for each in scores.values()]
    candidates = Candidates.of(first.page, first.user, first.clicked, negative_rate)
    users = int(candidates.user.max()) + 1
    counts = bootstrap_counts(users)
    models: dict[str, dict[str, Any]] = {name: {} for name in scores}
    system_reports: dict[str, dict[str, Any]] = {}
    for name, members in systems.items():
        ctr, clicked = np.concatenate([ctrs[run] for run in members]), np.tile(first.clicked, len(members))
        curve = calibration_curve(ctr, clicked, negative_rate)
        system_reports[name] = {
            "models": [list(scores)[run] for run in members],
            "calibration": {key: values.tolist() for key, values in curve._asdict().items()},
        }
    for part, rows in zip(PARTS, (np.arange(len(unseen)), np.flatnonzero(unseen)), strict=True):
        samples = metric_samples([ctr[rows] for ctr in ctrs], candidates.select(rows), counts)
        for name, summary in zip(scores, summaries(samples), strict=True):
            models[name][part] = summary | measure(scores[name].select(rows), negative_rate)
        for name, summary in zip(systems, summaries(mean_over_runs(samples, systems)), strict=True):
            system_reports[name][part] = summary
    return {
        "users": users,
        "negative_rate": negative_rate,
        "samples": SAMPLES,
        "level": LEVEL,
        "models": models,
        "systems": system_reports,
        "slices": evaluate_slices(ctrs, candidates, counts, systems, slices),
    }
