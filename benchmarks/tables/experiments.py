"""Tables of online experiments and of off-policy estimates."""

from benchmarks.tables.cells import Figures, number, table


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
        f"{figures['repeats']:,} experiments on {figures['users']:,} shoppers and {figures['days']} days, and "
        f"{figures['equal_repeats']:,} comparisons of equal arms at one look; the standard error of a share of 5 % is "
        f"{' and '.join(f'{each:.4f}' for each in figures['standard_errors_of_5_percent'])}. Any of all metrics after "
        f"Holm, equal arms: {figures['aa_any_of_all_holm']:.3f}. All intervals over the looks hold the effect on CTR: "
        f"{figures['coverage_of_ctr_over_looks']:.3f}."
    )
    expected = [
        [name, *(f"{each[kind]:.4f}" for kind in ("once", "cuped"))] for name, each in figures["aa_expected"].items()
    ]
    of_theory = "Equal arms should differ at one look, by an Edgeworth expansion with the kurtosis of these shoppers:"
    return f"{table(head, rows)}\n\n{text}\n\n{of_theory}\n\n{table(('metric', 'as it is', 'CUPED'), expected)}"


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
