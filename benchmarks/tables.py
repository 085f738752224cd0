"""The table of each benchmark, in Markdown, from the figures of its result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
NOT_MEASURED = "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines).replace("|  |", "| |")


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """A number with so many decimals, or that it is not there."""
    return NOT_MEASURED if value is None else f"{value:,.{digits}f}{unit}"


def estimate(mean: float | None, low: float | None, high: float | None) -> str:
    """A mean and its interval."""
    if mean is None or low is None or high is None:
        return number(mean)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def difference(mean: float | None, low: float | None, high: float | None) -> str:
    """A difference and its interval, bold where that is on one side of zero."""
    if mean is None:
        return ""
    if low is None or high is None:
        return f"{mean:+.3f}"
    text = f"**{mean:+.3f}**" if low > 0 or high < 0 else f"{mean:+.3f}"
    return f"{text} [{low:+.3f}, {high:+.3f}]"


def times(value: float | None) -> str:
    """A ratio."""
    return NOT_MEASURED if value is None else f"{value:.3g} times"


def data_job(figures: Figures) -> str:
    """Wall time and memory at both sizes."""
    rows = [
        [
            f"{millions} million impressions, {how}",
            number(figures[f"seconds_{case}"], 1, " s"),
            number(figures[f"seconds_polars_{case}"], 1, " s"),
            number(figures[f"wall_ratio_polars_{case}"], 2),
            number(figures[f"wall_ratio_polars_columns_{case}"], 2),
            number(figures[f"peak_gb_{case}"], 2, " GB"),
            number(figures.get(f"peak_gb_polars_{case}"), 2, " GB"),
        ]
        for case, millions, how in (("2m", 2, "one process"), ("20m", 20, "two workers"))
    ]
    head = ("", "ours", "Polars", "ratio", "ratio, our encoder given to it", "memory, ours", "Polars")
    return table(head, rows)


def data_job_clusters(figures: Figures) -> str:
    """Wall time and bytes moved on each cluster."""
    rows = [
        [
            name,
            number(figures[f"seconds_{case}"], 1, " s"),
            number(figures[f"engine_seconds_{case}"], 1, " s"),
            number(figures[f"received_mb_{case}"], 1, " MB"),
            number(figures[f"stored_mb_{case}"], 1, " MB"),
            f"{figures[f'store_requests_{case}']:,}",
        ]
        for name, case in (
            ("in process", "in_process"),
            ("Flink, one task manager", "flink_1"),
            ("Flink, two", "flink_2"),
            ("Spark, two executors", "spark_2"),
        )
    ]
    head = ("", "build", "a twentieth of it", "received by workers", "written to the store", "requests to it")
    return table(head, rows)


def encoder_speed(figures: Figures) -> str:
    """Rates of training on a CPU."""
    rows = []
    for name, key in (
        ("training, pictures/s", "images"),
        ("page batches, pictures shown/s, {} of them distinct", "page_images"),
        ("page batches, {} distinct", "small_batch_page_images"),
    ):
        share = figures.get(f"{key}_distinct_share")
        rows.append(
            [
                name.format("" if share is None else f"{share:.0%}".replace("%", " %")),
                number(figures[f"{key}_per_s"], 1),
                number(figures[f"{key}_per_s_torch"], 1),
                times(figures[f"{key}_per_s_ratio_torch"]),
            ]
        )
    memory = figures["step_memory_mb_checkpointing"]
    share_of_plain = f"{figures['checkpoint_memory_ratio']:.2f} of that without"
    rows.append(["memory of a step with checkpointed activations", f"{memory / 1e3:.1f} GB", "", share_of_plain])
    return table(("", "ours", "PyTorch", ""), rows)


def encoder_fine_tuning_speed(figures: Figures) -> str:
    """Rates of fine-tuning on a CPU."""
    rows = [
        ["ours", number(figures["step_per_s"], 1), ""],
        ["PyTorch", number(figures["step_per_s_torch"], 1), times(figures["step_per_s_ratio_torch"])],
        [
            "PyTorch, channels last",
            number(figures["step_per_s_torch_channels_last"], 1),
            times(figures["step_per_s_ratio_torch_channels_last"]),
        ],
    ]
    return table((f"steps of {figures['batch']} pictures of 112 x 80", "pictures/s", "ours is"), rows)


def downstream_tasks(figures: Figures) -> str:
    """A table per task: measures of each start, and what they are more than from random weights."""
    tables = []
    for name, task in figures.items():
        rows = []
        for start, row in task["rows"].items():
            measures = list(row["gain"])
            first = measures[0]
            gained = "" if start.endswith(", random") else difference(*row["gain"][first])
            rows.append([start, *(estimate(*row[each]) for each in measures), gained])
        held_out = (
            f"{task['queries']:,} queries, {task['gallery']:,} photos in the gallery"
            if "queries" in task
            else f"{task['pictures']:,} photos, {task['classes']} classes"
        )
        titles = [each.replace("recall_", "R@").replace("top", "top-") for each in measures]
        tables.append(table((f"{name}: {held_out}", *titles, f"{titles[0]} less random"), rows))
    return "\n\n".join(tables)


def encoder_gpu(figures: Figures) -> str:
    """Rates and memory of training on a GPU."""
    distinct = f"{figures['distinct_share']:.0%}".replace("%", " %")
    gigabytes = {
        side: f"{figures[f'images_memory_mb{side}'] / 1e3:.1f} GB" for side in ("", "_torch", "_checkpointing")
    }
    rows = [
        ["training, pictures/s"]
        + [number(figures.get(f"images_per_s{side}"), 0) for side in ("", "_torch", "_torch_compiled")],
        [f"page batches, pictures shown/s, {distinct} of them distinct"]
        + [number(figures.get(f"pages_per_s{side}"), 0) for side in ("", "_torch", "_torch_compiled")],
        ["memory of a step", gigabytes[""], gigabytes["_torch"], ""],
        [
            "the same, activations checkpointed",
            f"{gigabytes['_checkpointing']} at {number(figures['images_checkpointing_per_s'], 0)} pictures/s",
            "",
            "",
        ],
        ["exact assignment to 1e5 centers, points/s", number(figures["exact_assignments_per_s"], 0), "", ""],
        ["largest difference of embeddings, float32", f"{figures['largest_difference']:.1e}", "", ""],
    ]
    return table(("", "ours", "PyTorch", "`torch.compile`"), rows)


def encoder_quality(figures: Figures) -> str:
    """GAUC of similarity, and what COURIER has more."""
    rows = [["COURIER", estimate(figures["gauc_courier"], *figures["gauc_courier_interval"]), ""]]
    for name, key in (
        ("the same network, random weights", "random"),
        ("raw pixels, as they are", "pixels"),
        ("pixels less means, best of six definitions", "centred_pixels"),
        ("catalogue attributes, gradient boosting", "attributes"),
    ):
        rows.append(
            [
                name,
                estimate(figures[f"gauc_{key}"], *figures[f"gauc_{key}_interval"]),
                difference(figures[f"gain_over_{key}"], *figures[f"gain_over_{key}_interval"]),
            ]
        )
    head = (f"{figures['pages']:,} pages, {figures['seeds']} seeds", "GAUC of SimScore", "COURIER less this")
    return table(head, rows)


def encoder_published(figures: Figures) -> str:
    """GAUC of similarity by features, what the best published ones have more, and two speeds."""
    test = figures["test"]
    rows = [
        [name, estimate(*row["gauc"]), difference(*row["gain"]) if row["gain"] else ""]
        for name, row in test["rows"].items()
    ]
    height, width = figures["image_size"]
    tuning, small = figures["fine_tuning"], figures["courier_cpu"]
    speed = [
        ["embedding", number(figures["embedded_pictures_per_s"], 0), ""],
        ["a step of COURIER", number(tuning["pictures_per_s"], 0), f"{tuning['memory_mb'] / 1e3:.1f} GB"],
        [
            "a step of `courier_cpu`, at its own size",
            number(small["pictures_per_s"], 0),
            f"{small['memory_mb'] / 1e3:.1f} GB",
        ],
    ]
    head = (f"{test['pages']:,} pages", "GAUC of SimScore", "all stages, whitened to 64, less this")
    speed_head = (f"pictures of {height} x {width}", "pictures/s", f"memory for {tuning['pictures_per_step']} pictures")
    return "\n\n".join((table(head, rows), table(speed_head, speed)))


def encoder_fine_tuning(figures: Figures) -> str:
    """GAUC of each try on the validation pages, and of the best one on the test pages."""
    validation, test = figures["validation"], figures["test"]
    rows = [
        [
            name,
            f"{each['form']}, epoch {each['epoch']}",
            number(each["validation_gauc"], 4),
            number(each["last_epoch"]["as learned"], 4),
            difference(*each["validation_gain"]),
        ]
        for name, each in validation["tries"].items()
    ]
    head = (
        f"{validation['pages']} validation pages",
        "best as",
        "GAUC of SimScore",
        "as learned, last epoch",
        "best less published",
    )
    tested = [
        ["published, whitened to 64", estimate(*test["published"]), ""],
        [test["best"], estimate(*test["gauc"]), difference(*test["gain"])],
    ]
    tested_head = (f"{test['pages']} test pages", "GAUC of SimScore", "less published")
    return "\n\n".join((table(tested_head, tested), table(head, rows)))


def encoder_ablations(figures: Figures) -> str:
    """GAUC of similarity by variant, on the later of the two splits."""
    test = dict(figures["test"])
    pages = test.pop("pages")
    rows = []
    for name, row in test.items():
        spread = "" if row.get("over_seeds") is None else f"± {row['over_seeds']:.3f}"
        less = "" if name == "COURIER" else difference(row["less_courier"], *row["less_courier_interval"])
        rows.append([name, estimate(row["gauc"], *row["gauc_interval"]), spread, less])
    return table((f"{pages:,} pages, {figures['seeds']} seeds", "GAUC", "over seeds", "less COURIER"), rows)


def encoder_methods(figures: Figures) -> str:
    """KNN consistency, and time and memory of a step, by method."""
    rows = [
        [
            f"`{name}`",
            number(row["random"]),
            number(row["trained"]),
            difference(row["gain"], *row["gain_interval"]),
            f"{row['random_probe']:.3f} → {row['probe']:.3f}",
            number(1000 * row["seconds"], 0, " ms"),
            number(row["memory_mb"], 0, " MB"),
        ]
        for name, row in figures["methods"].items()
    ]
    head = (
        f"{figures['steps']} steps, {figures['seeds']} seeds",
        "random weights",
        "trained",
        "gain",
        "linear probe",
        "a step",
        "memory",
    )
    return table(head, rows)


def encoder_chain(figures: Figures) -> str:
    """What each command of the chain said, by method."""
    rows = [
        [
            f"`{name}`",
            number(row["steps"], 0),
            number(row["pretrain_seconds"], 0, " s"),
            number(row["similarity_gauc"]),
            number(row["gauc"]),
            f"passed, {row['golden_requests']} golden requests",
        ]
        for name, row in figures["chains"].items()
    ]
    head = (
        "shows that the chain runs, not which method is best",
        "steps",
        "`models.pretrain`",
        "SimScore GAUC",
        "ranker with cluster IDs, GAUC",
        "gates of the exported version",
    )
    return table(head, rows)


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


def ranker_speed(figures: Figures) -> str:
    """Training speed, memory and the latency of a page in process."""
    sides = ("ours", "ours_recent", "din", "deepctr", "fuxictr")
    prefixes = ("train", "train_recent", "like_for_like")
    rows = []
    for steps in (1000, 100):
        rates = [number(figures[f"examples_per_s_{side}_t{steps}"], 0) for side in sides]
        rates[3] += f" ({number(figures[f'best_examples_per_s_deepctr_t{steps}'], 0)} at best)"
        rows.append([f"candidates/s, histories of {steps:,}", *rates])
        speedups = [
            f"{figures[f'{prefix}_speedup_deepctr_t{steps}']:.3g} "
            f"({figures[f'{prefix}_speedup_over_best_deepctr_t{steps}']:.3g})"
            for prefix in prefixes
        ]
        rows.append(["times DeepCTR (its best step)", *speedups, "", ""])
        processor = [f"{figures[f'{prefix}_cpu_ratio_deepctr_t{steps}']:.3g}" for prefix in prefixes]
        rows.append(["times less processor time", *processor, "", ""])
        if f"peak_mb_ours_t{steps}" in figures:
            memory = [f"{figures[f'peak_mb_{side}_t{steps}'] / 1e3:.2g} GB" for side in sides]
            rows.append(["largest memory", *memory])
    pages = [number(figures.get(f"page_200_p50_ms_{side}"), 1, " ms") for side in sides]
    rows.append(["a page of 200 candidates", *pages])
    rows.append(["a step with 1e7 items, of one with 1e5", number(figures["step_ratio_vocab_1e7_1e5"], 2), *[""] * 4])
    head = ("", "ours, whole history", "and DIN's unit on the newest 50", "like for like", "DeepCTR", "FuxiCTR")
    return table(head, rows)


def kuairand(figures: Figures) -> str:
    """Metrics of every system, and what separates them from the peer."""
    networks = "one network" if figures["members"] == 1 else f"{figures['members']} members"
    as_one = f"its {figures['seeds']} seeds averaged as one"
    names = {"fuxictr": "FuxiCTR's DIN", "ours": f"ours, {networks}", "fuxictr_averaged": f"FuxiCTR's DIN, {as_one}"}
    names["ours_averaged"] = f"{names['ours']}, {as_one}"
    rows = []
    for name, system in figures["systems"].items():
        cells = [names[name]]
        for key in ("auc", "gauc_user_mean"):
            gap = system.get("differences", {}).get(key)
            cells += [f"{system[key]:.4f}", "" if gap is None else _four_places(gap)]
        rows.append([*cells, *(f"{system[key]:.4f}" for key in ("gauc_page_mean", "log_loss", "copc"))])
    head = (
        f"{figures['candidates']:,} candidates, {figures['seeds']} seeds",
        "AUC",
        "less FuxiCTR's",
        "GAUC by user",
        "less FuxiCTR's",
        "GAUC by page",
        "log loss",
        "COPC",
    )
    gaps = [_four_places(figures["averaged_less_averaged"][key]) for key in ("auc", "gauc_user_mean")]
    text = f"Averaged less averaged: AUC {gaps[0]}, GAUC by user {gaps[1]}."
    return f"{table(head, rows)}\n\n{text}"


def _four_places(gap: Mapping[str, float]) -> str:
    text = f"{gap['difference']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"
    return f"**{text}**" if gap["low"] > 0 or gap["high"] < 0 else text


def kuairand_tasks(figures: Figures) -> str:
    """AUC of each task in both windows, and the public protocol beside a factorisation machine."""
    names = {"ctr": "click", "ctcvr": "click and long view", "long_visit": "click and 30 seconds"}
    rows = []
    for window, found in figures["windows"].items():
        for task, name in names.items():
            each = found["tasks"][task]
            cells = [f"{window}: {name}", number(each["rate"])]
            for part in ("all", "few"):
                low, high = each[part]["auc_interval"]
                deviation = each[part]["auc_deviation"]
                cells.append(f"{each[part]['auc']:.4f} ± {deviation:.4f} [{low:.4f}, {high:.4f}]")
            low, high = each["all"]["gauc_user_interval"]
            rows.append([*cells, f"{each['all']['gauc_user_mean']:.4f} [{low:.4f}, {high:.4f}]"])
    head = (
        "trained: task",
        "rate",
        f"AUC, mean ± deviation of {figures['seeds']} runs",
        f"shown fewer than {figures['few']} times in seven days",
        "GAUC by user",
    )
    tasks = table(head, rows)
    rows = []
    for window, found in figures["windows"].items():
        machine, ours = found["protocol"]["fm"], found["protocol"]["ours"]
        for metric, title in (("gauc", "GAUC by long views"), ("ndcg_5", "nDCG@5")):
            values = [f"{side[metric]['value']:.4f}" for side in (machine, ours)]
            rows.append([f"{window}: {title}", *values, _four_places(ours[metric])])
        best = f"best possible {found['users_with_a_long_view']:.4f}"
        rows[-1][0] += f" ({best})"
    return f"{tasks}\n\n{table(('long views', 'factorisation machine', 'ours', 'difference'), rows)}"


def position_bias(figures: Figures) -> str:
    """What the later positions add, as it was learned and as it was counted."""

    def of(estimate: Mapping[str, float]) -> str:
        interval = f" [{estimate['low']:+.2f}, {estimate['high']:+.2f}]" if "low" in estimate else ""
        return f"{estimate['value']:+.2f}{interval}"

    rows = []
    names = {"real": "real clicks", "planted": "planted clicks"}
    for world, found in figures["worlds"].items():
        for place, learned in enumerate(found["ranker"]):
            seeds = [each[place] for each in found["ranker_of_seeds"]]
            spread = f" ({min(seeds):+.2f} to {max(seeds):+.2f})" if len(seeds) > 1 else ""
            counts = [of(found[kind][place]) for kind in ("reference", "plain", "by_propensity")]
            rows.append([f"{names[world]}, position {place + 2}", *counts, f"{learned:+.2f}{spread}"])
    head = (
        "log-odds less those of position 1",
        "Random's log, or what is planted",
        "BTS's log",
        "BTS's log by propensity",
        "ranker on BTS's log (seeds)",
    )
    real, planted = figures["worlds"]["real"], figures["worlds"]["planted"]
    text = (
        f"{figures['impressions']:,} impressions of each policy; clicks: {real['reference_clicks']} in Random's log, "
        f"{real['clicks']} in BTS's, {planted['clicks']:,} planted."
    )
    return f"{table(head, rows)}\n\n{text}"


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


def serving(figures: Figures) -> str:
    """Latency, load and start."""
    load = f"{figures['load_requests']:,} requests, {figures['requests_per_s']:.0f}/s, {figures['load_errors']} errors"
    rows = [
        ["a page of 200 candidates over gRPC, median", number(figures["p50_ms"], 1, " ms")],
        ["99th percentile", number(figures["p99_ms"], 1, " ms")],
        ["by the client, which builds the request", number(figures["client_p50_ms"], 1, " ms")],
        ["a ranker with the sizes of DeepCTR's DIN", number(figures["p50_ms_equal_sizes"], 1, " ms")],
        [
            "DeepCTR's DIN, same server and candidates, clicks alone",
            f"{figures['deepctr_p50_ms']:.0f} ms: {figures['speedup_deepctr_default_sizes']:.0f} times as long, "
            f"{figures['speedup_deepctr']:.0f} times a ranker of its sizes",
        ],
        [f"8 clients while {figures['published_versions']} versions were published", load],
        ["from start to first answer", number(figures["cold_start_s"], 1, " s")],
        [
            "with a million items",
            f"{figures['saved_model_mb_1e6_items']:.0f} MB on disk, "
            f"{figures['memory_mb_1e6_items'] / 1e3:.2f} GB in memory",
        ],
    ]
    return table(("", ""), rows)


def retrieval_speed(figures: Figures) -> str:
    """Steps, processor time and memory of each side."""
    names = (("ours", ""), ("PyTorch, CSR", "_torch_csr"), ("PyTorch, COO", "_torch_coo"))
    rows = [
        [
            name,
            number(figures[f"triples_per_s{side}"], 0),
            times(figures[f"triples_per_s_ratio{side}"]) if side else "",
            times(figures[f"triples_per_cpu_s_ratio{side}"]) if side else "",
            number(figures[f"memory_mb{side}"], 0, " MB"),
        ]
        for name, side in names
    ]
    head = ("", "triples per second", "ours is faster", "per processor second", "memory of training")
    return table(head, rows)


def recommend(figures: Figures) -> str:
    """Recall of both stages, for all items and for those unseen in training, and the time of each."""
    rows = []
    for part, text in (("all", "all items"), ("unseen_items", "items on no train page")):
        of = figures[part]
        for name in (name for name in of if name.startswith("recall@")):
            each = of[name]
            gain = difference(each["difference"], each["low"], each["high"])
            if int(name.removeprefix("recall@")) == figures["candidates"]:
                gain = ""  # the ranker orders what the retriever found
            chance = int(name.removeprefix("recall@")) / figures["items"]
            rows.append([text, name, number(chance), number(each["retrieved"]), number(each["ranked"]), gain])
    recall = table(("clicked on", "", "at random", "order of the retriever", "of the ranker", "difference"), rows)
    latency = table(
        (f"{figures['candidates']} candidates, over gRPC", "median", "95th percentile"),
        [
            [stage, number(figures[f"{stage}_p50_ms"], 1, " ms"), number(figures[f"{stage}_p95_ms"], 1, " ms")]
            for stage in ("retrieval", "ranking")
        ],
    )
    return f"{recall}\n\n{latency}\n\nScaNN finds {figures['scann_recall']:.3f} of the candidates by brute force."


def experiment_coverage(figures: Figures) -> str:
    """Coverage of intervals and errors of equal arms, by metric."""
    rows = [
        [
            name,
            *(number(of_kinds[kind], 3) for kind in ("delta", "cuped", "lift", "bootstrap")),
            number(figures["aa_once"][name], 3),
            number(figures["aa_cuped"][name], 3),
            number(figures["aa_all_looks"].get(name), 3),
            number(figures["aa_all_looks_naive"].get(name), 3),
            number(1 - figures["variance_left"][name], 2),
            f"{figures['power'][name]['plain']:.2f} / {figures['power'][name]['cuped']:.2f}",
        ]
        for name, of_kinds in figures["coverage"].items()
    ]
    head = (
        "metric",
        "held by 95 % intervals: delta",
        "CUPED",
        "lift",
        "bootstrap",
        "equal arms differ, one look",
        "CUPED",
        f"over {figures['days']} looks",
        "the same with 1.96",
        "variance that CUPED takes off",
        f"power without / with CUPED, lift {figures['lift']:.0%}".replace("%", " %"),
    )
    text = (
        f"{figures['repeats']:,} experiments on {figures['users']:,} shoppers and {figures['days']} days; the "
        f"standard error of a share of 5 % is {figures['standard_error_of_5_percent']:.4f}. Any of all metrics after "
        f"Holm, equal arms: {figures['aa_any_of_all_holm']:.3f}. All intervals over the looks hold the effect on CTR: "
        f"{figures['coverage_of_ctr_over_looks']:.3f}."
    )
    return f"{table(head, rows)}\n\n{text}"


def off_policy(figures: Figures) -> str:
    """Estimates beside the policy's own mean, in clicks per 1,000 impressions."""

    def of(each: Figures, digits: int = 2) -> str:
        value, low, high = (1000 * each[key] for key in ("value", "low", "high"))
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    rows = [
        [
            name,
            of(case["own"]),
            *(of(case[kind]) for kind in ("ips", "snips", "doubly_robust")),
            number(case["snips"]["effective_rows"], 0),
            f"{case['clicks']} / {case['own_clicks']}",
        ]
        for name, case in figures["cases"].items()
    ]
    head = (
        "policy, from the log of",
        "own mean",
        "IPS",
        "SNIPS",
        "doubly robust",
        "effective rows",
        "clicks: log / own",
    )
    return table(head, rows)


def daily(figures: Figures) -> str:
    """The days, what bad ones printed, and what learning day by day keeps."""

    def of(each: Figures | None) -> str:
        return "" if each is None else difference(each["difference"], each["low"], each["high"])

    days = [
        [
            each["day"],
            f"{each['pages']:,.0f}",
            str(each["new_items"]),
            each["outcome"],
            str(each["version"]),
            number(each["served"]) if each["served"] is not None else "",
            number(each["candidate"]),
            of(each["difference"]),
            "" if each["largest_drift"] is None else f"{each['largest_drift'][0]:.2f} {each['largest_drift'][1]}",
            "" if each["score_drift"] is None else number(each["score_drift"], 2),
        ]
        for each in figures["by_day"]
    ]
    head = (
        "day",
        "pages",
        "new items",
        "outcome",
        "version",
        "GAUC, served",
        "candidate",
        "difference",
        "largest drift of an input",
        "of scores",
    )
    refused = [[kind, line] for kind, line in figures["refusals"].items()]
    step = figures["seconds_by_step"]
    kept = [
        [
            name,
            estimate(figures["gauc"][name], *figures["gauc_intervals"][name]),
            number(figures["log_loss"][name], 4),
            of(figures["less_full"].get(name)),
        ]
        for name in ("full", "day by day", "first")
    ]
    asked = figures["requests"]
    text = (
        f"{figures['users']:,} shoppers, {figures['photos']:,} items, {figures['pages']:,} pages over 28 days, of "
        f"which the first 14 made the first ranker. Meanwhile a client asked the server that follows the versions "
        f"{asked['asked']:,} times: {asked['failed']} requests failed, "
        f"{len(asked['by_version'])} versions answered. Median seconds of a day by step: "
        + ", ".join(f"{name} {seconds:.0f}" for name, seconds in step.items())
        + f"; training from the beginning on all {figures['full_train_pages']:,} pages took "
        f"{figures['full_seconds']:.0f} s."
    )
    measured = (
        f"On the {figures['pages_measured']:,} pages of the last two days, which none of the three has learned on:"
    )
    return "\n\n".join(
        [
            text,
            table(head, days),
            table(("bad day", "what was printed"), refused),
            measured,
            table(("ranker", "GAUC", "log loss", "GAUC less that of full training"), kept),
        ]
    )


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
    first, second, test = figures["pages"]
    text = (
        f"{figures['clusters']} clusters; {figures['matched']} of the new ones take the place of an old one, with "
        f"{figures['pictures_in_place']:,} of the {figures['pictures_clustered']:,} pictures that were there. "
        f"{first:,} pages, then {second:,}, {test:,} test pages; {figures['seeds']} seeds, {figures['epochs']} epochs "
        "on either half; clusters are embedded, not compared."
    )
    ages = ("items that came", "items", "new until then", "squared distance to old centers", "to new ones")
    arms = ("warm-started on later pages with", "GAUC, test pages", "less old IDs")
    return f"{table(arms, rows)}\n\n{text}\n\n{table(ages, months)}"


def retrieval_amazon(figures: Figures) -> str:
    """Test metrics beside published ones."""
    rows = [
        [
            f"{name.capitalize()}: {data['train']:,} + {data['validation']:,} + {data['test']:,}",
            *(_over_seeds(data["methods"]["bpr"], metric) for metric in ("recall@20", "ndcg@20")),
            *(f"{data['published']['bpr'][metric]:.4f}" for metric in ("recall@20", "ndcg@20")),
            str(data["methods"]["bpr"]["seeds"]),
            _setting(data["methods"]["bpr"]["setting"]),
        ]
        for name, data in figures.items()
    ]
    head = ("interactions", "recall@20", "NDCG@20", "published recall@20", "NDCG@20", "seeds", "chosen")
    return table(head, rows)


def retrieval_tiktok(figures: Figures) -> str:
    """Test metrics of each method, the best recall@20 first."""
    methods = sorted(figures["methods"].items(), key=lambda pair: -pair[1]["recall@20"])
    rows = [
        [
            f"`{name}`",
            *(_over_seeds(method, metric) for metric in ("recall@20", "recall@50", "ndcg@50")),
            str(method["seeds"]),
            f"{_setting(method['setting'])} (of {len(method['tuning'])})",
            number(method["epochs"], 0),
            number(method["seconds"] / 60, 1, " min"),
        ]
        for name, method in methods
    ]
    head = ("method", "recall@20", "recall@50", "NDCG@50", "seeds", "chosen", "epochs", "training")
    return table(head, rows)


def _over_seeds(figures: Figures, metric: str) -> str:
    deviation = figures[f"{metric}_deviation"]
    return f"{figures[metric]:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _setting(values: Figures) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


TABLES: dict[str, Callable[[Figures], str]] = {
    table_of.__name__: table_of
    for table_of in (
        data_job,
        data_job_clusters,
        encoder_speed,
        encoder_fine_tuning_speed,
        encoder_gpu,
        encoder_quality,
        encoder_published,
        encoder_fine_tuning,
        downstream_tasks,
        encoder_ablations,
        encoder_methods,
        encoder_chain,
        clustering,
        label_consistency,
        replaced_ids,
        ranker_speed,
        kuairand,
        kuairand_tasks,
        position_bias,
        pictures_sample,
        pictures_hm,
        pictures_published,
        pictures_ideas,
        retrieval_speed,
        retrieval_amazon,
        retrieval_tiktok,
        paper_table_10,
        remote_training,
        serving,
        recommend,
        experiment_coverage,
        off_policy,
        daily,
    )
}
"""By name of the benchmark."""
