"""Tables of what pictures add to the ranker."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.tables.cells import Figures, difference, estimate, number, table


def pictures_sample(figures: Figures) -> str:
    """GAUC by image feature."""
    rows = []
    for feature, row in figures.items():
        if not isinstance(row, Mapping):
            continue
        cells = [feature, number(row["auc"])]
        for part in ("all", "unseen_items"):
            spread = row[part].get("over_seeds")
            cells.append(number(row[part]["gauc"]) + ("" if spread is None else f" ± {spread:.3f}"))
            cells.append(difference(*row[part].get("gain_over_none", (None, None, None))))
        rows.append(cells)
    head = ("image feature", "AUC", "GAUC", "less none", "GAUC, items unseen in training", "less none")
    return table(head, rows)


def pictures_sample_tuned(figures: Figures) -> str:
    """GAUC of rankers on the sample, and of the taste that they learn."""
    names = {"one network": f"one network, {figures['seeds']} seeds", "joined": f"{figures['seeds']} trainings joined"}
    rows = []
    for name, row in figures["rankers"].items():
        cells = [names[name], number(row["auc"])]
        for part in ("all", "unseen_items"):
            values = row[part]["gauc"]
            if len(values) > 1:
                cells.append(f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}")
            else:
                cells.append(estimate(values[0], *row[part]["intervals"][0]))
        rows.append(cells)
    rows += [[name, "", estimate(row["gauc"], *row["interval"]), ""] for name, row in figures["limits"].items()]
    return table(("", "AUC", "GAUC", "GAUC, items unseen in training"), rows)


def pictures_hm(figures: Figures) -> str:
    """GAUC by image feature, beside the category alone and beside the catalogue."""
    parts = ("all", "unseen")
    nothing = (None, None, None)

    def cells(name: str, references: Sequence[str]) -> list[str]:
        row = figures[name]
        return [
            cell
            for part in parts
            for cell in (
                estimate(*row[part]["gauc"]),
                *(difference(*row[part].get(f"gain_over_{reference}", nothing)) for reference in references),
            )
        ]

    rows = {
        name: row for name, row in figures.items() if isinstance(row, Mapping) and isinstance(row.get("all"), Mapping)
    }
    alone = [name for name in rows if name.endswith(", category")]
    first = table(
        ("category alone", "GAUC", "less none", "GAUC, unseen items", "less none"),
        [[name.removesuffix(", category"), *cells(name, ("none, category",))] for name in alone],
    )
    second = table(
        (
            "category and six attributes",
            *("GAUC", "less none", "less boosting", "GAUC, unseen items", "less none", "less boosting"),
        ),
        [[name, *cells(name, ("none", "boosting"))] for name in rows if name not in alone],
    )
    return f"{first}\n\n{second}"


def pictures_published(figures: Figures) -> str:
    """GAUC by image feature with whitened features of published weights."""
    return _gains(figures, f"whole catalogue, {figures['seeds']} seeds", "none")


def pictures_ideas(figures: Figures) -> str:
    """GAUC by idea, on validation pages and, of some, on test pages."""
    tables = []
    for split in ("validation", "test"):
        if split in figures:
            pages = figures[split]["pages"]["all"]
            tables.append(_gains(figures[split], f"{pages} {split} pages, {figures['seeds']} seeds", "simscore"))
    return "\n\n".join(tables)


def paper_table_10(figures: Figures) -> str:
    """Gains over `none` of the paper's ranker and of ours, in both shops."""
    tables = []
    for shop, name in (("hm", "H&M"), ("sample", "the sample")):
        found, rows = figures[shop], []
        for ranker in ("paper", "ours"):
            for row in (each for each in found if each.endswith(f", {ranker}")):
                cells = [row.removesuffix(f", {ranker}"), ranker]
                for part in ("all", "unseen"):
                    gain = found[row][part].get(f"gain_over_none, {ranker}", (None, None, None))
                    cells += [estimate(*found[row][part]["gauc"]), difference(*gain)]
                rows.append(cells)
        title = f"{name}: {found['pages']['all']} test pages, {figures['seeds']} seeds"
        tables.append(table((title, "ranker", "GAUC", "less none", "GAUC, unseen items", "less none"), rows))
    return "\n\n".join(tables)


def _gains(figures: Figures, title: str, reference: str) -> str:
    """GAUC of each row of figures and its difference from one of them, over all and unseen items."""
    parts = ("all", "unseen")
    rows = [
        [
            name,
            *(
                cell
                for part in parts
                for cell in (
                    estimate(*row[part]["gauc"]),
                    difference(*row[part].get(f"gain_over_{reference}", (None, None, None))),
                )
            ),
        ]
        for name, row in figures.items()
        if isinstance(row, Mapping) and isinstance(row.get("all"), Mapping)
    ]
    return table((title, "GAUC", f"less {reference}", "GAUC, unseen items", f"less {reference}"), rows)
