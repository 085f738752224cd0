"""Tables of serving."""

from benchmarks.tables.cells import Figures, difference, number, table


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
