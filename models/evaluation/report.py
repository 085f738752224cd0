"""What a report says of rankers that have scored the same candidates, and the files that say it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.format.text_file import write_json
from beam_pipelines.shell.report import aligned
from models.evaluation.comparison import Candidates, evaluate_slices, mean_over_runs, metric_samples, summaries
from models.evaluation.html import render
from models.evaluation.measure import measure
from models.evaluation.scored_pages import ScoredPages
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
        - `users`, `negative_rate`; `samples` and `level` of the intervals.
    """
    first = next(iter(scored.values()))
    ctrs = [each.ctr for each in scored.values()]
    candidates = Candidates.of(first.page, first.user, first.clicked, negative_rate)
    users = int(candidates.user.max()) + 1
    counts = bootstrap_counts(users)
    models: dict[str, dict[str, Any]] = {name: {} for name in scored}
    system_reports: dict[str, dict[str, Any]] = {}
    for name, members in systems.items():
        ctr, clicked = np.concatenate([ctrs[run] for run in members]), np.tile(first.clicked, len(members))
        curve = calibration_curve(ctr, clicked, negative_rate)
        system_reports[name] = {
            "models": [list(scored)[run] for run in members],
            "calibration": {key: values.tolist() for key, values in curve._asdict().items()},
        }
    for part, rows in zip(PARTS, (np.arange(len(unseen)), np.flatnonzero(unseen)), strict=True):
        samples = metric_samples([ctr[rows] for ctr in ctrs], candidates.select(rows), counts)
        for name, summary in zip(scored, summaries(samples), strict=True):
            models[name][part] = summary | measure(scored[name].select(rows), negative_rate)
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
    if report["notice"]:
        lines.append(f"notice: {report['notice']}")
    return "\n".join(lines)


def _cells(ranker: Mapping[str, Any]) -> tuple[str, ...]:
    every, unseen = (ranker[part] for part in PARTS)
    figures = (every["auc"], every["gauc_page_mean"], unseen["gauc_page_mean"], every["log_loss"])
    cells = ["nan" if figure is None else f"{figure:.4f}" for figure in figures]
    cells.append("nan" if every["copc"] is None else f"{every['copc']:.3f}")
    difference = every.get("differences", {}).get("gauc_page_mean")
    if difference is None or difference["low"] is None:
        return *cells, ""
    return *cells, "{difference:+.4f} [{low:+.4f}, {high:+.4f}]".format(**difference)
