"""Tables of the ranker without pictures."""

from collections.abc import Mapping

from benchmarks.tables.cells import Figures, number, table


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
    as_one = f"its {figures['seeds']} seeds averaged as one"
    names = {
        "fuxictr": "FuxiCTR's DIN",
        "ours": "ours, one network",
        "ours_members": f"ours, {figures['members']} members",
        "ours_joined": f"ours, {figures['members']} trainings joined",
        "fuxictr_averaged": f"FuxiCTR's DIN, {as_one}",
        "ours_averaged": f"ours, one network, {as_one}",
    }
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
        machine, ours = found["protocol"]["systems"]["fm"], found["protocol"]["systems"]["ours"]
        best = f"best possible {found['protocol']['users_with_a_long_view']:.4f}"
        for metric, title in (("gauc", "GAUC by long views"), ("ndcg_5", f"nDCG@5 ({best})")):
            values = [f"{side[metric]['value']:.4f}" for side in (machine, ours)]
            rows.append([f"{window}: {title}", *values, _four_places(ours[metric])])
        of_all = found["protocol"]["auc"]
        gap = of_all["ours"]["differences"]["auc"]
        rows.append(
            [
                f"{window}: AUC of all impressions",
                *(f"{of_all[side]['auc']:.4f}" for side in ("fm", "ours")),
                _four_places(gap),
            ]
        )
    return f"{tasks}\n\n{table(('long views', 'factorisation machine', 'ours', 'difference'), rows)}"


def _four_places(gap: Mapping[str, float]) -> str:
    text = f"{gap['difference']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"
    return f"**{text}**" if gap["low"] > 0 or gap["high"] < 0 else text


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
