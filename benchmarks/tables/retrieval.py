"""Tables of the recommenders that retrieve."""

from datetime import UTC, datetime

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
    shares = " and ".join(f"{data['users_by_published_rule']:.0%} ({name})" for name, data in figures.items())
    text = (
        f"How many of a user's interactions are in each part is what the rule in MMRec's preprocessing gives, with "
        f"validation and test exchanged, for {shares} of the users."
    )
    return f"{table(head, rows)}\n\n{text}"


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


def retrieval_mmrec(figures: Figures) -> str:
    """Test metrics of both sides, the best recall@20 of MMRec first."""
    metrics = ("recall@20", "recall@50", "ndcg@50")
    rows = []
    for name, sides in sorted(figures["methods"].items(), key=lambda pair: -pair[1]["mmrec"]["test"]["recall@20"]):
        theirs, ours = sides["mmrec"], sides["ours"]
        pairs = [(f"{theirs['test'][metric]:.4f}", _over_seeds(ours, metric)) for metric in metrics]
        tried = f"{_setting(theirs['setting'])} (of {theirs['tried']})"
        rows.append([f"`{name}`", *(cell for pair in pairs for cell in pair), tried])
    sides = [f"{metric}, {side}" for metric in ("recall@20", "recall@50", "NDCG@50") for side in ("MMRec", "ours")]
    head = ("method", *sides, "MMRec's setting")
    return f"MMRec at commit {figures['mmrec_commit']}.\n\n{table(head, rows)}"


def retrieval_hm(figures: Figures) -> str:
    """Test metrics of each method with both features, differences, and new items."""
    return _with_courier(figures, "purchases")


def retrieval_random_split(figures: Figures) -> str:
    """The same of both data."""
    titles = {"hm": ("H&M", "purchases"), "movielens": ("MovieLens", "films rated four or better")}
    return "\n\n".join(
        f"**{title}.** {_with_courier(figures[name], interactions)}"
        for name, (title, interactions) in titles.items()
        if name in figures
    )


def _with_courier(figures: Figures, interactions: str) -> str:
    metrics = ("recall@20", "recall@50", "ndcg@50")
    rows, gains = [], []
    for name, method in figures["methods"].items():
        cells = [f"{method[metric]:.4f}" for metric in ("new@100", "new_among_new@100")]
        tried = f"{method['setting']['learning_rate']:g} (of {len(method['tuning'])})"
        seeds, minutes = str(method["seeds"]), number(method["seconds"] / 60, 1, " min")
        rows.append([_arm(name), *(_over_seeds(method, metric) for metric in metrics), *cells, seeds, tried, minutes])
        if "gain" in method:
            gains.append(
                [f"`{name.split()[0]}`", *(_gain(*method["gain"][metric]) for metric in (*metrics, "new@100"))]
            )
    share = figures["test_new"] / figures["test_asked"]
    first, last = (
        datetime.fromtimestamp(moment / 1000, UTC).date().isoformat() for moment in figures["courier_learned_on"]
    )
    text = (
        f"{figures['train']:,} {interactions} to learn from, {figures['validation']:,} to validate; to test "
        f"{figures['test_asked']:,} of users who are learned from, {share:.0%} of them of items that nobody has there, "
        f"among {figures['items']:,} items. COURIER has learned on pages from {first} to {last}."
    )
    head = (
        "method",
        "recall@20",
        "recall@50",
        "NDCG@50",
        "new: recall@100",
        "among new ones",
        "seeds",
        "learning rate",
        "training",
    )
    differences = ("with COURIER, less without", "recall@20", "recall@50", "NDCG@50", "new: recall@100")
    return f"{text}\n\n{table(head, rows)}\n\n{table(differences, gains)}"


def _arm(name: str) -> str:
    method, _, ours = name.partition(" ")
    return f"`{method}` {ours}".strip()


def _gain(mean: float, low: float, high: float) -> str:
    """A difference with four decimals and its interval, bold where that is on one side of zero."""
    text = f"**{mean:+.4f}**" if low > 0 or high < 0 else f"{mean:+.4f}"
    return f"{text} [{low:+.4f}, {high:+.4f}]"


def _over_seeds(figures: Figures, metric: str) -> str:
    deviation = figures[f"{metric}_deviation"]
    return f"{figures[metric]:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _setting(values: Figures) -> str:
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in values.items())
