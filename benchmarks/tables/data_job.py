"""Tables of the data job."""

from benchmarks.tables.cells import Figures, number, table


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
