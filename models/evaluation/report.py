"""What a report says of rankers that have scored the same candidates, and the files that say it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.text_file import write_json
from beam_pipelines.shell.report import aligned
from models.evaluation.comparison import Candidates, evaluate_slices, mean_over_runs, metric_samples, summaries
from models.evaluation.html import render
from models.evaluation.measure import measure
from models.evaluation.scored_pages import TASKS, ScoredPages
from models.evaluation.slices import Slices
from models.metrics.bootstrap import LEVEL, SAMPLES, bootstrap_counts
from models.metrics.calibration import calibration_curve

METRICS_FILE = "metrics.json"
TABLE_FILE = "table.txt"
PAGE_FILE = "report.html"
PARTS = ("all", "unseen_items")
"""Candidates that every ranker is measured on."""


def evaluation_report(
    scored: Mapping[str, ScoredPages],
    unseen: np.ndarray,
    slices: Sequence[Slices],
    systems: Mapping[str, Sequence[int]],
    negative_rate: float,
) -> dict[str, Any]:
    """Measures and compares rankers.

    Args:
        scored: of each ranker by name, all on the same candidates; the others are compared with the first.
        unseen: candidates whose item no ranker has seen in training: bool, shape `(n,)`.
        slices: kinds of candidates to look at one by one.
        systems: name to the positions in `scored` of its runs, which are averaged; every ranker is in one system, and
            the first in the first.
        negative_rate: share of the unclicked candidates that is left.

    Returns:
        - `models`: by name, `all` and `unseen_items`: what `measure` and `summaries` say.
        - `systems`: by name, `models`, the names of its runs; the means over them as `all` and `unseen_items`, see
          `summaries`; and `calibration`, the curve of the predictions of all its runs.
        - `slices`: see `evaluate_slices`.
        - `tasks`: of each task besides the click that a ranker predicts, `models`, `systems` and `slices` like these,
          over the rankers that predict it and the candidates of which it is known. The first of these rankers is what
          the others differ from; `clicks` counts what the task predicts.
        - `users`, `negative_rate`; `samples` and `level` of the intervals.
    """
    first = next(iter(scored.values()))
    ctrs = [each.ctr for each in scored.values()]
    candidates = Candidates.of(first.page, first.user, first.clicked, negative_rate)
    users = int(candidates.user.max()) + 1
    counts = bootstrap_counts(users)
    click = _compare(list(scored), ctrs, candidates, unseen, slices, systems, counts)
    for name, members in systems.items():
        ctr, clicked = np.concatenate([ctrs[run] for run in members]), np.tile(first.clicked, len(members))
        curve = calibration_curve(ctr, clicked, negative_rate)
        click["systems"][name]["calibration"] = {key: values.tolist() for key, values in curve._asdict().items()}
    for part, rows in _parts(unseen).items():
        for name, model in click["models"].items():
            model[part] |= measure(scored[name].select(rows), negative_rate)
    tasks = {}
    for task in TASKS:
        if any(getattr(each, task) is not None for each in scored.values()):
            tasks[task] = _compare_task(task, scored, candidates, unseen, slices, systems, counts)
    return {
        "users": users,
        "negative_rate": negative_rate,
        "samples": SAMPLES,
        "level": LEVEL,
        **click,
        "tasks": tasks,
    }


def _parts(unseen: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each of `PARTS`."""
    return dict(zip(PARTS, (np.arange(len(unseen)), np.flatnonzero(unseen)), strict=True))


def _compare(
    names: Sequence[str],
    predictions: Sequence[np.ndarray],
    candidates: Candidates,
    unseen: np.ndarray,
    slices: Sequence[Slices],
    systems: Mapping[str, Sequence[int]],
    counts: np.ndarray,
) -> dict[str, Any]:
    """`models`, `systems` and `slices` of a report, of the predictions of one outcome."""
    models: dict[str, dict[str, Any]] = {name: {} for name in names}
    of_systems: dict[str, dict[str, Any]] = {
        name: {"models": [names[run] for run in runs]} for name, runs in systems.items()
    }
    for part, rows in _parts(unseen).items():
        subset = candidates.select(rows)
        samples = metric_samples([each[rows] for each in predictions], subset, counts)
        for name, summary in zip(names, summaries(samples), strict=True):
            models[name][part] = summary | subset.counts()
        for name, summary in zip(systems, summaries(mean_over_runs(samples, systems)), strict=True):
            of_systems[name][part] = summary
    sliced = evaluate_slices(predictions, candidates, counts, systems, slices)
    return {"models": models, "systems": of_systems, "slices": sliced}


def _compare_task(
    task: str,
    scored: Mapping[str, ScoredPages],
    candidates: Candidates,
    unseen: np.ndarray,
    slices: Sequence[Slices],
    systems: Mapping[str, Sequence[int]],
    counts: np.ndarray,
) -> dict[str, Any]:
    """As `_compare`, of a task that some rankers predict, on the candidates of which it is known."""
    everyone = list(scored)
    names = [name for name in everyone if getattr(scored[name], task) is not None]
    happened, known = scored[names[0]].outcome(task)
    for name in names:
        if not np.array_equal(scored[name].outcome(task)[0], happened):
            raise InputError(
                f"`models` must mean the same by {task} to be compared. Received: {names[0]} and {name} with another "
                "`ranker.long_visit_seconds`"
            )
    in_task = {
        name: [names.index(everyone[run]) for run in runs]
        for name, runs in systems.items()
        if all(everyone[run] in names for run in runs)
    } or {name: [number] for number, name in enumerate(names)}
    rows = np.flatnonzero(known)
    predictions = [getattr(scored[name], task)[rows] for name in names]
    outcomes = candidates._replace(clicked=happened).select(rows)  # what is left out was chosen by clicks
    kinds = [each._replace(number=each.number[rows]) for each in slices]
    return _compare(names, predictions, outcomes, unseen[rows], kinds, in_task, counts)


def write_report(report: Mapping[str, Any], directory: Path) -> None:
    """Writes a report of `evaluate` for programs, terminals and browsers."""
    write_json(directory / METRICS_FILE, report)
    (directory / TABLE_FILE).write_text(report_table(report) + "\n", encoding="utf-8")
    (directory / PAGE_FILE).write_text(render(report), encoding="utf-8")


def report_table(report: Mapping[str, Any]) -> str:
    """The headline figures of a report as aligned text, a row per ranker.

    Args:
        report: of `evaluate`.
    """
    models, systems = report["models"], report["systems"]
    metrics = ("AUC", "GAUC", "GAUC unseen", "log loss", "COPC", "GAUC difference")
    rows = [(name, model["image_feature"], *_cells(model)) for name, model in models.items()]
    lines = [aligned([("model", "image feature", *metrics), *rows], text_columns=2)]
    if len(systems) < len(models):
        rows = [(name, str(len(system["models"])), *_cells(system)) for name, system in systems.items()]
        lines += ["", aligned([("mean over runs", "runs", *metrics), *rows], text_columns=2)]
    every, unseen = (next(iter(models.values()))[part] for part in PARTS)
    lines += [
        "",
        f"{report['split']} pages: {report['pages']}, {every['candidates']} candidates, {every['clicks']} clicks, "
        f"{report['users']} users.",
        f"GAUC: mean AUC of the {every['pages']} pages with clicked and unclicked candidates.",
        f"GAUC unseen: the same over items on no training page, {unseen['candidates']} candidates on "
        f"{unseen['pages']} pages.",
        "COPC: clicks over predicted clicks.",
    ]
    if len(models) > 1:
        lines.append(
            f"GAUC difference: from the first row, with a paired {report['level']:.0%} interval ({report['samples']} "
            "bootstrap samples of users)."
        )
    for task, measured in report["tasks"].items():
        rows = [(name, *_task_cells(system)) for name, system in measured["systems"].items()]
        lines += ["", aligned([(task, "AUC", "GAUC", "GAUC unseen", "GAUC difference"), *rows])]
    if report["notice"]:
        lines.append(f"notice: {report['notice']}")
    return "\n".join(lines)


def _cells(ranker: Mapping[str, Any]) -> tuple[str, ...]:
    every, unseen = (ranker[part] for part in PARTS)
    figures = (every["auc"], every["gauc_page_mean"], unseen["gauc_page_mean"], every["log_loss"])
    cells = ["nan" if figure is None else f"{figure:.4f}" for figure in figures]
    cells.append("nan" if every["copc"] is None else f"{every['copc']:.3f}")
    return *cells, _difference(every)


def _task_cells(system: Mapping[str, Any]) -> tuple[str, ...]:
    every, unseen = (system[part] for part in PARTS)
    figures = (every["auc"], every["gauc_page_mean"], unseen["gauc_page_mean"])
    return *("nan" if figure is None else f"{figure:.4f}" for figure in figures), _difference(every)


def _difference(every: Mapping[str, Any]) -> str:
    difference = every.get("differences", {}).get("gauc_page_mean")
    if difference is None or difference["low"] is None:
        return ""
    return "{difference:+.4f} [{low:+.4f}, {high:+.4f}]".format(**difference)
