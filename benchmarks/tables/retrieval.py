"""Tables of the recommenders that retrieve."""

from benchmarks.tables.cells import Figures, number, table, times


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
