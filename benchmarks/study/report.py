"""Makes `docs/study.md` and its figures of the result files of the study and of `page.md`.

    python -m benchmarks.study.report

Differences are paired over the same pages with seeds averaged; intervals are 95 %, by a bootstrap over users. Where
several ways are compared with one, stars mark differences that hold after Holm's correction for all of the column.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.text_file import read_json
from benchmarks.base import ROOT
from benchmarks.study.figures import DOCS, FIGURES, figures
from benchmarks.study.plan import (
    AS_PUBLISHED,
    CATEGORIES,
    FORMS,
    OTHER_DATA,
    PARTS_OF_PAGES,
    RANKER_FEATURES,
    SEEDS,
    UNTRAINED,
    WORLD,
    Encoder,
    features_of,
    fewer_pages,
    growing,
    methods,
    variants,
)
from benchmarks.study.results import (
    Difference,
    Growth,
    Results,
    auc_gains,
    compared,
    compared_on,
    gains,
    growth,
    row_name,
)
from benchmarks.study.run import FOLDER, cells
from benchmarks.tables.cells import table
from models.experiments.significance import holm

LEVEL = 0.05
DATA_NAMES = {"hm": "H&M", "world": "the simulated world", "sample": "the sample", "movielens": "MovieLens"}
MISSING = "not run"

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


def measured_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of the rows that something is known of."""
    known = [row for row in rows if any(cell not in ("", MISSING) for cell in row[1:])]
    return table(head, known) if known else "(Not measured yet.)"


def missing(results: Results) -> str:
    """The encoders of each data set that no seed of is measured, as a list."""
    names: dict[str, list[str]] = {}
    for cell in cells(1):
        if cell.kind == "encoders" and cell.encoder is not None and not (results.folder / f"{cell.path}.json").exists():
            variant = VARIANT_NAMES.get(cell.encoder.variant, cell.encoder.variant.replace("_", " "))
            size = f"{cell.size:,} pages" if cell.size else ""
            name = ", ".join(part for part in (row_name(cell.encoder), variant, size) if part)
            names.setdefault(DATA_NAMES[cell.data], []).append(name)
    return "\n".join(f"- {data}: {'; '.join(of)}." for data, of in names.items()) or "Nothing."


def column(rows: Sequence[Difference | None]) -> list[str]:
    """A column of the table, with stars."""
    adjusted = iter(holm([each.p for each in rows if each is not None]))
    return [MISSING if each is None else each.text(next(adjusted) < LEVEL) for each in rows]


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
    through_ranker: list[Difference | None] = []
    for encoder in encoders:
        seeds = results.seeds(f"hm/rankers/{encoder.name}-simscore")
        found, of_courier = (results.ranker(f"{each.name}-simscore", "all", seeds) for each in (encoder, base))
        known = found is not None and of_courier is not None
        through_ranker.append(results.difference(found - of_courier, user) if known else None)
    rows = []
    columns = column(compared(results, encoders, base)), column(through_ranker)
    for encoder, of_similarity, of_ranker in zip(encoders, *columns, strict=True):
        ranked = of_ranker if features_of(encoder) else ""
        paper = PAPER_VARIANTS.get(encoder.variant) if {of_similarity, ranked} - {"", MISSING} else None
        of_paper = "" if paper is None else f"{(paper - PAPER['courier'][1]) / 100:+.4f}"
        rows.append([VARIANT_NAMES[encoder.variant], of_similarity, ranked, of_paper])
    head = ("COURIER from random weights", "SimScore GAUC", "ranker, simscore", "the paper's GAUC")
    return measured_table(head, rows)


TASKS = {"click": "click", "long_visit": "long visit", "ctcvr": "order", "click, new items": "click on new items"}


def task_table(results: Results) -> str:
    """The article's Tables 2 to 4 on the sample: AUC of three tasks less that of the ranker without pictures."""
    none = results.read("sample/rankers/none")
    encoders = [
        Encoder(AS_PUBLISHED, "published"),
        *(Encoder(name) for name in ("moco_v2", "swav", "m6_moe", "courier")),
    ]

    def gain(encoder: Encoder, task: str) -> Difference | None:
        seeds = results.read(f"sample/rankers/{encoder.name}-simscore")
        if not seeds or not none:
            return None
        one, other = (np.mean([seed["tasks"][task]["placements"] for seed in of], axis=0) for of in (seeds, none))
        return results.auc_difference(one, other, none[0]["tasks"][task]["candidates"])

    columns = [column([gain(encoder, task) for encoder in encoders]) for task in TASKS]
    rows = [[row_name(encoder), *cells] for encoder, *cells in zip(encoders, *columns, strict=True)]
    if none:
        aucs = [statistics.mean(seed["tasks"][task]["auc"] for seed in none) for task in TASKS]
        rows.insert(0, ["no pictures, AUC", *(f"{auc:.4f}" for auc in aucs)])
    return measured_table(("", *TASKS.values()), rows)


SIMILARITY_HEAD = "SimScore GAUC ± over seeds"
RANKER_HEAD = ("ranker's GAUC, simscore", "less the ranker without pictures")


def similarity_cell(found: Growth | None) -> str:
    """SimScore on other data, with its deviation over seeds."""
    if found is None:
        return MISSING
    return f"{found.gauc:.4f}" if found.deviation is None else f"{found.gauc:.4f} ± {found.deviation:.4f}"


def ranker_cells(found: Sequence[Growth | None]) -> list[list[str]]:
    """The ranker's two columns in the tables of other data."""
    gaucs = [MISSING if each is None or each.ranker is None else f"{each.ranker:.4f}" for each in found]
    gained = column([None if each is None else each.gain for each in found])
    return [list(cells) for cells in zip(gaucs, gained, strict=True)]


def world_table(results: Results) -> str:
    """SimScore and the ranker's GAUC by the number of pages in the simulated world."""
    grown = list(growing(WORLD.sizes))
    found = [growth(results, "world", encoder, size) for encoder, size in grown]
    names = [f"{row_name(encoder)}, {size:,} pages" if size else row_name(encoder) for encoder, size in grown]
    rows = [
        [name, similarity_cell(each), *ranker]
        for name, each, ranker in zip(names, found, ranker_cells(found), strict=True)
    ]
    seeds = results.read(f"world/encoders/{UNTRAINED}-random")
    taste = f"\n\nThe true taste has a GAUC of {seeds[0]['gauc_of_taste']:.4f} on these pages." if seeds else ""
    return measured_table(("", SIMILARITY_HEAD, *RANKER_HEAD), rows) + taste


def part_table(results: Results) -> str:
    """COURIER on parts of H&M's pages less COURIER on all of them."""
    names, similar, ranked = [], [], []
    for encoder in fewer_pages():
        base = Encoder(encoder.method, encoder.start)
        names.append(f"{row_name(base)}, 1/{PARTS_OF_PAGES[encoder.view]} of the pages")
        similar += compared(results, [encoder], base)
        one, other = (results.ranker(f"{each.name}-simscore", "all") for each in (encoder, base))
        user = results.pages["ranker_user"]["all"]
        ranked.append(None if one is None or other is None else results.difference(one - other, user))
    rows = [list(cells) for cells in zip(names, column(similar), column(ranked), strict=True)]
    return measured_table(("less COURIER on all pages", "SimScore GAUC", "ranker's GAUC, simscore"), rows)


def other_table(results: Results, data: str) -> str:
    """All ways on other data; SimScore is also compared with COURIER from the same start."""
    encoders = list(methods())
    found = [growth(results, data, encoder) for encoder in encoders]
    less_courier = column(compared_on(results, data, encoders))
    rows = [
        [row_name(encoder), similarity_cell(each), "" if encoder.method == "courier" else less, *ranker]
        for encoder, each, less, ranker in zip(encoders, found, less_courier, ranker_cells(found), strict=True)
    ]
    return measured_table(("", SIMILARITY_HEAD, "less COURIER from the same start", *RANKER_HEAD), rows)


def measured(results: Results) -> list[Mapping[str, Any]]:
    """What the files of the plan's measured cells hold."""
    paths = (results.folder / f"{cell.path}.json" for cell in cells(SEEDS))
    return [read_json(path) for path in paths if path.exists()]


def progress(results: Results) -> str:
    """How much of the plan is measured, and what it took."""
    done = measured(results)
    hours = sum(result["seconds"] for result in done) / 3600
    return f"{len(done)} of {len(cells(SEEDS))} cells are measured; they took {hours:.1f} hours."


def commits(results: Results) -> str:
    """The commits that the cells were measured at."""
    return ", ".join(sorted({result["commit"] for result in measured(results)}))


def tables(results: Results) -> dict[str, str]:
    """All tables and figures, by the name of their mark in the page."""
    encoders = list(methods())
    drawn = figures(results, encoders)
    return {
        "progress": progress(results),
        "commits": commits(results),
        "similarity": similarity_table(results, encoders),
        "rankers": ranker_table(results, encoders, "all"),
        "rankers, unseen": ranker_table(results, encoders, "unseen"),
        "auc": auc_table(results, encoders),
        "labels": label_table(results, encoders),
        "variants": variant_table(results),
        "world": world_table(results),
        "parts": part_table(results),
        "tasks": task_table(results),
        "missing": missing(results),
        **{data: other_table(results, data) for data in OTHER_DATA},
        **{
            f"figure {name}": f"![{title}](study-{name}.svg)" if f"study-{name}.svg" in drawn else "(Not drawn yet.)"
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
