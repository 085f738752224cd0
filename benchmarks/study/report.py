"""Makes `docs/study.md` and its figures of the result files of the study and of `page.md`.

    python -m benchmarks.study.report

Differences are paired over the same pages with seeds averaged; intervals are 95 %, by a bootstrap over users. Where
several ways are compared with one, stars mark differences that hold after Holm's correction for all of the column.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
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
    FORMS,
    RANKER_FEATURES,
    SEEDS,
    THROUGH_RANKER,
    UNTRAINED,
    VARIANTS,
    Encoder,
    growing,
    methods,
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
}


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
        self.pages = read_json(folder / "pages.json")
        self._drawn: dict[int, np.ndarray] = {}

    def read(self, path: str, seeds: Sequence[int] = range(SEEDS)) -> list[dict[str, Any]]:
        """The results of a cell's seeds that are there."""
        files = [self.folder / f"{path}-{seed}.json" for seed in seeds]
        return [read_json(file) for file in files if file.exists()]

    def form(self, encoder: Encoder) -> str | None:
        """The form of its embeddings that tuning has chosen."""
        if encoder.method in (UNTRAINED, AS_PUBLISHED):
            files = [self.folder / f"encoders/{encoder.name}-0.json"]
        else:
            files = sorted((self.folder / "tuning").glob(f"{encoder.method}-{encoder.start}-*.json"))
        read = [read_json(file)["validation"] for file in files if file.exists()]
        best = [(values[form], form) for values in read for form in FORMS]
        return max(best)[1] if best else None

    def similarity(self, encoder: Encoder) -> np.ndarray | None:
        """AUC of SimScore on each test page, seeds averaged."""
        seeds, form = self.read(f"encoders/{encoder.name}"), self.form(encoder)
        return np.mean([seed["test"][form] for seed in seeds], axis=0) if seeds else None

    def ranker(self, name: str, part: str) -> np.ndarray | None:
        """AUC of each test page, seeds averaged."""
        seeds = self.read(f"rankers/{name}")
        return np.mean([seed["pages"][part] for seed in seeds], axis=0) if seeds else None

    def auc(self, name: str) -> np.ndarray | None:
        """By user the summed placements of clicked and of unclicked candidates, seeds averaged."""
        seeds = self.read(f"rankers/{name}")
        return np.mean([seed["placements"] for seed in seeds], axis=0) if seeds else None

    def difference(self, values: np.ndarray, user: Sequence[int]) -> Difference:
        """Mean over pages of paired differences."""
        _, index = np.unique(user, return_inverse=True)
        totals, counts = np.bincount(index, values), np.bincount(index)
        drawn = self._users(len(counts))
        return _difference(float(values.mean()), drawn @ totals / (drawn @ counts))

    def auc_difference(self, one: np.ndarray, other: np.ndarray) -> Difference:
        """Of AUC over all candidates; see `models.evaluation.comparison.metric_samples`."""
        counts = np.array(self.pages["candidates"], float)
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
    return [None if each is None or none is None else results.auc_difference(each, none) for each in found]


def similarity_table(results: Results, encoders: Sequence[Encoder]) -> str:
    """SimScore, and each less COURIER from the same start and less the untrained network."""
    of_start = {start: Encoder("courier", start) for start in ("random", "published")}
    against = {start: compared(results, encoders, base) for start, base in of_start.items()}
    less_courier = [against[encoder.start][n] for n, encoder in enumerate(encoders)]
    texts = column(less_courier)
    rows = []
    for n, encoder in enumerate(encoders):
        values, seeds = results.similarity(encoder), results.read(f"encoders/{encoder.name}")
        if values is None:
            rows.append([row_name(encoder), MISSING, "", "", ""])
            continue
        form = results.form(encoder)
        spread = [float(np.mean(seed["test"][form])) for seed in seeds]
        over_seeds = f"{statistics.stdev(spread):.4f}" if len(spread) > 1 else ""
        is_courier = encoder.method == "courier"
        rows.append([row_name(encoder), form, f"{values.mean():.4f}", over_seeds, "" if is_courier else texts[n]])
    return table(("", "form", "SimScore GAUC", "over seeds", "less COURIER from the same start"), rows)


def ranker_table(results: Results, encoders: Sequence[Encoder], name: Callable[[Encoder], str]) -> str:
    """What pictures add to the ranker by each feature."""
    columns = [
        column(gains(results, encoders, feature, part)) for feature in RANKER_FEATURES for part in ("all", "unseen")
    ]
    heads = [f"{feature}, {part}" for feature in RANKER_FEATURES for part in ("all", "unseen")]
    rows = [[name(encoder), *(of[n] for of in columns)] for n, encoder in enumerate(encoders)]
    return table(("", *heads), rows)


def auc_table(results: Results, encoders: Sequence[Encoder]) -> str:
    """AUC over all candidates less that of the ranker without pictures."""
    columns = [column(auc_gains(results, encoders, feature)) for feature in RANKER_FEATURES]
    rows = [[row_name(encoder), *(of[n] for of in columns)] for n, encoder in enumerate(encoders)]
    return table(("", *RANKER_FEATURES), rows)


def label_table(results: Results, encoders: Sequence[Encoder]) -> str:
    """Labels of neighbours, raw and whitened, and the probe."""
    rows = []
    for encoder in encoders:
        seeds = results.read(f"encoders/{encoder.name}")
        if not seeds:
            rows.append([row_name(encoder), *[MISSING] * 4])
            continue
        cells = [
            " / ".join(f"{statistics.mean(s['consistency'][label][form][0] for s in seeds):.3f}" for form in FORMS)
            for label in seeds[0]["consistency"]
        ]
        rows.append([row_name(encoder), *cells, f"{statistics.mean(s['probe']['top1'] for s in seeds):.3f}"])
    return table(("raw / whitened", "type", "colour", "pattern", "linear probe, type"), rows)


def variant_table(results: Results) -> str:
    """COURIER's variants less COURIER, by SimScore and through the ranker."""
    base = Encoder("courier")
    encoders = [Encoder("courier", "random", VARIANTS[name], name) for name in VARIANT_NAMES]
    user = results.pages["ranker_user"]["all"]
    through: list[Difference | None] = []
    for encoder in encoders:
        one, other = (results.ranker(f"{each.name}-cluster_id", "all") for each in (encoder, base))
        known = encoder.variant in THROUGH_RANKER and one is not None and other is not None
        through.append(results.difference(one - other, user) if known else None)
    similarity, ranked = column(compared(results, encoders, base)), column(through)
    rows = [
        [VARIANT_NAMES[each.variant], similarity[n], ranked[n] if each.variant in THROUGH_RANKER else ""]
        for n, each in enumerate(encoders)
    ]
    return table(
        ("COURIER from random weights", "SimScore GAUC less COURIER", "ranker with cluster ID, GAUC less"), rows
    )


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


def world_table(results: Results) -> str:
    """SimScore and the ranker's GAUC by the number of pages in the simulated world."""
    none = results.read("world_rankers/none")
    rows, taste = [], None
    for encoder, size in growing():
        seeds, ranked = (results.read(f"{kind}/{encoder.name}-{size}") for kind in ("world", "world_rankers"))
        name = f"{row_name(encoder)}, {size:,} pages" if size else row_name(encoder)
        if not seeds:
            rows.append([name, MISSING, MISSING, MISSING])
            continue
        taste = seeds[0]["gauc_of_taste"]
        forms = [max(FORMS, key=seed["validation"].__getitem__) for seed in seeds]
        gaucs = [float(np.mean(seed["test"][form])) for seed, form in zip(seeds, forms, strict=True)]
        spread = f" (seeds {statistics.stdev(gaucs):.4f})" if len(gaucs) > 1 else ""
        gain, gauc = MISSING, MISSING
        if ranked and none:
            found, without = (np.mean([each["pages"] for each in of], axis=0) for of in (ranked, none))
            gauc, gain = f"{found.mean():.4f}", results.difference(found - without, ranked[0]["user"]).text()
        rows.append([name, f"{statistics.mean(gaucs):.4f}{spread}", gauc, gain])
    head = ("", "SimScore GAUC", "ranker's GAUC by simscore", "less the ranker without pictures")
    note = "" if taste is None else f"\n\nThe true taste has a GAUC of {taste:.4f} on these pages."
    return table(head, rows) + note


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
    return names


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
    """All tables, by the name of their mark in the page."""
    encoders = list(methods())
    through = [Encoder("courier", "random", VARIANTS[name], name) for name in THROUGH_RANKER]
    drawn = figures(results, encoders)
    return {
        "progress": progress(results),
        "similarity": similarity_table(results, encoders),
        "rankers": ranker_table(results, encoders, row_name),
        "auc": auc_table(results, encoders),
        "labels": label_table(results, encoders),
        "variants": variant_table(results),
        "variants through the ranker": ranker_table(results, through, lambda each: VARIANT_NAMES[each.variant]),
        "world": world_table(results),
        "figures": "\n\n".join(f"![{name.removesuffix('.svg')}]({name})" for name in drawn) or MISSING,
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
