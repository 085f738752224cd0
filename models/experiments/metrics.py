"""The metrics of an experiment, as sums over users."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from beam_pipelines.format.errors import InputError
from models.experiments.estimates import UserSums
from models.experiments.outcomes import Outcomes


class Metric(NamedTuple):
    """A ratio of two sums over users.

    Attributes:
        above: what is summed above.
        below: what is summed below; `None` for users.
        is_share: whether users are counted that have any of `above`, instead of how much.
        unit: for people.
    """

    above: str
    below: str | None
    is_share: bool
    unit: str


METRICS = {
    "ctr": Metric("clicks", "impressions", False, "clicks per impression"),
    "conversion": Metric("orders", None, True, "share of users with an order"),
    "orders_per_user": Metric("orders", None, False, "orders per user"),
    "value_per_user": Metric("value", None, False, "value of orders per user"),
}


def chosen_metrics(names: tuple[str, ...] | None, outcomes: Outcomes) -> dict[str, Metric]:
    """The metrics of these names, by default all that the logs allow.

    Raises:
        InputError: a name is none, or the logs lack what the metric sums.
    """
    possible = {name: metric for name, metric in METRICS.items() if metric.above in outcomes.after}
    for name in names or ():
        if name not in METRICS:
            raise InputError(f"`metrics` must be of {', '.join(METRICS)}. Received: {name}")
        if name not in possible:
            raise InputError(f"`metrics`: {name} needs {METRICS[name].above}, which the logs do not have (see `value`)")
    return {name: metric for name, metric in possible.items() if names is None or name in names}


def user_sums(metric: Metric, outcomes: Outcomes) -> UserSums:
    """The sums over all days."""
    return _sums(metric, outcomes, {name: days.sum(axis=1) for name, days in outcomes.after.items()})


def daily_sums(metric: Metric, outcomes: Outcomes, days: int) -> Iterator[tuple[UserSums, np.ndarray]]:
    """For each of the first `days` days the sums up to its end, and who had been exposed by then."""
    parts = {name for name in (metric.above, metric.below) if name is not None}
    up_to = {name: np.zeros(len(outcomes.first_day)) for name in parts}
    for day in range(days):
        up_to = {name: total + outcomes.after[name][:, day] for name, total in up_to.items()}
        yield _sums(metric, outcomes, up_to), outcomes.first_day <= day


def _sums(metric: Metric, outcomes: Outcomes, totals: dict[str, np.ndarray]) -> UserSums:
    above = totals[metric.above]
    below = np.ones(len(above)) if metric.below is None else totals[metric.below]
    before = [*outcomes.before.values()]
    covariates = np.stack(before, axis=1) if before else np.zeros((len(above), 0))
    return UserSums((above > 0).astype(np.float64) if metric.is_share else above, below, covariates)
