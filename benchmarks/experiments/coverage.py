"""Whether the intervals of an experiment hold what they should, on simulated shoppers with known effects.

    python -m benchmarks.experiments.coverage [--repeats N] [--equal-repeats N] [--minutes M] [--quick]

Simulated, not measured on a shop. Shoppers differ a lot in how active they are (log-normal), come back on days that
depend on each other (autoregressive), click by a taste that goes with their activity, and mostly never order; a
fortnight before the experiment is known of them. They enter the experiment on the first day on which they look at a
page. The treatment raises the probability of a click by 8 %. The true effects follow from the simulation's parameters.

Per repeat: intervals by the delta method, with CUPED, of the lift, and by the bootstrap; equal arms at every look
of the fortnight with the bounds of the looks and, for comparison, with 1.96 at each. Besides, equal arms compared once,
in several splits of the same shoppers.

Repeats that are done are kept in artifacts/benchmarks/experiment_coverage; after a change to what is measured, remove
them.
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student
from tqdm import tqdm

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.text_file import read_json, write_json
from benchmarks.base import WORK, benchmark_parser, run_benchmark
from benchmarks.tables.cells import table
from models.experiments.estimates import LEVEL, UserSums, compare, influence
from models.experiments.metrics import METRICS, Metric, daily_sums, user_sums
from models.experiments.outcomes import Outcomes
from models.experiments.sequential import bounds, looks_at, spending
from models.experiments.significance import holm
from models.metrics.bootstrap import bootstrap_counts, interval, resampled_sums

USERS = 2000
DAYS = 14
LOOKED_AT = ("ctr", "orders_per_user")
LIFT = 0.08
_PIECE = 100
_SPLITS = 10  # of the shoppers of an experiment with equal arms
_EXPECTED_BY = 40  # experiments

_ACTIVITY = (-1.0, 1.0)  # mean and deviation of the logarithm of pages per day
_TASTE = (-3.0, 0.4)  # of the probability of a click
_BOTH = -0.3  # their correlation: the busy click less
_SHOWN = 10  # impressions of a page
_BUYERS, _ORDER = 0.4, 0.15  # who ever orders, and of their clicks the share that is an order
_DAY = 0.5  # deviation of a day's logarithm
_STAYS = 0.7  # correlation of one day with the next
_PRICE = 25.0


class Shoppers(NamedTuple):
    """Activity by day `(n, days)`, probability of a click and of an order after it `(n,)`."""

    activity: np.ndarray
    click: np.ndarray
    order: np.ndarray


def draw_shoppers(rng: np.random.Generator, users: int, days: int) -> Shoppers:
    """Shoppers; the mean of a day's factor is 1."""
    normal = rng.standard_normal((users, 2))
    busy = np.exp(_ACTIVITY[0] + _ACTIVITY[1] * normal[:, 0])
    taste = np.exp(_TASTE[0] + _TASTE[1] * (_BOTH * normal[:, 0] + np.sqrt(1 - _BOTH**2) * normal[:, 1]))
    mood = np.empty((users, days))
    shocks = rng.standard_normal((users, days))
    mood[:, 0] = shocks[:, 0]
    for day in range(1, days):
        mood[:, day] = _STAYS * mood[:, day - 1] + np.sqrt(1 - _STAYS**2) * shocks[:, day]
    activity = busy[:, None] * np.exp(_DAY * mood - _DAY**2 / 2)
    return Shoppers(activity, taste, np.where(rng.random(users) < _BUYERS, _ORDER, 0.0))


def draw_outcomes(rng: np.random.Generator, lift: float) -> tuple[Outcomes, np.ndarray]:
    """What shoppers did before and in an experiment, and who of those who take part is in the treatment."""
    shoppers = draw_shoppers(rng, USERS, 2 * DAYS)
    treated = rng.random(USERS) < 0.5
    impressions = _SHOWN * rng.poisson(shoppers.activity)
    raised = np.where(treated, 1 + lift, 1.0)
    click = shoppers.click[:, None] * np.where(np.arange(2 * DAYS) < DAYS, 1.0, raised[:, None])
    clicks = rng.binomial(impressions, click)
    orders = rng.binomial(clicks, shoppers.order[:, None])
    value = rng.gamma(2.0 * orders) * _PRICE / 2  # the sum of so many prices
    parts = {"impressions": impressions, "clicks": clicks, "orders": orders, "value": value}
    took_part = impressions[:, DAYS:].any(axis=1)
    parts = {name: part[took_part].astype(np.float64) for name, part in parts.items()}
    after = {name: part[:, DAYS:] for name, part in parts.items()}
    before = {name: part[:, :DAYS].sum(axis=1) for name, part in parts.items()}
    first_day = (after["impressions"] > 0).argmax(axis=1)
    return Outcomes(after, before, first_day, 0, "simulated", {}), treated[took_part]


def true_values(lift: float, users: int = 400_000) -> dict[str, float]:
    """The metrics of an arm: CTR and means in closed form, but for the share of shoppers who take part or order at all.

    These shares are means of exact probabilities over drawn shoppers.
    """
    rng = np.random.default_rng(12345)
    taking_part, ordering = [], []
    for _ in range(20):
        shoppers = draw_shoppers(rng, users // 20, DAYS)
        pages = shoppers.activity.sum(axis=1)
        taking_part.append(-np.expm1(-pages).mean())
        none_on_a_page = (1 - (1 + lift) * shoppers.click * shoppers.order) ** _SHOWN
        ordering.append(-np.expm1(-pages * (1 - none_on_a_page)).mean())
    share = np.mean(taking_part)
    pages = np.exp(_ACTIVITY[0] + _ACTIVITY[1] ** 2 / 2)
    ctr = (1 + lift) * np.exp(_TASTE[0] + _TASTE[1] ** 2 / 2 + _BOTH * _ACTIVITY[1] * _TASTE[1])
    orders = DAYS * pages * _SHOWN * ctr * _BUYERS * _ORDER / share
    return {
        "ctr": ctr,
        "conversion": np.mean(ordering) / share,
        "orders_per_user": orders,
        "value_per_user": orders * _PRICE,
    }


def expected_error(users: float, kurtosis: float, covariates: int = 0) -> float:
    """How often equal arms differ at 1.96 standard errors: 5 % but for terms of the order of 1 / `users`.

    The Edgeworth expansion of a difference over its standard error. That of equal arms has no skewness; what is left is
    the spread of the standard error, as in Student's t, the slopes of covariates, and the kurtosis, which makes errors
    rarer: who weighs much raises the standard error, too.

    Args:
        users: of each arm.
        kurtosis: in excess of the normal one, of what a user adds.
        covariates: that a regression takes off.

    Reference: Hall, The Bootstrap and Edgeworth Expansion (1992), section 2.6.
    """
    z = norm.ppf((1 + LEVEL) / 2)
    slopes = norm.pdf(z) * z * covariates / (2 * users)
    tails = norm.pdf(z) * z * kurtosis * (z**2 - 3) / (12 * users)
    return float(2 * student.sf(z, 2 * (users - 1)) + slopes - tails)


def expected_errors() -> dict[str, dict[str, float]]:
    """These of each metric, without and with CUPED, for what the simulated shoppers add."""
    added: dict[str, dict[str, list[np.ndarray]]] = {name: {"once": [], "cuped": []} for name in METRICS}
    for repeat in range(_EXPECTED_BY):
        outcomes, treated = draw_outcomes(np.random.default_rng(2 * 10**6 + repeat), 0.0)
        for name, metric in METRICS.items():
            sums = user_sums(metric, outcomes)
            for kind, each in (("once", _plain(sums)), ("cuped", sums)):
                users = influence(each, treated).user
                added[name][kind].append(users / users.std())
    covariates = {"once": 0, "cuped": sums.covariates.shape[1]}
    return {
        name: {
            kind: expected_error(
                len(treated) / 2, float((np.concatenate(kinds[kind]) ** 4).mean() - 3), covariates[kind]
            )
            for kind in covariates
        }
        for name, kinds in added.items()
    }


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Repeats experiments, prints what their intervals held, and returns it."""
    repeats = 100 if options.quick else options.repeats
    equal_repeats = _SPLITS * (100 if options.quick else options.equal_repeats)
    work = WORK / "experiment_coverage"
    work.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * options.minutes
    once = _summed(work / "equal", equal_repeats // _SPLITS, ends, lambda repeat: _equal(10**6 + repeat))
    truth = {lift: true_values(lift) for lift in (0.0, LIFT)}
    sums = _summed(work / "all", repeats, ends, lambda repeat: _raised(repeat, truth) | _looked_at(10**6 + repeat))

    def share(kind: str, names: Iterable[str] = METRICS) -> dict[str, float]:
        return {name: sums[f"{kind} {name}"] / repeats for name in names}

    coverage = {kind: share(f"held {kind}") for kind in ("delta", "cuped", "lift", "bootstrap")}
    power = {kind: share(f"found {kind}") for kind in ("plain", "cuped")}
    figures: dict[str, Any] = {
        "repeats": repeats,
        "users": USERS,
        "days": DAYS,
        "lift": LIFT,
        "equal_repeats": equal_repeats,
        "standard_errors_of_5_percent": [float(np.sqrt(0.05 * 0.95 / n)) for n in (repeats, equal_repeats)],
        "coverage": {name: {kind: each[name] for kind, each in coverage.items()} for name in METRICS},
        "coverage_of_ctr_over_looks": sums["held looks ctr"] / repeats,
        "power": {name: {kind: each[name] for kind, each in power.items()} for name in METRICS},
        "variance_left": share("variance left"),
        "aa_once": {name: once[f"equal once {name}"] / equal_repeats for name in METRICS},
        "aa_cuped": {name: once[f"equal cuped {name}"] / equal_repeats for name in METRICS},
        "aa_expected": expected_errors(),
        "aa_any_of_all_holm": once["equal any"] / equal_repeats,
        "aa_all_looks": share("equal looks", LOOKED_AT),
        "aa_all_looks_naive": share("equal naive", LOOKED_AT),
    }
    rows = [
        [name, *(f"{figures['coverage'][name][kind]:.3f}" for kind in coverage), f"{figures['aa_cuped'][name]:.3f}"]
        for name in METRICS
    ]
    print(table(("coverage", "delta", "CUPED", "lift", "bootstrap", "A/A"), rows))
    return figures


def _summed(
    path: Path, repeats: int, ends: float, experiment: Callable[[int], dict[str, float]]
) -> Mapping[str, float]:
    """The sums over repeats of what an experiment finds; pieces that are done are read."""
    if repeats % _PIECE:
        raise InputError(f"repeats must be a multiple of {_PIECE}. Received: {repeats}")
    path.mkdir(exist_ok=True)
    sums: Counter[str] = Counter()
    for first in tqdm(range(0, repeats, _PIECE), desc=path.name, unit=f"{_PIECE} experiments"):
        piece = path / f"{first:06d}.json"
        if not piece.exists():
            if time.monotonic() > ends:
                raise InputError(f"{first} of {repeats} experiments ({path.name}) are done; the same command goes on")
            found: Counter[str] = Counter()
            for repeat in range(first, first + _PIECE):
                found.update(experiment(repeat))
            with whole_file(piece) as scratch:
                write_json(scratch, found)
        sums.update(read_json(piece))
    return sums


def _raised(seed: int, truth: dict[float, dict[str, float]]) -> dict[str, float]:
    """What intervals hold, and what is found, in one experiment with an effect."""
    outcomes, treated = draw_outcomes(np.random.default_rng(seed), LIFT)
    counts = bootstrap_counts(len(treated), seed=seed, samples=500)
    found: dict[str, float] = {}
    for name, metric in METRICS.items():
        sums = user_sums(metric, outcomes)
        true = truth[LIFT][name] - truth[0.0][name]
        plain, cuped = compare(_plain(sums), treated), compare(sums, treated)
        found |= {
            f"held delta {name}": _holds(plain.difference.interval(), true),
            f"held cuped {name}": _holds(cuped.difference.interval(), true),
            f"held lift {name}": _holds(cuped.log_ratio.interval(), np.log(truth[LIFT][name] / truth[0.0][name])),
            f"held bootstrap {name}": _holds(_bootstrap(sums, treated, counts), true),
            f"found plain {name}": plain.p < 1 - LEVEL,
            f"found cuped {name}": cuped.p < 1 - LEVEL,
            f"variance left {name}": cuped.variance_left,
        }
    low, high, _ = _looks(METRICS["ctr"], outcomes, treated)  # this effect is the same at every look
    true = truth[LIFT]["ctr"] - truth[0.0]["ctr"]
    return found | {"held looks ctr": bool(((low < true) & (true < high)).all())}


def _equal(seed: int) -> dict[str, float]:
    """What differs at one look between equal arms, in several splits of the same shoppers."""
    rng = np.random.default_rng(seed)
    outcomes, treated = draw_outcomes(rng, 0.0)
    all_sums = {name: user_sums(metric, outcomes) for name, metric in METRICS.items()}
    found: dict[str, float] = defaultdict(float)
    for _ in range(_SPLITS):
        ps = []
        for name, sums in all_sums.items():
            ps.append(compare(sums, treated).p)
            found[f"equal once {name}"] += compare(_plain(sums), treated).p < 1 - LEVEL
            found[f"equal cuped {name}"] += ps[-1] < 1 - LEVEL
        found["equal any"] += bool((holm(ps) < 1 - LEVEL).any())
        treated = rng.random(len(treated)) < 0.5
    return found


def _looked_at(seed: int) -> dict[str, float]:
    """What differs in one experiment without an effect, at any of the looks."""
    outcomes, treated = draw_outcomes(np.random.default_rng(seed), 0.0)
    found: dict[str, float] = {}
    for name in LOOKED_AT:
        low, high, z = _looks(METRICS[name], outcomes, treated)
        found[f"equal looks {name}"] = bool(((low > 0) | (high < 0)).any())
        found[f"equal naive {name}"] = bool((np.abs(z) > 1.96).any())
    return found


def _plain(sums: UserSums) -> UserSums:
    return sums._replace(covariates=sums.covariates[:, :0])


def _holds(ends: tuple[float, float], true: float) -> bool:
    return bool(ends[0] < true < ends[1])


def _bootstrap(sums: UserSums, treated: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    rows = np.stack([part * arm for arm in (~treated, treated) for part in (sums.above, sums.below)])
    totals = resampled_sums(rows, counts, np.arange(len(treated)))
    low, high = interval((totals[2] / totals[3] - totals[0] / totals[1])[None, 1:])
    return float(low[0]), float(high[0])


def _looks(metric: Metric, outcomes: Outcomes, treated: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends of the intervals over all looks, and the statistics."""
    looks = looks_at(daily_sums(metric, outcomes, DAYS), treated)
    bound = bounds(looks.correlation, spending(np.arange(1, DAYS + 1) / DAYS, 1 - LEVEL))
    width = bound * looks.error
    return looks.difference - width, looks.difference + width, looks.difference / looks.error


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "100 repeats")
    parser.add_argument("--repeats", type=int, default=3000, help="experiments with an effect, and with many looks")
    parser.add_argument("--equal-repeats", type=int, default=3000, help=f"with one look, each of {_SPLITS} splits")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no piece later; the same command goes on")
    run_benchmark("experiment_coverage", parser, study)
