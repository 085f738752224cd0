"""The figures of `docs/study.md`."""

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import numpy as np

from beam_pipelines.format.outputs import whole_file
from benchmarks.base import ROOT
from benchmarks.study.plan import AS_PUBLISHED, CATEGORIES, UNTRAINED, VARIANTS, WORLD, Encoder, variants
from benchmarks.study.results import Results, category_gains, compared, growth, row_name

DOCS = ROOT / "docs"


def curve(results: Results, prefix: str, values: Mapping[str, float], axis: plt.Axes, label: str) -> bool:
    """SimScore over one setting less that of COURIER as it is; whether there were values to compare."""
    encoders = [Encoder("courier", "random", VARIANTS[f"{prefix}_{name}"], f"{prefix}_{name}") for name in values]
    differences = compared(results, encoders, Encoder("courier", "random"))
    points = [(value, each) for value, each in zip(values.values(), differences, strict=True) if each is not None]
    if len(points) < 2:
        axis.set_visible(False)
        return False
    x = [value for value, _ in points]
    y = np.array([[each.mean, each.mean - each.low, each.high - each.mean] for _, each in points])
    axis.errorbar(x, y[:, 0], yerr=y[:, 1:].T, marker="o", capsize=3)
    axis.set_xscale("log")
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    axis.set_xlabel(label)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_ylabel("SimScore GAUC, difference")
    axis.grid(alpha=0.3)
    return True


def figures(results: Results, encoders: Sequence[Encoder]) -> list[str]:
    """Draws them; the names of the files."""
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "study"})
    names = []
    known = [(encoder, results.similarity(encoder)) for encoder in encoders]
    known = [(encoder, values) for encoder, values in known if values is not None]
    if known:
        figure, axis = plt.subplots(figsize=(7, 0.28 * len(known) + 0.8))
        for y, (encoder, values) in enumerate(reversed(known)):
            found = results.difference(values, results.pages["similarity_user"])
            colour = "tab:orange" if encoder.start == "published" else "tab:blue"
            error = [[found.mean - found.low], [found.high - found.mean]]
            axis.errorbar(found.mean, y, xerr=error, fmt="o", capsize=3, color=colour)
        axis.set_yticks(range(len(known)), [row_name(encoder) for encoder, _ in reversed(known)])
        axis.set_xlabel("SimScore GAUC on the test pages, 95 % over users")
        axis.grid(axis="x", alpha=0.3)
        names.append(_save(figure, "methods"))
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.6))
    temperatures = {f"{value:g}": value for value in (0.02, 0.05, 0.1, 0.2, 0.5)}
    batches = {str(pages): float(pages) for pages in (16, 32, 64, 128, 256, 512)}
    drawn = [
        curve(results, "temperature", temperatures, axes[0], "temperature"),
        curve(results, "batch", batches, axes[1], "pages per step"),
    ]
    if any(drawn):
        names.append(_save(figure, "settings"))
    plt.close(figure)
    names += _world_figure(results) + _category_figure(results)
    return names


def _world_figure(results: Results) -> list[str]:
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8))
    drawn = False
    for start, colour in (("random", "tab:blue"), ("published", "tab:orange")):
        found = {size: growth(results, "world", Encoder("courier", start), size) for size in WORLD.sizes}
        known = {size: each for size, each in found.items() if each is not None}
        if not known:
            continue
        drawn = True
        axes[0].plot(list(known), [each.gauc for each in known.values()], "o-", color=colour, label=f"COURIER, {start}")
        ranked = {size: each.gain for size, each in known.items() if each.gain is not None}
        errors = [[g.mean - g.low for g in ranked.values()], [g.high - g.mean for g in ranked.values()]]
        means = [gain.mean for gain in ranked.values()]
        axes[1].errorbar(list(ranked), means, yerr=errors if ranked else None, fmt="o-", capsize=3, color=colour)
    for encoder, colour in ((Encoder(UNTRAINED), "tab:blue"), (Encoder(AS_PUBLISHED, "published"), "tab:orange")):
        each = growth(results, "world", encoder)
        if each is not None:
            axes[0].axhline(each.gauc, color=colour, linestyle=":", label=row_name(encoder))
            if each.gain is not None:
                axes[1].axhline(each.gain.mean, color=colour, linestyle=":")
    for axis, label in zip(axes, ("SimScore GAUC", "ranker's GAUC less no pictures"), strict=True):
        axis.set_xscale("log")
        axis.set_xticks(WORLD.sizes, [f"{size:,}" for size in WORLD.sizes])
        axis.minorticks_off()
        axis.set_xlabel("simulated pages to learn on")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    if drawn:
        axes[0].legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        return [_save(figure, "pages")]
    plt.close(figure)
    return []


def _category_figure(results: Results) -> list[str]:
    encoders = {"all categories": Encoder("courier")} | {
        f"{CATEGORIES[each.view]} alone": each for each in variants() if each.view in CATEGORIES
    }
    found = {name: category_gains(results, encoder, "simscore") for name, encoder in encoders.items()}
    if not found["all categories"]:
        return []
    order = sorted(found["all categories"], key=lambda name: -found["all categories"][name].mean)
    figure, axis = plt.subplots(figsize=(7, 2.8))
    for n, (name, gains_of) in enumerate(found.items()):
        known = [(x, gains_of[category]) for x, category in enumerate(order) if category in gains_of]
        x, means = [each + (n - 1) * 0.2 for each, _ in known], [gain.mean for _, gain in known]
        errors = [[gain.mean - gain.low for _, gain in known], [gain.high - gain.mean for _, gain in known]]
        if known:
            axis.errorbar(x, means, yerr=errors, fmt="o", markersize=3, capsize=2, label=f"encoder of {name}")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_xticks(range(len(order)), order, rotation=40, ha="right")
    axis.set_ylabel("gain of clicked items")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(found), frameon=False)
    return [_save(figure, "categories")]


FIGURES = {
    "methods": "SimScore of each way to pre-train",
    "settings": "SimScore by temperature and by pages per step, less that of COURIER as it is",
    "pages": "what learning from clicks gives by the number of pages",
    "categories": "gain of the ranker by category",
}


def _save(figure: plt.Figure, name: str) -> str:
    figure.tight_layout()
    path = DOCS / f"study-{name}.svg"
    with whole_file(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    return path.name
