"""The HTML page of `beam_pipelines.inspect`."""

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape

from beam_pipelines.shell.html_page import html_page, html_table

_POSITIONS = 40
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25)  # between grid lines, of which there are four
_CHART_WIDTH, _CHART_HEIGHT = 560, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 12, 42
HISTORY_TITLES = {"click": "Clicked before", "pay": "Paid for before", "cart": "In the cart"}


@dataclasses.dataclass(frozen=True)
class ShownItem:
    """An item as it is shown.

    Attributes:
        item_id, title, category: of the item table.
        picture: data URI of a small picture, empty without one.
    """

    item_id: str
    title: str
    category: str
    picture: str


@dataclasses.dataclass(frozen=True)
class ShownCandidate:
    """A candidate of a page that is shown, with what the user did."""

    item: ShownItem
    position: int
    clicked: bool
    converted: bool
    dwell: float


@dataclasses.dataclass(frozen=True)
class ShownPage:
    """A page that is shown.

    Attributes:
        split, page_id, user_id, query: as in the dataset.
        time: readable.
        candidates: in the order of the page.
        histories: history name to its newest steps (the item, and how long before the page), newest first.
        history_lengths: history name to the number of all its steps.
    """

    split: str
    page_id: str
    user_id: str
    query: str
    time: str
    candidates: list[ShownCandidate]
    histories: dict[str, list[tuple[ShownItem, str]]]
    history_lengths: dict[str, int]


def render(
    name: str,
    notice: str,
    table: Sequence[Sequence[str]],
    facts: Sequence[tuple[str, str]],
    charts: Sequence[str],
    pages: Sequence[ShownPage],
) -> str:
    """Puts the HTML page together.

    Args:
        name: of the dataset.
        notice: see `Manifest`; may be empty.
        table: rows of cells, the first row and the first cell of each row are headings.
        facts: further names and values.
        charts: from `history_chart` and `position_chart`.
        pages: to show.
    """
    listed = "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in facts)
    shown = "".join(map(_page, pages)) or "<p>No page was asked for.</p>"
    body = f"""<section class="summary">{html_table(table)}<dl>{listed}</dl></section>
<section class="charts">{"".join(charts)}</section>
<h2>{len(pages)} pages</h2>
<p class="legend">A page is one user at one moment: the items that were shown, in order, and what the user had done
strictly before. <span class="mark clicked">clicked</span> <span class="mark bought">converted</span></p>
{shown}"""
    return html_page(f"Pages of {name}", body, _STYLE, notice=notice)


def history_chart(pages_of_length: Mapping[str, Sequence[int]]) -> str:
    """Bars of the share of pages by history length, in bins that double: 0, 1, 2-3, 4-7, ...

    Histories that no page has are left out.

    Args:
        pages_of_length: history name to the number of pages by length.
    """
    bins: dict[str, list[int]] = {}
    for name, pages in pages_of_length.items():
        if not any(pages[1:]):
            continue
        bins[name] = [0] * (1 + (len(pages) - 1).bit_length())
        for length, count in enumerate(pages):
            bins[name][length.bit_length()] += int(count)
    used = 1 + max((i for counts in bins.values() for i, count in enumerate(counts) if count), default=0)
    labels = ["0", "1", *(f"{2**i}-{2 ** (i + 1) - 1}" for i in range(1, used))][:used]
    series = {name: [count / sum(counts) for count in (counts + [0] * used)[:used]] for name, counts in bins.items()}
    return _bar_chart("Length of histories", "steps in the history", "share of pages", labels, series)


def position_chart(impressions: Mapping[int, int], clicks: Mapping[int, int]) -> str:
    """Bars of the click-through rate by position; of more than 40 positions, the first 40."""
    positions = sorted(impressions)[:_POSITIONS]
    cut = f", first {_POSITIONS} of {len(impressions)}" if len(impressions) > _POSITIONS else ""
    rates = [clicks.get(position, 0) / impressions[position] for position in positions]
    labels = [str(position) for position in positions]
    return _bar_chart("Clicks by position", f"position on the page{cut}", "CTR", labels, {"CTR": rates})


def _bar_chart(
    title: str, x_title: str, y_title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]]
) -> str:
    """Groups of bars over labels; values are shares."""
    largest = max((value for values in series.values() for value in values), default=0)
    step = next(step for step in _STEPS if largest <= 4 * step)
    top = 4 * step
    width, height = _CHART_WIDTH - _LEFT - _RIGHT, _CHART_HEIGHT - _TOP - _BOTTOM
    group = width / max(1, len(labels))
    bar = 0.8 * group / max(1, len(series))
    marks = []
    for tick in range(5):
        y = _TOP + height * (1 - tick / 4)
        marks.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + width}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{step * tick:.{0 if step >= 0.01 else 1}%}</text>'
        )
    every = -(-len(labels) * max(map(len, labels), default=1) * 7 // width)  # as many labels as fit side by side
    for i, label in enumerate(labels):
        middle = _LEFT + group * (i + 0.5)
        if i % every == 0:
            marks.append(f'<text class="middle" x="{middle:.1f}" y="{_TOP + height + 16}">{escape(label)}</text>')
        for j, (name, values) in enumerate(series.items()):
            bar_height = height * values[i] / top
            marks.append(
                f'<rect class="s{j}" x="{middle - 0.4 * group + bar * j:.1f}" y="{_TOP + height - bar_height:.1f}" '
                f'width="{bar:.1f}" height="{bar_height:.1f}">'
                f"<title>{escape(name)}, {escape(label)}: {values[i]:.2%}</title></rect>"
            )
    marks.append(f'<text class="middle" x="{_LEFT + width / 2}" y="{_CHART_HEIGHT - 6}">{escape(x_title)}</text>')
    named = enumerate(series if len(series) > 1 else ())
    names = "".join(f'<span><i class="s{j}"></i>{escape(name)}</span>' for j, name in named)
    return (
        f'<figure><figcaption>{escape(title)} <small>{escape(y_title)}</small><span class="key">{names}</span>'
        f'</figcaption><div class="scroll"><svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(marks)}</svg></div></figure>'
    )


def _page(page: ShownPage) -> str:
    clicked = sum(candidate.clicked for candidate in page.candidates)
    query = f"<span>query <q>{escape(page.query)}</q></span>" if page.query else '<span class="muted">no query</span>'
    histories = "".join(
        _history(HISTORY_TITLES[name], steps, page.history_lengths[name])
        for name, steps in page.histories.items()
        if page.history_lengths[name]
    )
    return (
        f'<article><header><span class="split">{escape(page.split)}</span><span>{escape(page.time)}</span>{query}'
        f"<span>user {escape(page.user_id)}</span><span>{clicked} of {len(page.candidates)} clicked</span>"
        f'<span class="muted">page {escape(page.page_id)}</span></header>'
        f"{histories or '<p class=muted>Nothing known of this user before this page.</p>'}"
        f'<h3>Shown</h3><ol class="candidates">{"".join(map(_candidate, page.candidates))}</ol></article>'
    )


def _history(title: str, steps: Sequence[tuple[ShownItem, str]], length: int) -> str:
    shown = "".join(f"<li>{_picture(item)}<small>{escape(age)}</small></li>" for item, age in steps)
    more = f'<li class="more">and {length - len(steps):,} more</li>' if length > len(steps) else ""
    return f'<h3>{title} <small>{length:,}, newest first</small></h3><ol class="history">{shown}{more}</ol>'


def _candidate(candidate: ShownCandidate) -> str:
    item = candidate.item
    marks = '<span class="mark clicked">clicked</span>' if candidate.clicked else ""
    marks += '<span class="mark bought">converted</span>' if candidate.converted else ""
    dwell = f"<small>stayed {candidate.dwell:.0f} s</small>" if candidate.dwell else ""
    classes = " ".join(
        name for name, is_so in (("clicked", candidate.clicked), ("bought", candidate.converted)) if is_so
    )
    return (
        f'<li class="{classes}"><span class="position">{candidate.position}</span>{_picture(item)}'
        f'<div class="marks">{marks}</div><div class="title">{escape(item.title or item.item_id)}</div>'
        f"<small>{escape(item.category)}</small>{dwell}</li>"
    )


def _picture(item: ShownItem) -> str:
    name = escape(item.title or item.item_id)
    hint = escape(" · ".join(filter(None, (item.title, item.category, item.item_id))))
    if item.picture:
        return f'<img src="{escape(item.picture)}" alt="{name}" title="{hint}">'
    return f'<div class="placeholder" title="{hint}">{name}</div>'


_STYLE = """
:root { --click: #12823b; --buy: #b5420b; --s0: #3267c8; --s1: #d9822b; --s2: #5b9e53; }
h3 { font-size: 13px; margin: 14px 0 6px; } h3 small, .muted, dt, small { color: var(--muted); font-weight: normal; }
small { font-size: 12px; }
.summary, figure, article { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px; }
.summary { display: flex; flex-wrap: wrap; gap: 14px 40px; }
dl { flex: 1 1 260px; margin: 0; } dd { margin: 0 0 10px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 14px;
  margin-top: 14px; }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; margin-bottom: 6px; }
.key { float: right; font-weight: normal; } .key span { margin-left: 12px; }
.key i { display: inline-block; width: 10px; height: 10px; margin-right: 5px; border-radius: 2px; }
.legend { max-width: none; }
svg { display: block; width: 100%; min-width: 400px; font-size: 11px; } svg text { fill: var(--muted); }
.middle { text-anchor: middle; } .end { text-anchor: end; } .grid { stroke: var(--line); }
.s0 { fill: var(--s0); background: var(--s0); } .s1 { fill: var(--s1); background: var(--s1); }
.s2 { fill: var(--s2); background: var(--s2); }
article { margin-bottom: 16px; }
article header { display: flex; flex-wrap: wrap; gap: 2px 18px; border-bottom: 1px solid var(--line);
  padding-bottom: 8px; }
.split { font-weight: 600; }
.history { display: flex; flex-wrap: wrap; gap: 8px; } .history li { width: 64px; text-align: center; }
.history small { display: block; font-size: 11px; }
.history .more { align-self: center; width: auto; color: var(--muted); }
.history img, .history .placeholder { width: 64px; height: 72px; font-size: 10px; }
.candidates { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 10px; }
.candidates li { position: relative; border: 2px solid var(--line); border-radius: 8px; padding: 5px; min-width: 0; }
.candidates li.clicked { border-color: var(--click); background: #eef8f1; }
.candidates li.bought { border-color: var(--buy); background: #fdf1ea; }
.candidates img, .candidates .placeholder { width: 100%; height: 120px; }
.candidates small { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
img { object-fit: contain; background: #fff; border-radius: 4px; display: block; }
.placeholder { display: flex; align-items: safe center; justify-content: center; text-align: center; overflow: hidden;
  background: #e9ecf1; color: var(--muted); border-radius: 4px; padding: 4px; font-size: 12px; line-height: 1.2; }
.position { position: absolute; top: 5px; left: 5px; min-width: 20px; padding: 0 5px; text-align: center;
  border-radius: 6px; background: rgba(29, 35, 48, .75); color: #fff; font-size: 11px; }
.title { font-size: 12px; line-height: 1.25; margin-top: 3px; max-height: 2.5em; overflow: hidden; }
.marks { position: relative; height: 0; }
.marks span { position: absolute; left: 0; bottom: 2px; } .marks .bought { bottom: 21px; }
.mark { color: #fff; border-radius: 4px; padding: 0 5px; font-size: 11px; font-weight: 600; }
.mark.clicked { background: var(--click); } .mark.bought { background: var(--buy); }
@media (max-width: 600px) { .candidates { grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); }
  th, td { font-size: 12px; }
  .key { float: none; display: block; } .key span { margin: 0 12px 0 0; } }
"""
