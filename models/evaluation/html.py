"""The HTML page of `models.evaluate`."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from beam_pipelines.shell.html_page import html_page
from models.evaluation.charts import ChartRow, Triple, calibration_chart, row_chart, series_mark

_LEAST_COUNT = 30
_TASKS = {"ctcvr": "Click and conversion", "long_visit": "Click and long visit"}
_SHOWN_SLICES = 30
_UNDEFINED = "&ndash;"
_FIGURES = (
    ("AUC", "all", "auc"),
    ("GAUC pages", "all", "gauc_page_mean"),
    ("GAUC users", "all", "gauc_user_mean"),
    ("GAUC unseen", "unseen_items", "gauc_page_mean"),
    ("log loss", "all", "log_loss"),
    ("COPC", "all", "copc"),
)
_DIFFERENCES = (
    ("AUC", "auc"),
    ("GAUC pages", "gauc_page_mean"),
    ("GAUC pages, by impressions", "gauc_page_impressions"),
    ("GAUC users", "gauc_user_mean"),
    ("GAUC users, by impressions", "gauc_user_impressions"),
    ("log loss", "log_loss"),
)
_SLICE_CHARTS = (
    ("training", "gauc_page_mean", "GAUC pages"),
    ("click history", "gauc_page_mean", "GAUC pages"),
    ("item age", "gauc_page_mean", "GAUC pages"),
    ("position", "auc", "AUC"),  # a page has one candidate at a position
)


def render(report: Mapping[str, Any]) -> str:
    """Puts the HTML page together.

    Args:
        report: what `metrics.json` holds.

    Reference: the bars by category are figure 4 of COURIER.
    """
    systems: Mapping[str, Any] = report["systems"]
    names = list(systems)
    parts = [_about(report)]
    if len(names) < len(report["models"]):
        parts.append(_means_over_runs(report))
        if len(names) > 1:
            parts.append(_differences(systems, "Differences of the means over runs"))
    parts.append(_summary(report))
    if len(report["models"]) > 1:
        parts.append(_differences(report["models"], "Differences of runs"))
    parts += [_task(task, measured) for task, measured in report["tasks"].items()]
    if any("dwell" in model["all"] for model in report["models"].values()):
        parts.append(_dwell(report["models"]))
    if len(names) > 1:
        parts.append(_categories(report))
    parts += [_calibration(systems), _slices(report)]
    return html_page(f"Rankers on {report['split']} pages", "\n".join(parts), _STYLE, notice=report["notice"])


def _summary(report: Mapping[str, Any]) -> str:
    rows = []
    for name, model in report["models"].items():
        cells = [_with_interval(model[part], metric) for _, part, metric in _FIGURES]
        rows.append([escape(name), escape(model["image_feature"]), *cells, _figure(model["all"]["ece"])])
    head = ["ranker", "image feature", *(label for label, _, _ in _FIGURES), "ECE"]
    return f"<section><h2>Runs</h2>{_table(head, rows, texts=2)}</section>"


def _about(report: Mapping[str, Any]) -> str:
    every, unseen = (next(iter(report["models"].values()))[part] for part in ("all", "unseen_items"))
    sampled = (
        ""
        if report["negative_rate"] == 1
        else f" {report['negative_rate']:.3g} of the unclicked are left; log loss and calibration stand for all."
    )
    text = (
        f"{report['pages']:,} pages of {report['users']:,} users, {every['candidates']:,} candidates, "
        f"{every['clicks']:,} clicks.{sampled} GAUC is the mean AUC of the {every['pages']:,} pages or "
        f"{every['users']:,} users with clicked and unclicked candidates; “unseen” takes the "
        f"{unseen['candidates']:,} candidates that no ranker has seen in training. COPC is clicks over predicted "
        f"clicks, ECE the mean distance of both. Brackets are 95 % intervals of {report['samples']:,} bootstrap "
        "samples of users."
    )
    return f'<p class="legend">{text}</p>'


def _differences(rankers: Mapping[str, Any], title: str) -> str:
    legend = (
        "Paired: on the same pages and the same bootstrap samples. <b class=good>Better</b> and <b class=bad>worse</b> "
        "where the interval leaves out 0."
    )
    return f'<section><h2>{escape(title)}</h2><p class="legend">{legend}</p>{_difference_tables(rankers)}</section>'


def _difference_tables(rankers: Mapping[str, Any]) -> str:
    baseline, *others = rankers
    sections = []
    for part, what in (("all", "all items"), ("unseen_items", "items unseen in training")):
        rows = [
            [
                escape(name),
                *(_difference(rankers[name][part]["differences"][metric], metric) for _, metric in _DIFFERENCES),
            ]
            for name in others
        ]
        head = [f"less {baseline}", *(label for label, _ in _DIFFERENCES)]
        sections.append(f"<h3>{escape(what.capitalize())}</h3>{_table(head, rows)}")
    return "".join(sections)


def _means_over_runs(report: Mapping[str, Any]) -> str:
    rows = [
        [escape(name), f"{len(system['models'])}", *(_with_interval(system[part], m) for _, part, m in _FIGURES)]
        for name, system in report["systems"].items()
    ]
    head = ["ranker", "runs", *(label for label, _, _ in _FIGURES)]
    legend = (
        "Means over runs of one name or, without names, runs that differ in their seed alone. Intervals are over "
        "users, with these runs; the figures further down are such means, too."
    )
    return f'<section><h2>Means over runs</h2><p class="legend">{legend}</p>{_table(head, rows)}</section>'


def _task(task: str, measured: Mapping[str, Any]) -> str:
    """A task besides the click: means over runs, their differences, and each kind of candidate."""
    systems = measured["systems"]
    every = next(iter(measured["models"].values()))["all"]
    rows = [
        [escape(name), f"{len(system['models'])}", *(_with_interval(system[part], m) for _, part, m in _FIGURES)]
        for name, system in systems.items()
    ]
    table = _table(["ranker", "runs", *(label for label, _, _ in _FIGURES)], rows)
    differences = _difference_tables(systems) if len(systems) > 1 else ""
    tables = "".join(
        _details(f"{_TASKS[task]} by {title}", _slice_table(list(systems), slices, _TASKS[task].lower()))
        for title, slices in measured["slices"].items()
    )
    legend = (
        f"{every['clicks']:,} of {every['candidates']:,} candidates, on {every['pages']:,} pages and of "
        f"{every['users']:,} users with and without. COPC is what happened over what was predicted."
    )
    return f'<section><h2>{_TASKS[task]}</h2><p class="legend">{legend}</p>{table}{differences}{tables}</section>'


def _dwell(models: Mapping[str, Any]) -> str:
    columns = (("XAUC", "xauc"), ("error of log(1 + s)", "mean_absolute_log_error"), ("clicks", "clicks"))
    rows = [
        [escape(name), *(_figure(model["all"].get("dwell", {}).get(metric)) for _, metric in columns)]
        for name, model in models.items()
    ]
    head = ["ranker", *(label for label, _ in columns)]
    return f"<section><h2>Dwell time</h2>{_table(head, rows)}</section>"


def _categories(report: Mapping[str, Any]) -> str:
    baseline, *others = report["systems"]
    slices = report["slices"]["category"]
    shown = slices[:_SHOWN_SLICES]
    figures = []
    for number, name in enumerate(others, start=1):
        rows = [
            ChartRow(
                each["value"],
                _counted(each),
                [_triple(each["systems"][name]["differences"]["auc"])],
                each["clicks"] < _LEAST_COUNT,
            )
            for each in shown
        ]
        rows.sort(key=lambda row: float("inf") if row.values[0][0] is None else -row.values[0][0])
        title = f"AUC of {name} less that of {baseline}, by category"
        chart = row_chart(title, rows, [name], bars=True, first_series=number)
        figures.append(f"<figure><figcaption>{escape(title)}</figcaption>{chart}</figure>")
    legend = f"Sorted by the difference, with 95 % intervals. n: candidates. Faint: fewer than {_LEAST_COUNT} clicks."
    if len(slices) > len(shown):
        legend += f" The {len(shown)} categories with the most candidates, of {len(slices)}; all are listed below."
    return (
        f'<section><h2>What it adds, by category</h2><p class="legend">{legend}</p>'
        f'<div class="figures">{"".join(figures)}</div></section>'
    )


def _calibration(systems: Mapping[str, Any]) -> str:
    curves = [(system["calibration"]["predicted"], system["calibration"]["observed"]) for system in systems.values()]
    chart = calibration_chart("Observed click rate over predicted click rate", curves)
    head = ["ranker", "predicted", "observed", "candidates", "clicks"]
    rows = [
        [escape(name), f"{p:.4f}", f"{o:.4f}", f"{n:,}", f"{clicks:,}"]
        for name, system in systems.items()
        for p, o, n, clicks in zip(
            *(system["calibration"][key] for key in ("predicted", "observed", "candidates", "clicks")), strict=True
        )
    ]
    legend = "Bins of equally many candidates, by prediction. On the dashed line, as many click as predicted."
    return (
        f'<section><h2>Calibration</h2><p class="legend">{legend}</p>{_legend(systems)}'
        f'<div class="figures"><figure><figcaption>Calibration curves</figcaption>{chart}</figure></div>'
        f"{_details('Figures of the curves', _table(head, rows))}</section>"
    )


def _slices(report: Mapping[str, Any]) -> str:
    names = list(report["systems"])
    figures = "".join(
        _slice_figure(label, title, metric, names, report["slices"][title])
        for title, metric, label in _SLICE_CHARTS
        if report["slices"].get(title)
    )
    tables = "".join(
        _details(f"All figures by {title}", _slice_table(names, slices)) for title, slices in report["slices"].items()
    )
    legend = (
        "Each kind of candidate alone, with 95 % intervals: the GAUC of a kind is that of a page's candidates of this "
        f"kind. n: candidates. Faint: fewer than {_LEAST_COUNT} pages with an AUC (for GAUC) or clicks (for AUC); "
        "their long intervals are cut."
    )
    return (
        f'<section><h2>By kind of candidate</h2><p class="legend">{legend}</p>{_legend(names)}'
        f'<div class="figures">{figures}</div>{tables}</section>'
    )


def _slice_figure(
    label: str, title: str, metric: str, names: Sequence[str], slices: Sequence[Mapping[str, Any]]
) -> str:
    rows = [
        ChartRow(
            each["value"],
            _counted(each),
            [(each["systems"][name][metric], *each["systems"][name]["intervals"][metric]) for name in names],
            each["clicks" if metric == "auc" else "pages"] < _LEAST_COUNT,
        )
        for each in slices
    ]
    caption = f"{label} by {title}"
    return f"<figure><figcaption>{escape(caption)}</figcaption>{row_chart(caption, rows, names)}</figure>"


def _slice_table(names: Sequence[str], slices: Sequence[Mapping[str, Any]], outcome: str = "clicks") -> str:
    counts = ("candidates", "clicks", "pages", "users")
    head = ["kind", "candidates", outcome, "pages with AUC", "users with AUC"]
    head += [f"{name}: {metric}" for name in names for metric in ("AUC", "GAUC pages")]
    rows = []
    for each in slices:
        figures = [
            _with_interval(each["systems"][name], metric) for name in names for metric in ("auc", "gauc_page_mean")
        ]
        rows.append([escape(each["value"]), *(f"{each[count]:,}" for count in counts), *figures])
    return _table(head, rows)


def _triple(difference: Mapping[str, float | None]) -> Triple:
    return difference["difference"], difference["low"], difference["high"]


def _counted(each: Mapping[str, Any]) -> str:
    return f"n = {each['candidates']:,}"


def _legend(names: "Sequence[str] | Mapping[str, Any]") -> str:
    marks = "".join(
        f'<li><i class="{series_mark(number)}"></i>{escape(name)}</li>' for number, name in enumerate(names)
    )
    return f'<ul class="names">{marks}</ul>'


def _details(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table of HTML cells: the first `texts` columns are words, the first cell of a row is its heading."""
    header = "".join(f'<th scope="col"{_class(n, texts)}>{escape(cell)}</th>' for n, cell in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{label}</th>'
        + "".join(f"<td{_class(n, texts)}>{cell}</td>" for n, cell in enumerate(cells, start=1))
        + "</tr>"
        for label, *cells in rows
    )
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table, scrolls">{table}</div>'


def _class(column: int, texts: int) -> str:
    return ' class="text"' if column < texts else ""


def _figure(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _with_interval(summary: Mapping[str, Any], metric: str) -> str:
    low, high = summary["intervals"][metric]
    ends = "" if low is None else f"<small>[{low:.4f}, {high:.4f}]</small>"
    return f"{_figure(summary[metric])}{ends}"


def _difference(difference: Mapping[str, float | None], metric: str) -> str:
    value, low, high = _triple(difference)
    if value is None:
        return _UNDEFINED
    if low is None or high is None:
        return f"{value:+.4f}"
    sign = -1 if metric == "log_loss" else 1
    ends = sorted(round(sign * end, 4) for end in (low, high))
    better, worse = ends[0] > 0, ends[1] < 0
    text = f"{value:+.4f}"
    if better or worse:
        text = f'<b class="{"good" if better else "bad"}">{text}</b>'
    return f"{text}<small>[{low:+.4f}, {high:+.4f}]</small>"


_STYLE = """
:root { color-scheme: light dark; --muted: #5b6475; --good: #12823b; --bad: #b3261e; --s0: #6b7280; --s1: #2563b8;
  --s2: #c2410c; --s3: #12823b; --s4: #8b3fb0; --s5: #0e7c86; --s6: #a16207; --s7: #be185d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --muted: #a3adbd; --line: #38404e; --paper: #1c212b;
  --ground: #12161d; --good: #5fd08a; --bad: #ff8a80; --s0: #9aa3b2; --s1: #6ea8ff; --s2: #ff9a5c; --s3: #5fd08a;
  --s4: #cf9bea; --s5: #4fd0da; --s6: #e5b94e; --s7: #ff8fc0; } }
h2 { margin: 0 0 4px; }
h3 { font-size: 14px; margin: 12px 0 4px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 14px;
  margin-bottom: 14px; }
th, td { padding: 4px 12px; vertical-align: top; }
thead th { color: var(--muted); white-space: normal; vertical-align: bottom; overflow-wrap: normal; }
th:first-child { padding-left: 0; position: sticky; left: 0; background: var(--paper); }
.text { text-align: left; }
tbody th { font-weight: 600; color: inherit; }
td small { display: block; color: var(--muted); font-size: 12px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 18px 28px; }
figure { margin: 0; min-width: 0; max-width: 580px; } figcaption { font-weight: 600; margin-bottom: 4px; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; overflow: visible; }
svg text { fill: var(--ink); } svg .name { text-anchor: end; } svg .tick { text-anchor: middle; fill: var(--muted); }
svg .note { text-anchor: end; fill: var(--muted); font-size: 10.5px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .zero { stroke: var(--muted); stroke-width: 1.2; stroke-dasharray: 4 3; }
svg .whisker { stroke-width: 1.8; } svg polyline { fill: none; stroke-width: 1.6; stroke: currentColor; }
svg circle { fill: currentColor; } svg g line { stroke: currentColor; }
svg rect { fill: currentColor; fill-opacity: .45; } svg .faint { opacity: .4; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); }
.s4 { color: var(--s4); } .s5 { color: var(--s5); } .s6 { color: var(--s6); } .s7 { color: var(--s7); }
.names { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 10px; padding: 0; }
.names i { display: inline-block; width: 12px; height: 12px; border-radius: 50%; background: currentColor;
  margin-right: 6px; vertical-align: -1px; }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--muted); }
@media (max-width: 700px) { section { padding: 10px; } th, td { padding: 4px 7px; } }
"""
