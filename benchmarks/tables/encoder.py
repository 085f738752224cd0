"""Tables of the encoder: speed, quality, ways to pre-train."""

from benchmarks.tables.cells import Figures, difference, estimate, number, table, times


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
