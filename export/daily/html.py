"""The ledger as a page: metrics over days, volumes, joins, drift, and what was refused and why."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from beam_pipelines.format.outputs import whole_file
from beam_pipelines.shell.html_page import html_page, html_table
from export.daily.drift import QUANTILES
from export.daily.ledger import Ledger, LedgerEntry
from export.daily.line_chart import Line, line_chart

PAGE_FILE = "ledger.html"

_DRIFTING = 6
"""Inputs that are drawn, those that drifted most."""
_WORST_SLICES = 3


def write_page(ledger: Ledger, directory: Path) -> None:
    """Writes `ledger.html`, a page of one file that loads nothing.

    Args:
        ledger: the days.
        directory: of the page.
    """
    with whole_file(directory / PAGE_FILE) as path:
        path.write_text(ledger_page(ledger), encoding="utf-8")


def ledger_page(entries: Sequence[LedgerEntry]) -> str:
    """Puts the page together.

    Args:
        entries: the days.
    """
    if not entries:
        return html_page("Days", '<p class="legend">No day so far.</p>')
    serving = entries[-1].version
    last = "no version serves" if serving is None else f"version {serving} serves"
    counts = {name: sum(entry.outcome == name for entry in entries) for name in ("published", "kept", "refused")}
    told = (
        f"{len(entries)} days, the last {entries[-1].day}; {last}. On {counts['published']} days the candidate was "
        f"published, on {counts['kept']} the version before was kept, {counts['refused']} days were refused. The "
        "candidate of a day has learned up to the day before; it and what served were measured on the day's pages "
        "before anything learned on them."
    )
    charts = [*_quality(entries), *_volumes(entries), *_drift(entries)]
    days = [entry.day.isoformat() for entry in entries]
    refused = [entry.outcome == "refused" or bool(entry.refused_before) for entry in entries]
    figures = "".join(_figure(title, days, lines, refused) for title, lines in charts if lines)
    body = f'<p class="legend">{escape(told)}</p><div class="charts">{figures}</div>{_days(entries)}'
    return html_page("Days", body, _STYLE)


def _figure(title: str, days: Sequence[str], lines: Sequence[Line], refused: Sequence[bool]) -> str:
    names = "".join(f'<span class="key s{n}">{escape(line.name)}</span>' for n, line in enumerate(lines))
    chart = line_chart(title, days, lines, refused=refused)
    return f"<figure><figcaption>{escape(title)} {names}</figcaption>{chart}</figure>"


def _quality(entries: Sequence[LedgerEntry]) -> list[tuple[str, list[Line]]]:
    charts = []
    for title, metric in (("GAUC on the day's pages", "gauc_page_mean"), ("Log loss", "log_loss"), ("COPC", "copc")):
        lines = []
        for name in ("candidate", "served"):
            sides = [getattr(entry, name) for entry in entries]
            ends = [side["intervals"][metric] if side else (None, None) for side in sides]
            values = [side[metric] if side else None for side in sides]
            lines.append(Line(name, values, [end[0] for end in ends], [end[1] for end in ends]))
        charts.append((title, lines))
    differs = [entry.difference["gauc_page_mean"] if entry.difference else None for entry in entries]
    line = Line(
        "candidate less served",
        *([each[key] if each else None for each in differs] for key in ("difference", "low", "high")),
    )
    version = Line("version", [each.version for each in entries])
    return [*charts, ("Difference of GAUC, paired", [line]), ("Version that serves", [version])]


def _volumes(entries: Sequence[LedgerEntry]) -> list[tuple[str, list[Line]]]:
    def facts(name: str) -> list[float | None]:
        return [getattr(each.facts, name) if each.facts else None for each in entries]

    joins = sorted({name for entry in entries if entry.facts for name in entry.facts.joins})
    shares = [
        Line(name.replace(".", " in "), [each.facts.joins.get(name) if each.facts else None for each in entries])
        for name in joins
    ]
    return [
        ("Pages", [Line("pages", facts("pages"))]),
        ("Impressions and clicks", [Line(name, facts(name)) for name in ("impressions", "clicks")]),
        ("Click rate", [Line("clicks per impression", facts("click_rate"))]),
        ("Rows whose ID is known; items with a picture", [*shares, Line("pictures", facts("picture_share"))]),
        (
            "New items and pictures",
            [
                Line(name.replace("_", " "), [each.dataset.get(name) for each in entries])
                for name in ("new_items", "new_pictures")
            ],
        ),
    ]


def _drift(entries: Sequence[LedgerEntry]) -> list[tuple[str, list[Line]]]:
    largest: dict[str, float] = {}
    for entry in entries:
        for name, index in entry.drift.items():
            largest[name] = max(index, largest.get(name, 0.0))
    scores = largest.pop("scores", None)
    inputs = sorted(largest, key=lambda name: -largest[name])[:_DRIFTING]
    drawn = ["scores", *inputs] if scores is not None else inputs
    lines = [Line(name, [each.drift.get(name) for each in entries]) for name in drawn]
    quantiles = [
        Line(f"{share:.0%}", [each.scores["quantiles"][n] if each.scores else None for each in entries])
        for n, share in enumerate(QUANTILES)
    ]
    return [
        ("Population stability index against the days before", lines),
        ("Quantiles of the candidate's click probability", quantiles),
    ]


def _days(entries: Sequence[LedgerEntry]) -> str:
    rows: list[tuple[str, ...]] = [
        ("day", "outcome", "version", "pages", "served", "candidate", "difference of GAUC", "worst slices", "why")
    ]
    for entry in reversed(entries):
        differs = entry.difference["gauc_page_mean"] if entry.difference else None
        worst = "; ".join(
            f"{each['title']} {each['value']} {each['difference']:+.4f}" for each in entry.slices[:_WORST_SLICES]
        )
        rows.append(
            (
                entry.day.isoformat(),
                entry.outcome,
                "" if entry.version is None else str(entry.version),
                f"{entry.facts.pages:,.0f}" if entry.facts else "",
                *(f"{side['gauc_page_mean']:.4f}" if side else "" for side in (entry.served, entry.candidate)),
                "{difference:+.4f} [{low:+.4f}, {high:+.4f}]".format(**differs) if differs else "",
                worst,
                "; ".join([*entry.reasons, *(f"refused before: {why}" for why in entry.refused_before)]),
            )
        )
    return f"<section><h2>All days</h2>{html_table(rows)}</section>"


_STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
figure, section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px;
  margin: 0; }
section { margin-top: 14px; } h2 { margin-top: 0; } figcaption { font-weight: 600; margin-bottom: 4px; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--muted); } svg .value { text-anchor: end; } svg .day { text-anchor: middle; }
svg .grid { stroke: var(--line); } svg .refused { stroke: #c0392b; stroke-width: 5; opacity: .35; }
svg polyline { fill: none; stroke: currentColor; stroke-width: 1.8; } svg circle { fill: currentColor; }
svg polygon { fill: currentColor; opacity: .13; }
.key { font-weight: normal; font-size: 12px; margin-left: 10px; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 4px;
  background: currentColor; }
.s0 { color: #2563b8; } .s1 { color: #c2571a; } .s2 { color: #2e8540; } .s3 { color: #8e44ad; } .s4 { color: #b8860b; }
.s5 { color: #0e7c86; } .s6 { color: #a3195b; }
td:nth-last-child(-n+2) { white-space: normal; text-align: left; min-width: 22ch; }
"""
