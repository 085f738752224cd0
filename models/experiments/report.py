"""The report of an experiment: what was measured, with intervals, and the files that say it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.format.text_file import finite, write_json
from beam_pipelines.logs.reading_rules import ReadingRules
from beam_pipelines.shell.report import aligned
from models.experiments.aa_splits import compare_aa_splits
from models.experiments.estimates import LEVEL, Comparison, Estimate, UserSums, compare
from models.experiments.experiment import Experiment
from models.experiments.exposures import read_exposures
from models.experiments.figures import legend, lift, shown, with_interval
from models.experiments.html import render
from models.experiments.metrics import Metric, chosen_metrics, daily_sums, user_sums
from models.experiments.outcomes import Outcomes, read_outcomes
from models.experiments.sequential import bounds, looks_at, spending
from models.experiments.significance import SAMPLE_RATIO_P, holm, sample_ratio_p
from models.metrics.bootstrap import SAMPLES, bootstrap_counts, interval, resampled_sums

REPORT_FILE = "report.json"
TABLE_FILE = "table.txt"
PAGE_FILE = "report.html"

_LEAST_USERS = 2  # of an arm: fewer have no spread


def experiment_report(
    logs: Location | str,
    exposures: Sequence[Path | str],
    experiment: Experiment,
    *,
    output: Location | str | None = None,
    overwrite: bool = False,
    metrics: Sequence[str] | None = None,
    value: str | None = None,
    before_days: int = 14,
    planned_days: int | None = None,
    bootstrap: bool = False,
    aa_splits: int = 0,
    columns: Mapping[str, str] | None = None,
    rules: ReadingRules | None = None,
) -> dict[str, Any]:
    """Compares the arms of an experiment with the first of them, the control. Users are the units of everything.

    Args:
        logs: log directory, by path or URI, of the time of the experiment and the days before.
        exposures: exposure logs.
        experiment: the experiment.
        output: directory, by path or URI, to write `report.json`, `table.txt` and `report.html` to; `None` writes
            nothing.
        overwrite: whether an `output` that exists is replaced.
        metrics: names of `METRICS`, chosen before the experiment; `None` for all that the logs allow.
        value: the column `stat_*` of `items` that says what an order is worth.
        before_days: days before a user's first exposure whose sums adjust the metrics (CUPED); 0 for no adjustment.
        planned_days: how long the experiment is to run: then each day is a look that may end it, and the bounds keep
            the error over all of them. `None`: there is one look, this one.
        bootstrap: whether there are also intervals by a bootstrap over users, of the metrics without adjustment.
        aa_splits: how many random splits of all users are compared, to see that the analysis finds no differences
            where there are none; 0 for no such check.
        columns: columns of the logs that have other names, as in `BuildOptions`.
        rules: how values of the logs are read.

    Returns:
        What `report.json` holds; docs/experiments.md explains it. `None` where a figure is undefined.

    Raises:
        ArtifactError: an exposure log cannot be read; there is an `output` already.
        InputError: logs and exposures do not belong together, a user is in two arms, an arm is empty, ...
    """
    for name, number, least in (
        ("before_days", before_days, 0),
        ("planned_days", planned_days, 1),
        ("aa_splits", aa_splits, 0),
    ):
        if number is not None and number < least:
            raise InputError(f"`{name}` must be at least {least}. Received: {number}")
    paths = [Path(path) for path in exposures]
    exposed = read_exposures(paths, experiment)
    outcomes = read_outcomes(
        as_location(logs),
        exposed,
        value=value,
        before_days=before_days,
        days=planned_days,
        columns=columns,
        rules=rules,
    )
    arm, outcomes = _within_plan(exposed.arm, outcomes, planned_days)
    counts = np.bincount(arm, minlength=len(experiment.arms))
    for each, count in zip(experiment.arms, counts, strict=True):
        if count < _LEAST_USERS:
            raise InputError(f"`exposures`: arm {each.name} has {count} users; a comparison takes {_LEAST_USERS}")
    shares = experiment.shares()
    ratio = sample_ratio_p(counts.tolist(), [*shares.values()])
    chosen = chosen_metrics(None if metrics is None else tuple(metrics), outcomes)
    report = {
        "notice": outcomes.notice,
        "experiment": experiment.name,
        "control": experiment.arms[0].name,
        "logs": str(logs),
        "start": datetime.fromtimestamp(outcomes.start / 1000, UTC).isoformat(),
        "users": len(arm),
        "arms": {
            name: {"users": int(count), "share": count / len(arm), "planned_share": share}
            for (name, share), count in zip(shares.items(), counts, strict=True)
        },
        "sample_ratio": {"p": ratio, "least_p": SAMPLE_RATIO_P, "passed": ratio >= SAMPLE_RATIO_P},
        "counts": {"exposures": exposed.lines, "exposures_unfinished": exposed.unfinished}
        | {"exposed_pages": len(exposed.page_ids)}
        | outcomes.counts,
        "level": LEVEL,
        "before_days": before_days,
        "adjusted_for": [*outcomes.before],
        "metrics": _metrics(chosen, outcomes, arm, experiment, bootstrap),
    }
    if planned_days is not None:
        report["sequential"] = _sequential(chosen, outcomes, arm, experiment, planned_days)
    if aa_splits:
        report["aa"] = _aa(chosen, outcomes, [*shares.values()], aa_splits)
    _judge(report)
    report = finite(report)
    if output is not None:
        with whole_directory(as_location(output), overwrite=overwrite, inputs=[as_location(logs), *paths]) as scratch:
            write_json(scratch / REPORT_FILE, report)
            (scratch / TABLE_FILE).write_text(report_table(report) + "\n", encoding="utf-8")
            (scratch / PAGE_FILE).write_text(render(report), encoding="utf-8")
    return report


def _within_plan(arm: np.ndarray, outcomes: Outcomes, planned_days: int | None) -> tuple[np.ndarray, Outcomes]:
    """Leaves out users whose first exposure is later than the planned end."""
    if planned_days is None:
        return arm, outcomes
    kept = outcomes.first_day < planned_days
    counts = outcomes.counts | {"users_after_the_plan": int((~kept).sum())}
    return arm[kept], outcomes._replace(
        after={name: days[kept] for name, days in outcomes.after.items()},
        before={name: total[kept] for name, total in outcomes.before.items()},
        first_day=outcomes.first_day[kept],
        counts=counts,
    )


def _metrics(
    chosen: Mapping[str, Metric], outcomes: Outcomes, arm: np.ndarray, experiment: Experiment, bootstrap: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, metric in chosen.items():
        sums = user_sums(metric, outcomes)
        comparisons = {}
        for number, treatment in enumerate(experiment.arms[1:], 1):
            rows = np.flatnonzero((arm == 0) | (arm == number))
            comparisons[treatment.name] = _comparison(sums.select(rows), arm[rows] == number, bootstrap)
        found[name] = {"unit": metric.unit, "comparisons": comparisons}
    every = [each for metric in found.values() for each in metric["comparisons"].values()]
    for each, p in zip(every, holm([each["p"] for each in every]), strict=True):
        each["p_holm"] = float(p)
        z = float(norm.ppf(1 - (1 - LEVEL) / 2 / len(every)))
        each["difference"]["low_of_all"], each["difference"]["high_of_all"] = Estimate(
            each["difference"]["value"], each["difference"]["error"]
        ).interval(z)
    return found


def _comparison(sums: UserSums, treated: np.ndarray, bootstrap: bool) -> dict[str, Any]:
    plain = compare(sums._replace(covariates=sums.covariates[:, :0]), treated)
    adjusted = compare(sums, treated)
    entry: dict[str, Any] = {
        "users": {"control": int((~treated).sum()), "treatment": int(treated.sum())},
        **_figures(adjusted),
        "variance_left": adjusted.variance_left,
        "unadjusted": _figures(plain),
    }
    if bootstrap:
        entry["bootstrap"] = _bootstrap(sums, treated)
    return entry


def _figures(found: Comparison) -> dict[str, Any]:
    low, high = found.log_ratio.interval()
    return {
        "control": _figure(found.control),
        "treatment": _figure(found.treatment),
        "difference": _figure(found.difference),
        "lift": {
            "value": float(np.expm1(found.log_ratio.value)),
            "low": float(np.expm1(low)),
            "high": float(np.expm1(high)),
        },
        "p": found.p,
    }


def _figure(estimate: Estimate) -> dict[str, float]:
    low, high = estimate.interval()
    return {"value": estimate.value, "error": estimate.error, "low": low, "high": high}


def _bootstrap(sums: UserSums, treated: np.ndarray) -> dict[str, float]:
    """Users are drawn from both arms together, so that the arms' sizes vary as the assignment makes them vary."""
    rows = np.stack([part * chosen for chosen in (~treated, treated) for part in (sums.above, sums.below)])
    totals = resampled_sums(rows, bootstrap_counts(len(treated)), np.arange(len(treated)))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = totals[2] / totals[3] - totals[0] / totals[1]
    low, high = interval(difference[None, 1:])
    return {"value": float(difference[0]), "low": float(low[0]), "high": float(high[0]), "samples": SAMPLES}


def _sequential(
    chosen: Mapping[str, Metric], outcomes: Outcomes, arm: np.ndarray, experiment: Experiment, planned_days: int
) -> dict[str, Any]:
    """The looks at the ends of the days so far; the error is shared by all comparisons."""
    seen = np.flatnonzero(outcomes.after["impressions"].any(axis=0))
    days = int(seen[-1]) + 1
    alpha = (1 - LEVEL) / (len(chosen) * (len(experiment.arms) - 1))
    spent = spending(np.arange(1, days + 1) / planned_days, alpha)
    found: dict[str, Any] = {}
    for name, metric in chosen.items():
        found[name] = {}
        for number, treatment in enumerate(experiment.arms[1:], 1):
            rows = np.flatnonzero((arm == 0) | (arm == number))
            treated = arm[rows] == number
            daily = ((sums.select(rows), there[rows]) for sums, there in daily_sums(metric, outcomes, days))
            looks = looks_at(daily, treated)
            bound = bounds(looks.correlation, spent)
            with np.errstate(invalid="ignore", divide="ignore"):
                z = np.where(looks.error > 0, looks.difference / looks.error, 0.0)
            crossed = np.flatnonzero(np.abs(z) >= bound)
            found[name][treatment.name] = {
                "looks": [
                    {"day": day + 1, "difference": float(d), "low": float(d - b * e), "high": float(d + b * e)}
                    | {"z": float(s), "bound": float(b)}
                    for day, (d, e, s, b) in enumerate(zip(looks.difference, looks.error, z, bound, strict=True))
                ],
                "crossed_on_day": int(crossed[0]) + 1 if len(crossed) else None,
            }
    return {"planned_days": planned_days, "days": days, "error_of_each": alpha, "metrics": found}


def _aa(chosen: Mapping[str, Metric], outcomes: Outcomes, shares: Sequence[float], splits: int) -> dict[str, Any]:
    share = shares[1] / (shares[0] + shares[1])
    found = {}
    for name, metric in chosen.items():
        same = compare_aa_splits(user_sums(metric, outcomes), share, splits)
        found[name] = same._asdict() | {"passed": same.passed}
    return found


def _judge(report: dict[str, Any]) -> None:
    """Adds a verdict to each comparison: by the bounds of the looks if there is a plan, else by Holm's p-value."""
    for name, metric in report["metrics"].items():
        for arm, each in metric["comparisons"].items():
            if "sequential" in report:
                looks = report["sequential"]["metrics"][name][arm]
                day = looks["crossed_on_day"]
                sign = 0.0 if day is None else looks["looks"][day - 1]["difference"]
            else:
                sign = each["difference"]["value"] if each["p_holm"] < 1 - LEVEL else 0.0
            verdict = "higher" if sign > 0 else "lower" if sign < 0 else "not told apart"
            each["verdict"] = verdict if report["sample_ratio"]["passed"] else "not judged"


def report_table(report: Mapping[str, Any]) -> str:
    """A report of `experiment_report` as text: the sample ratio first, then a row per comparison."""
    ratio = report["sample_ratio"]
    rows = [("arm", "users", "share", "planned")]
    rows += [
        (name, f"{arm['users']:,}", f"{arm['share']:.4f}", f"{arm['planned_share']:.4f}")
        for name, arm in report["arms"].items()
    ]
    says = "as planned" if ratio["passed"] else "NOT as planned: the experiment is broken, and nothing below counts"
    lines = [aligned(rows), f"sample ratio: {says} (p {ratio['p']:.2g}, bound {ratio['least_p']})", ""]
    head = ("metric", "arm", "verdict", "control", "treatment", "difference", "lift", "p", "p (Holm)", "CUPED")
    rows_of_metrics = [head]
    for name, metric in report["metrics"].items():
        for arm, each in metric["comparisons"].items():
            cells = [shown(each[side]["value"]) for side in ("control", "treatment")]
            difference = with_interval(each["difference"], "+")
            left = f"-{1 - each['variance_left']:.0%}" if report["adjusted_for"] else ""
            ps = [shown(each[p], ".3f") for p in ("p", "p_holm")]
            rows_of_metrics.append((name, arm, each["verdict"], *cells, difference, lift(each["lift"]), *ps, left))
    lines.append(aligned(rows_of_metrics, text_columns=3))
    lines += ["", *legend(report), *_last_looks(report)]
    if report["notice"]:
        lines.append(f"notice: {report['notice']}")
    return "\n".join(lines)


def _last_looks(report: Mapping[str, Any]) -> Iterator[str]:
    for name, arms in report.get("sequential", {"metrics": {}})["metrics"].items():
        for arm, each in arms.items():
            last = each["looks"][-1]
            day = each["crossed_on_day"]
            crossed = "no bound crossed" if day is None else f"bound crossed on day {day}"
            figure = with_interval({**last, "value": last["difference"]}, "+")
            yield (
                f"{name}, {arm}: {crossed}; now z {shown(last['z'], '+.2f')}, bound {shown(last['bound'], '.2f')}, "
                f"difference over all looks {figure}"
            )
