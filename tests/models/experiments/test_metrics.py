import re

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.experiments.metrics import METRICS, chosen_metrics, daily_sums, user_sums
from models.experiments.outcomes import Outcomes

OUTCOMES = Outcomes(
    after={
        "impressions": np.array([[4.0, 0, 2], [0, 3, 3]]),
        "clicks": np.array([[1.0, 0, 2], [0, 0, 1]]),
        "orders": np.array([[0.0, 0, 2], [0, 0, 0]]),
    },
    before={"impressions": np.array([5.0, 6]), "clicks": np.array([1.0, 0])},
    first_day=np.array([0, 1]),
    start=0,
    notice="",
    counts={},
)


def test_metrics_are_ratios_of_sums_over_users():
    ctr = user_sums(METRICS["ctr"], OUTCOMES)
    assert (ctr.above.tolist(), ctr.below.tolist()) == ([3, 1], [6, 6])
    assert ctr.covariates.tolist() == [[5, 1], [6, 0]]
    conversion = user_sums(METRICS["conversion"], OUTCOMES)
    assert (conversion.above.tolist(), conversion.below.tolist()) == ([1, 0], [1, 1])
    assert user_sums(METRICS["orders_per_user"], OUTCOMES._replace(before={})).covariates.shape == (2, 0)


def test_a_day_has_all_that_came_before_it():
    daily = list(daily_sums(METRICS["ctr"], OUTCOMES, 3))
    assert [sums.above.tolist() for sums, _ in daily] == [[1, 0], [1, 0], [3, 1]]
    assert [sums.below.tolist() for sums, _ in daily] == [[4, 0], [4, 3], [6, 6]]
    assert [there.tolist() for _, there in daily] == [[True, False], [True, True], [True, True]]


def test_metrics_are_those_that_the_logs_allow():
    assert [*chosen_metrics(None, OUTCOMES)] == ["ctr", "conversion", "orders_per_user"]
    assert [*chosen_metrics(("orders_per_user", "ctr"), OUTCOMES)] == ["ctr", "orders_per_user"]
    for name, text in (("gauc", "`metrics` must be of ctr, "), ("value_per_user", "value_per_user needs value, which")):
        with pytest.raises(InputError, match=re.escape(text)):
            chosen_metrics((name,), OUTCOMES)
