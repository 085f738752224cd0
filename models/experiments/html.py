"""The HTML page of `models.ab_report`."""

from collections.abc import Mapping
from html import escape
from typing import Any

from beam_pipelines.shell.html_page import html_page, html_table
from models.evaluation.charts import ChartRow, row_chart
from models.experiments.figures import legend, lift, shown, with_interval


def render(report: Mapping[str, Any]) -> str:
    """Puts the HTML page together.

    Args:
        report: of `experiment_report`.
    """
    ratio = report["sample_ratio"]
    says = "As planned" if ratio["passed"] else "Not as planned: the experiment is broken, and nothing below counts"
    arms = [("arm", "users", "share", "planned share")]
    arms += [
        (name, f"{arm['users']:,}", f"{arm['share']:.4f}", f"{arm['planned_share']:.4f}")
        for name, arm in report["arms"].items()
    ]
    parts = [
        f'<section><h2>Sample ratio</h2><p class="{"legend" if ratio["passed"] else "notice"}">{says} '
        f"(chi-squared test: p {ratio['p']:.2g}, bound {ratio['least_p']}).</p>{html_table(arms)}</section>",
        _comparisons(report),
    ]
    if "sequential" in report:
        parts.append(_looks(report["sequential"]))
    counts = [
        ("rows, users, pages", "count"),
        *((name.replace("_", " "), str(n)) for name, n in report["counts"].items()),
    ]
    parts.append(f"<section><h2>What was read</h2>{html_table(counts)}</section>")
    return html_page(f"Experiment {report['experiment']}", "\n".join(parts), _STYLE, notice=report["notice"])


def _comparisons(report: Mapping[str, Any]) -> str:
    head = ("metric", "arm", "verdict", "control", "treatment", "difference", "lift", "p (Holm)", "unadjusted")
    rows = [head]
    chart = []
    for name, metric in report["metrics"].items():
        for arm, each in metric["comparisons"].items():
            sides = [shown(each[side]["value"]) for side in ("control", "treatment")]
            plain = with_interval(each["unadjusted"]["difference"], "+")
            ps = shown(each["p_holm"], ".3f")
            difference = with_interval(each["difference"], "+")
            label = f"{name} ({metric['unit']})"
            rows.append((label, arm, each["verdict"], *sides, difference, lift(each["lift"]), ps, plain))
            figure = each["lift"]
            users = f"{each['users']['control']:,} / {each['users']['treatment']:,} users"
            title = name if len(metric["comparisons"]) == 1 else f"{name}, {arm}"
            chart.append(ChartRow(title, users, [(figure["value"], figure["low"], figure["high"])], False))
    text = "<br>".join(escape(line) for line in legend(report))
    title = f"Treatment over {report['control']}, less 1"
    return (
        f'<section><h2>Differences</h2><p class="legend">{text}</p>{html_table(rows)}'
        f"<figure><figcaption>{escape(title)}</figcaption>{row_chart(title, chart, ['lift'])}</figure></section>"
    )


def _looks(sequential: Mapping[str, Any]) -> str:
    rows = [("metric", "arm", "day", "difference over all looks", "z", "bound")]
    for name, arms in sequential["metrics"].items():
        for arm, each in arms.items():
            for look in each["looks"]:
                figure = {"value": look["difference"], "low": look["low"], "high": look["high"]}
                crossed = " crossed" if each["crossed_on_day"] == look["day"] else ""
                cells = (with_interval(figure, "+"), shown(look["z"], "+.2f"), shown(look["bound"], ".2f") + crossed)
                rows.append((name, arm, str(look["day"]), *cells))
    text = (
        f"Day {sequential['days']} of {sequential['planned_days']}. With 95 % probability no bound of any look and "
        "comparison is crossed if the arms are equal, and all these intervals hold at once."
    )
    return f'<section><h2>Looks</h2><p class="legend">{text}</p>{html_table(rows)}</section>'


_STYLE = """
figure { margin: 14px 0 0; max-width: 580px; } figcaption { font-weight: 600; margin-bottom: 4px; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; overflow: visible; color: #2563b8; }
svg text { fill: var(--ink); } svg .name { text-anchor: end; } svg .tick { text-anchor: middle; fill: var(--muted); }
svg .note { text-anchor: end; fill: var(--muted); font-size: 10.5px; }
svg .grid { stroke: var(--line); } svg .zero { stroke: var(--muted); stroke-dasharray: 4 3; }
svg circle { fill: currentColor; } svg .whisker { stroke: currentColor; stroke-width: 1.8; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 14px;
  margin-bottom: 14px; }
h2 { margin-top: 0; }
"""
