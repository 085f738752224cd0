"""Makes `docs/study.md` and its figures of the result files of the study and of `page.md`.

    python -m benchmarks.study.report

Differences are paired over the same pages with seeds averaged; intervals are 95 %, by a bootstrap over users. Where
several ways are compared with one, stars mark differences that hold after Holm's correction for all of the column.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import numpy as np

from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.text_file import read_json
from benchmarks.base import ROOT
from benchmarks.study.plan import (
    AS_PUBLISHED,
    CATEGORIES,
    FORMS,
    METHODS,
    OTHER_DATA,
    PARTS_OF_PAGES,
    RANKER_FEATURES,
    SEEDS,
    UNTRAINED,
    VARIANTS,
    WORLD,
    Encoder,
    features_of,
    fewer_pages,
    growing,
    methods,
    variants,
)
from benchmarks.study.run import FOLDER
from benchmarks.tables.cells import table
from models.experiments.significance import holm

DOCS = ROOT / "docs"
DRAWS = 4000
LEVEL = 0.05
MISSING = "not run"

NAMES = {
    "courier": "COURIER",
    "supervised": "Supervised",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
    "moco_v2": "MoCo v2",
    "swav": "SwAV",
    "clip": "CLIP",
    "maskclip": "MaskCLIP",
    "m6_moe": "M6 (sparse experts)",
    UNTRAINED: "untrained",
    AS_PUBLISHED: "as published",
}
VARIANT_NAMES = {
    "no_click_sequence": "without the loss of clicks",
    "no_contrast": "without contrast",
    "no_reconstruction": "without reconstruction",
    "no_negative_candidates": "without unclicked candidates",
    "projection_head": "with a projection head (Table 11)",
    "hinge": "hinge loss (Table 12)",
    "titles": "with titles (Table 8)",
    "clicks_10": "10 clicks instead of 5",
    "causal": "view `causal` instead of `page`",
    **{name: f"pages of {category} alone" for name, category in CATEGORIES.items()},
}

PAPER = {
    "courier": (0.16, 0.19),
    "supervised": (-0.14, -0.06),
    "simclr": (0.05, -0.08),
    "simsiam": (-0.10, -0.29),
    "clip": (0.04, -0.09),
    "maskclip": (0.03, -0.03),
}
"""The paper's Table 5, all categories: what pictures add to AUC and to GAUC, in points."""

PAPER_VARIANTS = {
    "no_click_sequence": 0.11,
    "no_contrast": -0.11,
    "no_reconstruction": -0.11,
    "no_negative_candidates": -0.06,
    "projection_head": -0.04,
    "hinge": 0.02,
    "titles": -0.09,
}
"""What pictures add to GAUC in its Tables 6, 8, 11 and 12, in points; with COURIER as it is .19."""

COMMON_CATEGORIES = 12


class Difference(NamedTuple):
    """A paired difference, its 95 % interval, and the share of samples on the other side of zero, doubled."""

    mean: float
    low: float
    high: float
    p: float

    def text(self, holds: bool = False) -> str:
        """With a star where it holds after the correction."""
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]{' *' if holds else ''}"


class Results:
    """The files of the study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages = read_json(folder / "hm/pages.json")
        self._drawn: dict[int, np.ndarray] = {}

    def read(self, path: str, seeds: Sequence[int] = range(SEEDS)) -> list[dict[str, Any]]:
        """The results of a cell's seeds that are there."""
        files = [self.folder / f"{path}-{seed}.json" for seed in seeds]
        return [read_json(file) for file in files if file.exists()]

    def form(self, encoder: Encoder) -> str | None:
        """The form of its embeddings that tuning has chosen, on H&M."""
        if encoder.method not in METHODS:
            files = [self.folder / f"hm/encoders/{encoder.name}-0.json"]
        else:
            files = sorted((self.folder / "hm/tuning").glob(f"{encoder.method}-{encoder.start}-*.json"))
        read = [read_json(file)["validation"] for file in files if file.exists()]
        best = [(values[form], form) for values in read for form in FORMS]
        return max(best)[1] if best else None

    def similarity(self, encoder: Encoder) -> np.ndarray | None:
        """AUC of SimScore on each test page, seeds averaged."""
        seeds, form = self.read(f"hm/encoders/{encoder.name}"), self.form(encoder)
        return np.mean([seed["test"][form] for seed in seeds], axis=0) if seeds else None

    def ranker(self, name: str, part: str) -> np.ndarray | None:
        """AUC of each test page, seeds averaged."""
        seeds = self.read(f"hm/rankers/{name}")
        return np.mean([seed["pages"][part] for seed in seeds], axis=0) if seeds else None

    def auc(self, name: str) -> np.ndarray | None:
        """By user the summed placements of clicked and of unclicked candidates, seeds averaged."""
        seeds = self.read(f"hm/rankers/{name}")
        return np.mean([seed["placements"] for seed in seeds], axis=0) if seeds else None

    def difference(self, values: np.ndarray, user: Sequence[int]) -> Difference:
        """Mean over pages of paired differences."""
        _, index = np.unique(user, return_inverse=True)
        totals, counts = np.bincount(index, values), np.bincount(index)
        drawn = self._users(len(counts))
        return _difference(float(values.mean()), drawn @ totals / (drawn @ counts))

    def auc_difference(self, one: np.ndarray, other: np.ndarray, candidates: Sequence[Sequence[int]]) -> Difference:
        """Of AUC over all candidates; see `models.evaluation.comparison.metric_samples`."""
        counts = np.array(candidates, float)
        drawn = self._users(counts.shape[1])

        def parts(placements: np.ndarray) -> tuple[float, np.ndarray]:
            auc = placements[0].sum() / counts[0].sum()
            return auc, sum(drawn @ placements[side] / (drawn @ counts[side]) for side in (0, 1)) - auc

        (a, of_a), (b, of_b) = parts(one), parts(other)
        return _difference(a - b, of_a - of_b)

    def _users(self, users: int) -> np.ndarray:
        if users not in self._drawn:
            rng = np.random.default_rng(0)
            self._drawn[users] = rng.multinomial(users, np.full(users, 1 / users), DRAWS).astype(np.float64)
        return self._drawn[users]


def _difference(mean: float, samples: np.ndarray) -> Difference:
    low, high = np.quantile(samples, (0.025, 0.975))
    beyond = min((samples <= 0).mean(), (samples >= 0).mean())
    return Difference(mean, float(low), float(high), min(1.0, 2 * max(float(beyond), 1 / DRAWS)))


def measured_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of the rows that something is known of; the others are named under it."""
    known = [row for row in rows if any(cell not in ("", MISSING) for cell in row[1:])]
    rest = [row[0] for row in rows if row not in known]
    under = f"\n\nNot measured yet: {'; '.join(rest)}." if rest else ""
    return (table(head, known) if known else "") + under


def column(rows: Sequence[Difference | None]) -> list[str]:
    """A column of the table, with stars."""
    adjusted = iter(holm([each.p for each in rows if each is not None]))
    return [MISSING if each is None else each.text(next(adjusted) < LEVEL) for each in rows]


def row_name(encoder: Encoder) -> str:
    """Of a way to pre-train and where it starts."""
    start = "" if encoder.method == AS_PUBLISHED else f", {encoder.start} weights"
    return f"{NAMES[encoder.method]}{'' if encoder.method == UNTRAINED else start}"


def compared(results: Results, encoders: Sequence[Encoder], base: Encoder) -> list[Difference | None]:
    """SimScore of encoders less that of one."""
    reference = results.similarity(base)
    found = [results.similarity(encoder) for encoder in encoders]
    user = results.pages["similarity_user"]
    return [
        None if each is None or reference is None or encoder == base else results.difference(each - reference, user)
        for encoder, each in zip(encoders, found, strict=True)
    ]


def gains(results: Results, encoders: Sequence[Encoder], feature: str, part: str) -> list[Difference | None]:
    """GAUC of rankers with an encoder's pictures less that of rankers without."""
    none, user = results.ranker("none", part), results.pages["ranker_user"][part]
    found = [results.ranker(f"{encoder.name}-{feature}", part) for encoder in encoders]
    return [None if each is None or none is None else results.difference(each - none, user) for each in found]


def auc_gains(results: Results, encoders: Sequence[Encoder], feature: str) -> list[Difference | None]:
    """AUC of rankers with an encoder's pictures less that of rankers without."""
    none = results.auc("none")
    found = [results.auc(f"{encoder.name}-{feature}") for encoder in encoders]
    counts = results.pages["candidates"]
    return [None if each is None or none is None else results.auc_difference(each, none, counts) for each in found]


def similarity_table(results: Results, encoders: Sequence[Encoder]) -> str:
    """SimScore, and each less COURIER from the same start and less the untrained network."""
    of_start = {start: Encoder("courier", start) for start in ("random", "published")}
    against = {start: compared(results, encoders, base) for start, base in of_start.items()}
    less_courier = [against[encoder.start][n] for n, encoder in enumerate(encoders)]
    texts = column(less_courier)
    rows = []
    for n, encoder in enumerate(encoders):
        values, seeds = results.similarity(encoder), results.read(f"hm/encoders/{encoder.name}")
        if values is None:
            rows.append([row_name(encoder), MISSING, "", "", ""])
            continue
        form = results.form(encoder)
        spread = [float(np.mean(seed["test"][form])) for seed in seeds]
        over_seeds = f"{statistics.stdev(spread):.4f}" if len(spread) > 1 else ""
        is_courier = encoder.method == "courier"
        rows.append([row_name(encoder), form, f"{values.mean():.4f}", over_seeds, "" if is_courier else texts[n]])
    return measured_table(("", "form", "SimScore GAUC", "over seeds", "less COURIER from the same start"), rows)


def ranker_table(results: Results, encoders: Sequence[Encoder], part: str) -> str:
    """What pictures add to the ranker by each feature, beside what they add in the paper's."""
    columns = [column(gains(results, encoders, feature, part)) for feature in RANKER_FEATURES]
    return _beside_the_paper(encoders, columns, 1)


def _beside_the_paper(encoders: Sequence[Encoder], columns: Sequence[Sequence[str]], which: int) -> str:
    rows = []
    for n, encoder in enumerate(encoders):
        cells = [of[n] for of in columns]
        paper = PAPER.get(encoder.method) if any(cell != MISSING for cell in cells) else None
        rows.append([row_name(encoder), *cells, "" if paper is None else f"{paper[which] / 100:+.4f}"])
    return measured_table(("", *RANKER_FEATURES, "the paper's"), rows)


def auc_table(results: Results, encoders: Sequence[Encoder]) -> str:
    """AUC over all candidates less that of the ranker without pictures, beside the paper's."""
    columns = [column(auc_gains(results, encoders, feature)) for feature in RANKER_FEATURES]
    return _beside_the_paper(encoders, columns, 0)


def label_table(results: Results, encoders: Sequence[Encoder]) -> str:
    """Labels of neighbours, raw and whitened, and the probe."""
    rows = []
    for encoder in encoders:
        seeds = results.read(f"hm/encoders/{encoder.name}")
        if not seeds:
            rows.append([row_name(encoder), *[MISSING] * 4])
            continue
        cells = [
            " / ".join(f"{statistics.mean(s['consistency'][label][form][0] for s in seeds):.3f}" for form in FORMS)
            for label in seeds[0]["consistency"]
        ]
        probe = next((seed["probe"]["top1"] for seed in seeds if "probe" in seed), math.nan)
        rows.append([row_name(encoder), *cells, f"{probe:.3f}"])
    return measured_table(("raw / whitened", "type", "colour", "pattern", "linear probe, type"), rows)


def variant_table(results: Results) -> str:
    """COURIER's variants less COURIER, by SimScore and through the ranker."""
    base = Encoder("courier")
    encoders = [encoder for encoder in variants() if encoder.variant in VARIANT_NAMES]
    user = results.pages["ranker_user"]["all"]
    columns = [column(compared(results, encoders, base))]
    for feature in ("simscore", "cluster_id"):
        of_courier = results.ranker(f"{base.name}-{feature}", "all")
        found = [results.ranker(f"{encoder.name}-{feature}", "all") for encoder in encoders]
        columns.append(
            column(
                [
                    None if each is None or of_courier is None else results.difference(each - of_courier, user)
                    for each in found
                ]
            )
        )
    rows = []
    for n, encoder in enumerate(encoders):
        ranked = [
            of[n] if feature in features_of(encoder) else ""
            for feature, of in zip(("simscore", "cluster_id"), columns[1:], strict=True)
        ]
        cells = [columns[0][n], *ranked]
        paper = PAPER_VARIANTS.get(encoder.variant) if any(cell not in ("", MISSING) for cell in cells) else None
        of_paper = "" if paper is None else f"{(paper - PAPER['courier'][1]) / 100:+.4f}"
        rows.append([VARIANT_NAMES[encoder.variant], *cells, of_paper])
    head = (
        "COURIER from random weights",
        "SimScore GAUC",
        "ranker, simscore",
        "ranker, cluster_id",
        "the paper's GAUC",
    )
    return measured_table(head, rows)


def category_gains(results: Results, encoder: Encoder, feature: str) -> dict[str, Difference]:
    """By category of the clicked candidate: how much better pictures place it among its page's unclicked candidates."""
    rows = (results.read(f"hm/rankers/{name}") for name in (f"{encoder.name}-{feature}", "none"))
    found, none = (np.mean([seed["clicks"] for seed in seeds], axis=0) if seeds else None for seeds in rows)
    if found is None or none is None:
        return {}
    category, user = np.array(results.pages["click_category"]), np.array(results.pages["click_user"])
    names, counts = np.unique(category, return_counts=True)
    common = names[np.argsort(-counts)][:COMMON_CATEGORIES]
    return {str(name): results.difference((found - none)[category == name], user[category == name]) for name in common}


def curve(results: Results, prefix: str, values: Mapping[str, float], axis: plt.Axes, label: str) -> bool:
    """SimScore over one setting; whether there was any value."""
    points = []
    for name, value in values.items():
        found = results.similarity(Encoder("courier", "random", VARIANTS[f"{prefix}_{name}"], f"{prefix}_{name}"))
        if found is not None:
            points.append((value, results.difference(found, results.pages["similarity_user"])))
    if not points:
        return False
    x = [value for value, _ in points]
    y = np.array([[each.mean, each.mean - each.low, each.high - each.mean] for _, each in points])
    axis.errorbar(x, y[:, 0], yerr=y[:, 1:].T, marker="o", capsize=3)
    axis.set_xscale("log")
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    axis.set_xlabel(label)
    axis.set_ylabel("SimScore GAUC")
    axis.grid(alpha=0.3)
    return True


TASKS = {"click": "click", "long_visit": "long visit", "ctcvr": "order", "click, new items": "click on new items"}


def task_table(results: Results) -> str:
    """The article's Tables 2 to 4 on the sample: AUC of three tasks less that of the ranker without pictures."""
    none = results.read("sample/rankers/none")
    rows = []
    for encoder in (
        Encoder(AS_PUBLISHED, "published"),
        *(Encoder(name) for name in ("moco_v2", "swav", "m6_moe", "courier")),
    ):
        seeds = results.read(f"sample/rankers/{encoder.name}-simscore")
        if not seeds or not none:
            rows.append([row_name(encoder), *[MISSING] * len(TASKS)])
            continue
        cells = []
        for task in TASKS:
            one, other = (np.mean([seed["tasks"][task]["placements"] for seed in of], axis=0) for of in (seeds, none))
            cells.append(results.auc_difference(one, other, none[0]["tasks"][task]["candidates"]).text())
        rows.append([row_name(encoder), *cells])
    if none:
        aucs = [statistics.mean(seed["tasks"][task]["auc"] for seed in none) for task in TASKS]
        rows.insert(0, ["no pictures, AUC", *(f"{auc:.4f}" for auc in aucs)])
    return measured_table(("", *TASKS.values()), rows)


class Growth(NamedTuple):
    """What is found with so many pages to learn on.

    Attributes:
        gauc: of SimScore, the mean over seeds.
        deviation: over seeds; `None` for one.
        ranker: GAUC of the ranker by `simscore`.
        gain: over the ranker without pictures.
    """

    gauc: float
    deviation: float | None
    ranker: float | None
    gain: Difference | None


def growth(results: Results, data: str, encoder: Encoder, size: int = 0) -> Growth | None:
    """What was found on other data than H&M; `None` if nothing was."""
    name = f"{encoder.name}-{size}" if size else encoder.name
    seeds, none = results.read(f"{data}/encoders/{name}"), results.read(f"{data}/rankers/none")
    if not seeds:
        return None
    form = max(FORMS, key=seeds[0]["validation"].__getitem__)
    gaucs = [float(np.mean(seed["test"][form])) for seed in seeds]
    deviation = statistics.stdev(gaucs) if len(gaucs) > 1 else None
    ranked = results.read(f"{data}/rankers/{name}-simscore")
    if not ranked or not none:
        return Growth(statistics.mean(gaucs), deviation, None, None)
    found, without = (np.mean([each["pages"] for each in of], axis=0) for of in (ranked, none))
    gain = results.difference(found - without, ranked[0]["user"])
    return Growth(statistics.mean(gaucs), deviation, float(found.mean()), gain)


def growth_row(name: str, found: Growth | None) -> list[str]:
    """A row of the tables of other data."""
    if found is None:
        return [name, MISSING, MISSING, MISSING]
    spread = "" if found.deviation is None else f" ± {found.deviation:.4f}"
    ranker = MISSING if found.ranker is None else f"{found.ranker:.4f}"
    return [name, f"{found.gauc:.4f}{spread}", ranker, MISSING if found.gain is None else found.gain.text()]


GROWTH_HEAD = ("", "SimScore GAUC ± over seeds", "ranker's GAUC, simscore", "less the ranker without pictures")


def world_table(results: Results) -> str:
    """SimScore and the ranker's GAUC by the number of pages in the simulated world."""
    rows = [
        growth_row(
            f"{row_name(encoder)}, {size:,} pages" if size else row_name(encoder),
            growth(results, "world", encoder, size),
        )
        for encoder, size in growing(WORLD.sizes)
    ]
    seeds = results.read(f"world/encoders/{UNTRAINED}-random")
    taste = f"\n\nThe true taste has a GAUC of {seeds[0]['gauc_of_taste']:.4f} on these pages." if seeds else ""
    return measured_table(GROWTH_HEAD, rows) + taste


def part_table(results: Results) -> str:
    """COURIER on parts of H&M's pages less COURIER on all of them."""
    rows = []
    for encoder in fewer_pages():
        base = Encoder(encoder.method, encoder.start)
        (less,) = compared(results, [encoder], base)
        one, other = (results.ranker(f"{each.name}-simscore", "all") for each in (encoder, base))
        user = results.pages["ranker_user"]["all"]
        ranked = None if one is None or other is None else results.difference(one - other, user)
        texts = [MISSING if each is None else each.text() for each in (less, ranked)]
        rows.append([f"{row_name(base)}, 1/{PARTS_OF_PAGES[encoder.view]} of the pages", *texts])
    return measured_table(("less COURIER on all pages", "SimScore GAUC", "ranker's GAUC, simscore"), rows)


def other_table(results: Results, data: str) -> str:
    """All ways on other data."""
    return measured_table(
        GROWTH_HEAD, [growth_row(row_name(encoder), growth(results, data, encoder)) for encoder in methods()]
    )


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
        drawn |= bool(known)
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
    axes[0].legend(fontsize=7)
    if drawn:
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
    axis.legend(fontsize=7)
    return [_save(figure, "categories")]


FIGURES = {
    "methods": "SimScore of each way to pre-train",
    "settings": "SimScore by temperature and by pages per step",
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


def progress(results: Results) -> str:
    """How much of the plan is measured, and what it took."""
    from benchmarks.study.run import cells

    every = cells(SEEDS)
    done = [read_json(path) for cell in every if (path := results.folder / f"{cell.path}.json").exists()]
    hours = sum(result["seconds"] for result in done) / 3600
    commits = ", ".join(sorted({result["commit"] for result in done}))
    return f"{len(done)} of {len(every)} cells are measured; they took {hours:.1f} hours (at {commits})."


def tables(results: Results) -> dict[str, str]:
    """All tables and figures, by the name of their mark in the page."""
    encoders = list(methods())
    drawn = figures(results, encoders)
    return {
        "progress": progress(results),
        "similarity": similarity_table(results, encoders),
        "rankers": ranker_table(results, encoders, "all"),
        "rankers, unseen": ranker_table(results, encoders, "unseen"),
        "auc": auc_table(results, encoders),
        "labels": label_table(results, encoders),
        "variants": variant_table(results),
        "world": world_table(results),
        "parts": part_table(results),
        "tasks": task_table(results),
        **{data: other_table(results, data) for data in OTHER_DATA},
        **{
            f"figure {name}": f"![{title}](study-{name}.svg)" if f"study-{name}.svg" in drawn else MISSING
            for name, title in FIGURES.items()
        },
    }


def fill(page: str, parts: Mapping[str, str]) -> str:
    """Puts each part in the place of its mark, `{{NAME}}`."""
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def main() -> None:
    """Writes the page."""
    page = DOCS / "study.md"
    text = fill(Path(__file__).with_name("page.md").read_text(), tables(Results(FOLDER)))
    with whole_file(page) as file:
        file.write_text(text)
    print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
