"""Compares rankers on the same candidates: metrics with intervals, overall and kind by kind of candidate."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from beam_pipelines.shell.progress import progress_bar
from models.evaluation.slices import Slices
from models.metrics.auc import GroupAUC, group_auc, placements
from models.metrics.bootstrap import interval, resampled_sums
from models.metrics.log_loss import candidate_weights, log_losses

METRICS = (
    "auc",
    "gauc_page_mean",
    "gauc_page_impressions",
    "gauc_user_mean",
    "gauc_user_impressions",
    "log_loss",
    "copc",
)


class Candidates(NamedTuple):
    """What all rankers are measured on; every array has shape `(n,)`.

    Attributes:
        page: number of the page.
        user: number of the user, from 0 without gaps.
        clicked: bool.
        weight: see `candidate_weights`.
    """

    page: np.ndarray
    user: np.ndarray
    clicked: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, page: np.ndarray, user: np.ndarray, clicked: np.ndarray, negative_rate: float) -> "Candidates":
        """Numbers the users, and weighs candidates by the share of the unclicked that is left."""
        return cls(page, np.unique(user, return_inverse=True)[1], clicked, candidate_weights(clicked, negative_rate))

    def select(self, rows: np.ndarray) -> "Candidates":
        """Some of them, with their users' numbers as they were."""
        return Candidates(*(column[rows] for column in self))

    def counts(self) -> dict[str, int]:
        """How many there are: `candidates`, `clicks`; `pages` and `users` that have an AUC, which GAUC averages."""
        both = (np.intersect1d(group[self.clicked], group[~self.clicked]) for group in (self.page, self.user))
        pages, users = map(len, both)
        return {"candidates": len(self.page), "clicks": int(self.clicked.sum()), "pages": pages, "users": users}


def metric_samples(ctrs: Sequence[np.ndarray], candidates: Candidates, counts: np.ndarray) -> np.ndarray:
    """Metrics as they are and on bootstrap samples of users, which are the same for all rankers: paired.

    Every metric is made of sums over users: GAUC, log loss and COPC as ratios of two, AUC as the mean placement of
    clicked candidates plus that of unclicked ones less the AUC. As placements are those in the sample as it is, not in
    the bootstrap sample, AUC is resampled to first order; its intervals are those of AUC up to terms of the order of
    1 / users.

    Args:
        ctrs: predictions of each ranker, `(n,)` each.
        candidates: what is scored.
        counts: of `bootstrap_counts`, `(users, samples)`; rows by user number.

    Returns:
        float64 `(rankers, len(METRICS), 1 + samples)`: entry 0 of the last axis is the metric, the others are samples;
        NaN where it is undefined.

    Reference: Obuchowski, Nonparametric analysis of clustered ROC curve data (1997), for users as clusters of the AUC.
    """
    users, local = np.unique(candidates.user, return_inverse=True)
    page_user = np.zeros(candidates.page.max(initial=-1) + 1, np.int64)
    page_user[candidates.page] = local
    sums = np.concatenate([_user_sums(ctr, candidates, local, page_user, len(users)) for ctr in ctrs])
    totals = resampled_sums(sums.reshape(len(ctrs) * (len(METRICS) + 1) * 2, len(users)), counts, users)
    totals = totals.reshape(len(ctrs), len(METRICS) + 1, 2, -1)
    above, below = totals[:, :, 0], totals[:, :, 1]
    ratios = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    ratios[:, 1] += ratios[:, 0] - ratios[:, :1, 0]  # AUC: both mean placements are one AUC each
    return ratios[:, 1:]


def _user_sums(
    ctr: np.ndarray, candidates: Candidates, user: np.ndarray, page_user: np.ndarray, users: int
) -> np.ndarray:
    """Numerators and denominators by user, `(1 + len(METRICS), 2, users)`: AUC has two rows, the others one."""

    def per_user(values: np.ndarray) -> np.ndarray:
        return np.bincount(user, values, minlength=users)

    clicked, weight = candidates.clicked.astype(np.float64), candidates.weight
    placement = np.nan_to_num(placements(ctr, candidates.clicked))
    one_class = not candidates.clicked.any() or candidates.clicked.all()
    rows = [[per_user(chosen * placement), per_user(chosen * (not one_class))] for chosen in (clicked, 1 - clicked)]
    for groups, owner in (
        (group_auc(ctr, candidates.clicked, candidates.page), page_user),
        (group_auc(ctr, candidates.clicked, user), np.arange(users)),
    ):
        rows += _group_sums(groups, owner, users)
    rows.append([per_user(weight * log_losses(ctr, candidates.clicked)), per_user(weight)])
    rows.append([per_user(weight * clicked), per_user(weight * ctr)])
    return np.array(rows)


def _group_sums(groups: GroupAUC, owner: np.ndarray, users: int) -> list[list[np.ndarray]]:
    """Of the mean over groups, and of the mean weighted by impressions."""
    valid = groups.valid
    user, auc = owner[groups.group[valid]], groups.auc[valid]
    return [
        [np.bincount(user, weight * auc, minlength=users), np.bincount(user, weight, minlength=users)]
        for weight in (np.ones(len(auc)), groups.size[valid].astype(np.float64))
    ]


def mean_over_runs(samples: np.ndarray, systems: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Metrics of systems: of each, the mean over its runs (seeds), within each bootstrap sample.

    Args:
        samples: of `metric_samples`.
        systems: name to which of the rankers are its runs.

    Returns:
        `(systems, len(METRICS), 1 + samples)`.
    """
    return np.stack([samples[list(runs)].mean(axis=0) for runs in systems.values()])


def summaries(samples: np.ndarray) -> list[dict[str, Any]]:
    """Metrics, 95 % intervals, and paired differences against the first row.

    Args:
        samples: `(rows, len(METRICS), 1 + samples)`, of `metric_samples` or `mean_over_runs`.

    Returns:
        Per row the metrics by name, `intervals`: name to `[low, high]`, and, but for the first, `differences`: name to
        `{"difference", "low", "high"}`.
    """
    low, high = interval(samples[..., 1:])
    differences = samples - samples[:1]
    difference_low, difference_high = interval(differences[..., 1:])
    rows = []
    for row, values in enumerate(samples[..., 0]):
        summary: dict[str, Any] = dict(zip(METRICS, values.tolist(), strict=True))
        summary["intervals"] = {name: [float(low[row, m]), float(high[row, m])] for m, name in enumerate(METRICS)}
        if row:
            summary["differences"] = {
                name: {
                    "difference": float(differences[row, m, 0]),
                    "low": float(difference_low[row, m]),
                    "high": float(difference_high[row, m]),
                }
                for m, name in enumerate(METRICS)
            }
        rows.append(summary)
    return rows


def evaluate_slices(
    ctrs: Sequence[np.ndarray],
    candidates: Candidates,
    counts: np.ndarray,
    systems: Mapping[str, Sequence[int]],
    slices: Sequence[Slices],
) -> dict[str, list[dict[str, Any]]]:
    """Measures systems on each kind of candidate alone: GAUC is that of a page's or a user's candidates of this kind.

    Args:
        ctrs: predictions of each ranker, `(n,)` each.
        candidates: what is scored.
        counts: of `bootstrap_counts`.
        systems: name to which of the rankers are its runs.
        slices: how candidates are divided.

    Returns:
        Title to, for each value, `value`, the counts of `Candidates`, and `systems`: name to summary, see `summaries`.
        Small kinds are there, too: mind the counts.
    """
    report: dict[str, list[dict[str, Any]]] = {each.title: [] for each in slices}
    with progress_bar(total=sum(len(each.values) for each in slices), desc="slices", unit="slice") as progress:
        for each in slices:
            order = np.argsort(each.number, kind="stable")
            starts = np.searchsorted(each.number[order], np.arange(len(each.values) + 1))
            for n, value in enumerate(each.values):
                rows = order[starts[n] : starts[n + 1]]
                subset = candidates.select(rows)
                samples = mean_over_runs(metric_samples([ctr[rows] for ctr in ctrs], subset, counts), systems)
                named = dict(zip(systems, summaries(samples), strict=True))
                report[each.title].append({"value": value, **subset.counts(), "systems": named})
                progress.update()
    return report
