"""Logs and exposures of a small shop with an experiment, for tests."""

import json
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.experiments.experiment import Arm, Experiment
from models.experiments.exposures import ExposureLog

DAY = 86_400_000
START = 1_767_225_600_000  # 2026-01-01
EXPERIMENT = Experiment("pictures", (Arm("control"), Arm("pictures", label="canary")))


class Shop(NamedTuple):
    """What happened: a row per page of one user, with the clicks and orders among its four impressions."""

    user: np.ndarray
    day: np.ndarray  # from the start of the experiment; negative before
    clicks: np.ndarray
    orders: np.ndarray


def simulate(users=120, days=5, before=5, seed=0):
    rng = np.random.default_rng(seed)
    activity = rng.gamma(1.5, 0.8, users)
    taste = rng.beta(2, 6, users)
    pages = rng.poisson(activity[:, None], (users, before + days))
    pages[:, before] += 1  # so that all users are in the experiment
    user, day = (np.repeat(part.ravel(), pages.ravel()) for part in np.indices(pages.shape))
    clicks = rng.binomial(4, taste[user])
    return Shop(user, day - before, clicks, rng.binomial(clicks, 0.3))


def write_shop(folder, shop, experiment=EXPERIMENT, *, clock=0, prefix="b"):
    """Writes `folder/logs`, and exposures that are `clock` ms late, and returns both paths."""
    logs, exposures = folder / "logs", folder / "exposures.jsonl"
    logs.mkdir()
    rows = {name: [] for name in ("page_id", "user_id", "item_id", "timestamp", "position", "clicked", "converted")}
    with ExposureLog(exposures) as log:
        for page, (user, day, clicks, orders) in enumerate(zip(*shop, strict=True)):
            moment = START + int(day) * DAY + 1000 * page
            user_id = f"{prefix}{user:04d}"
            for position in range(4):
                row = (f"p{page}", user_id, f"i{position}", moment, position, position < clicks, position < orders)
                for values, value in zip(rows.values(), row, strict=True):
                    values.append(value)
            if day >= 0 and (arm := experiment.arm(user_id)) is not None:
                log.append(experiment.name, arm.name, user_id, f"p{page}", moment + clock, 7)
    pq.write_table(pa.table(rows), logs / "impressions.parquet")
    items = {"item_id": [f"i{n}" for n in range(4)], "category": ["ring"] * 4, "title": ["a"] * 4, "image": [""] * 4}
    pq.write_table(pa.table({**items, "stat_price": [10.0, 20.0, 40.0, 80.0]}), logs / "items.parquet")
    return logs, exposures


def write_experiment(path, experiment=EXPERIMENT):
    arms = [{"name": arm.name, "weight": arm.weight} for arm in experiment.arms]
    path.write_text(json.dumps({"name": experiment.name, "arms": arms}))
    return path
