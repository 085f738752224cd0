"""Tables of clustering and of the embeddings that it gets."""

from benchmarks.tables.cells import Figures, difference, number, table, times


def clustering(figures: Figures) -> str:
    """Time, closeness and memory of clustering."""

    def percent(value: float) -> str:
        return f"{100 * value:+.2g} %"

    flat = figures["queries_per_s_flat"]
    rows = [
        [
            "k-means, 1e6 points, 1e4 clusters",
            number(figures["kmeans_seconds"], 0, " s"),
            f"{figures['kmeans_seconds_faiss']:.0f} s ({figures['kmeans_iterations_faiss']} iterations)",
            f"{times(figures['kmeans_speedup_faiss'])}, squared distance {percent(figures['kmeans_inertia_excess'])}",
        ]
    ]
    for name, prefix in (
        ("assignment to 1e5 centers, points/s, `cells`", ""),
        ("the same with 4 probes instead of 32", "fast_"),
        ("the same with ScaNN", "scann_"),
    ):
        speedup = figures[f"{prefix}assign_speedup_flat"]
        closeness = (
            f"recall {figures[f'{prefix}assign_recall']:.4f}, {percent(figures[f'{prefix}assign_inertia_excess'])}"
        )
        peer = f"{flat:,.0f} (exhaustive)" if not prefix else ""
        rows.append([name, f"{round(speedup * flat, -2):,.0f}", peer, f"{times(speedup)}, {closeness}"])
    size = f"memory of 6e6 points ({figures['memory_file_gb']:.1f} GB on disk)"
    rows.append([size, number(figures["memory_gb"], 1, " GB"), "", ""])
    hours, single = (figures[f"hours_paper_scale_{kind}"] for kind in ("2_cores", "single_pass"))
    rows.append(["6e7 points, 1e5 centers, extrapolated", f"{hours:.1f} hours; single pass {single:.1f}", "", ""])
    if "hm_kmeans_seconds" in figures:
        rows.append(
            [
                "H&M's embeddings, 20 a cluster",
                number(figures["hm_kmeans_seconds"], 1, " s"),
                number(figures["hm_kmeans_seconds_faiss"], 1, " s"),
                f"{times(figures['hm_kmeans_speedup_faiss'])}, squared distance "
                + percent(figures["hm_kmeans_inertia_excess"]),
            ]
        )
        found = f"recall {figures['hm_assign_recall']:.3f}, {percent(figures['hm_assign_inertia_excess'])}"
        rows.append(["H&M's embeddings to 8,000 others", "", "", found])
    return table(("", "ours", "FAISS", ""), rows)


def label_consistency(figures: Figures) -> str:
    """Label consistency by cosine, before and after whitening."""
    labels = ("type", "colour", "pattern")
    cosine = figures["cosine"]
    rows = [
        [name, *(number(cosine[f"{key}{whitened}_{label}"]) for whitened in ("", "_whitened") for label in labels)]
        for name, key in (
            ("raw pixels", "pixels"),
            ("the network, random weights", "random"),
            ("COURIER", "courier"),
        )
    ]
    rows.append(["chance", *(number(figures[f"chance_{label}"]) for label in labels), "", "", ""])
    head = (f"{figures['k']} nearest of {figures['items']:,} by cosine", *labels, "whitened: type", *labels[1:])
    return table(head, rows)


def replaced_ids(figures: Figures) -> str:
    """The arms, and the age of the centers."""
    rows = [
        [
            name,
            number(gauc, 4),
            "" if name not in figures["less_old"] else difference(*figures["less_old"][name].values()),
        ]
        for name, gauc in figures["gauc"].items()
    ]
    months = [
        [
            each["month"],
            f"{each['items']:,}",
            number(100 * each["share_new"], 0, " %"),
            number(each["distance_old"]),
            number(each["distance_new"]),
        ]
        for each in figures["by_month"]
    ]
    parts = [
        [
            f"{100 * low:.0f} to {100 * high:.0f} %, on average {100 * mean:.0f} %",
            f"{each['pages']:,}",
            *(number(gauc, 4) for gauc in each["gauc"].values()),
            *(difference(*less.values()) for less in each["less_old"].values()),
        ]
        for each in figures["by_share"]
        for low, mean, high in [each["share"]]
    ]
    by_share = (
        "candidates newer than the old centers",
        "pages",
        *(f"GAUC, {name}" for name in figures["gauc"]),
        *(f"{name}, less old IDs" for name in figures["less_old"]),
    )
    first, second, test = figures["pages"]
    text = (
        f"{figures['clusters']} clusters; {figures['matched']} of the new ones take the place of an old one, with "
        f"{figures['pictures_in_place']:,} of the {figures['pictures_clustered']:,} pictures that were there. "
        f"{first:,} pages, then {second:,}, {test:,} test pages; {figures['seeds']} seeds, {figures['epochs']} epochs "
        "on either half; clusters are embedded, not compared."
    )
    ages = ("items that came", "items", "new until then", "squared distance to old centers", "to new ones")
    arms = ("warm-started on later pages with", "GAUC, test pages", "less old IDs")
    return f"{table(arms, rows)}\n\n{text}\n\n{table(by_share, parts)}\n\n{table(ages, months)}"
