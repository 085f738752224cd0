"""Table of ranking day after day."""

from benchmarks.tables.cells import Figures, difference, estimate, number, table


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
    gained = [
        [f"the last {each['days']}" if later else f"{each['days']}", f"{each['pages']:,}", of(each)]
        for later, each in enumerate(figures["more_than_first"])
    ]
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
            "Learning day by day beside the first ranker, on each day's pages before they were learned on:",
            table(("days", "pages", "GAUC more than the first"), gained),
        ]
    )
