"""Table of training on a dataset in an object store."""

from benchmarks.tables.cells import Figures, number, table


def remote_training(figures: Figures) -> str:
    """Rates on a remote and on a local dataset."""
    rows = [
        [
            f"from an empty cache to {figures['megabytes']:.1f} MB verified",
            number(figures["reading_s_local"], 2, " s"),
            number(figures["reading_s_remote"], 2, " s"),
            "",
        ]
    ]
    for title, key in (("pre-training, pictures/s", "pictures"), ("ranker, pages/s", "pages")):
        for suffix, epochs in (("first_", ", first epoch"), ("", ", later ones")):
            sides = [figures[f"{key}_per_s_{suffix}{side}"] for side in ("local", "remote")]
            rows.append([f"{title}{epochs}", *(number(rate, 0) for rate in sides), f"{sides[1] / sides[0]:.2f}"])
    return table(("", "local disk", "S3", "ratio"), rows)
