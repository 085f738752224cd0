"""The HTML page of `models.neighbours`."""

import base64
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from beam_pipelines.shell.html_page import html_page, html_table
from models.embeddings.label_report import ReportTable


class ShownItem(NamedTuple):
    """An item as it is shown.

    Attributes:
        item_id, title: of the item table; the title may be empty.
        values: its labels, empty where it has none, in the order of the page's labels.
        picture: an HTML element.
    """

    item_id: str
    title: str
    values: tuple[str, ...]
    picture: str


class ShownCluster(NamedTuple):
    """A cluster that is shown.

    Attributes:
        cluster_id: its ID.
        size: number of items.
        purity: per label of the page, the most frequent value and its share of the items that have one; 0 without.
        members: some of its items.
    """

    cluster_id: int
    size: int
    purity: list[tuple[str, float]]
    members: list[ShownItem]


class ShownSeed(NamedTuple):
    """A seed with its nearest neighbours.

    Attributes:
        item: the seed.
        neighbours: name of the embeddings to neighbours and their distances, nearest first.
    """

    item: ShownItem
    neighbours: dict[str, list[tuple[ShownItem, float]]]


class ShownMap(NamedTuple):
    """A map of embeddings.

    Attributes:
        title: which embeddings, which label.
        note: how much of the label is to be seen on it.
        png: the picture.
    """

    title: str
    note: str
    png: bytes


def render(
    name: str,
    notice: str,
    labels: Sequence[str],
    tables: Sequence[ReportTable],
    seeds: Sequence[ShownSeed],
    clusters: Sequence[ShownCluster],
    maps: Sequence[ShownMap],
) -> str:
    """Puts the HTML page together.

    Args:
        name: of the dataset.
        notice: see `Manifest`; may be empty.
        labels: names of the labels that items are shown with.
        tables: of the report; may be empty.
        seeds, clusters, maps: what is shown; parts that are empty are left out.

    Reference: the companion article shows seeds with their neighbours under several embeddings; the maps are figures 5
    and 6 of COURIER.
    """
    marks = ", ".join(escape(label) for label in labels)
    parts = []
    if tables:
        shown = "".join(f"<h3>{escape(table.title)}</h3>{html_table(table.rows)}" for table in tables)
        parts.append(f'<section class="report">{shown}</section>')
    if seeds:
        parts.append(
            '<h2>Nearest neighbours</h2><p class="legend">Of each seed, the nearest items first, with their distance. '
            f"Below are their labels ({marks}): <b class=same>the seed's</b> or <b>another</b>. The counts say how "
            "many of those shown carry the seed's.</p>"
        )
        parts += [_seed(seed, labels) for seed in seeds]
    if clusters:
        parts.append(
            '<h2>Clusters</h2><p class="legend">From the largest to the smallest, with some of the items of each. '
            "Purity is the share of the most frequent label.</p>"
        )
        parts += [_cluster(cluster, labels) for cluster in clusters]
    if maps:
        parts.append(
            '<h2>Maps</h2><p class="legend">t-SNE of a sample: items that are near each other have similar embeddings; '
            "directions and distances between groups mean nothing. Trust the number, not the eye: it is the share of "
            "an item's nearest 10 on the map that carry its label.</p>"
        )
        parts.append(f'<section class="maps">{"".join(map(_map, maps))}</section>')
    return html_page(f"Embeddings of {name}", "\n".join(parts), _STYLE, notice=notice)


def _seed(seed: ShownSeed, labels: Sequence[str]) -> str:
    shown = "".join(_neighbours(name, seed.item, found, labels) for name, found in seed.neighbours.items())
    item = seed.item
    return (
        f'<article class="seed"><header><div class="item">{item.picture}</div><div><b>{escape(item.title)}</b>'
        f"<small>{escape(item.item_id)}</small>{_chips(item.values, item.values)}</div></header>"
        f'<div class="sides">{shown}</div></article>'
    )


def _neighbours(name: str, seed: ShownItem, found: Sequence[tuple[ShownItem, float]], labels: Sequence[str]) -> str:
    same = _counts(labels, seed.values, [item.values for item, _ in found])
    items = "".join(
        f"<li>{item.picture}<small>{distance:.3f}</small>{_chips(item.values, seed.values)}</li>"
        for item, distance in found
    )
    return f"<section><h3>{escape(name)} <small>{same}</small></h3><ol>{items}</ol></section>"


def _counts(labels: Sequence[str], wanted: Sequence[str], found: Sequence[Sequence[str]]) -> str:
    counted = [
        f"{escape(label)} {sum(values[i] == wanted[i] for values in found)}/{len(found)}"
        for i, label in enumerate(labels)
        if wanted[i]
    ]
    return " · ".join(counted)


def _chips(values: Sequence[str], wanted: Sequence[str]) -> str:
    return "".join(
        f'<span class="{"chip same" if value == seed else "chip"}" title="{escape(value)}">{escape(value)}</span>'
        for value, seed in zip(values, wanted, strict=True)
        if value
    )


def _cluster(cluster: ShownCluster, labels: Sequence[str]) -> str:
    purity = "".join(
        f"<span>{escape(label)}: <b>{share:.0%}</b> {escape(value)}</span>"
        for label, (value, share) in zip(labels, cluster.purity, strict=True)
        if value
    )
    members = "".join(f"<li>{item.picture}</li>" for item in cluster.members)
    return (
        f'<article class="cluster"><header><b>Cluster {cluster.cluster_id}</b><span>{cluster.size:,} items</span>'
        f"{purity}</header><ol>{members}</ol></article>"
    )


def _map(shown: ShownMap) -> str:
    data = base64.b64encode(shown.png).decode()
    title = escape(shown.title)
    return (
        f"<figure><figcaption>{title}<small>{escape(shown.note)}</small></figcaption>"
        f'<img src="data:image/png;base64,{data}" alt="{title}"></figure>'
    )


_STYLE = """
:root { --same: #12823b; }
h3 { font-size: 13px; margin: 0 0 6px; } h3 small, small { color: var(--muted); font-weight: normal; font-size: 12px; }
.legend b, .chip { background: #e6e9ef; color: var(--ink); border-radius: 4px; padding: 0 5px; font-weight: 600;
  font-size: 11px; }
.legend .same, .chip.same { background: var(--same); color: #fff; }
.report, article, figure { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px; }
.report h3 { margin-top: 14px; } .report h3:first-child { margin-top: 0; }
article { margin-bottom: 14px; }
ol { display: grid; gap: 8px; }
img { object-fit: contain; background: #fff; border-radius: 4px; display: block; width: 100%; }
li { min-width: 0; } li img { height: 104px; } li small { display: block; text-align: center; }
.chip { display: block; margin-top: 2px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  text-align: center; }
.seed { display: grid; grid-template-columns: 132px minmax(0, 1fr); gap: 20px; }
.seed header b, .seed header small { display: block; } .seed header .item { margin-bottom: 6px; }
.seed header img { height: 164px; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr)); gap: 16px 28px;
  min-width: 0; }
.sides section { min-width: 0; }
.seed ol { grid-template-columns: repeat(auto-fill, minmax(78px, 1fr)); }
.cluster header { display: flex; flex-wrap: wrap; gap: 2px 18px; margin-bottom: 8px; color: var(--muted); }
.cluster header b { color: var(--ink); }
.cluster ol { grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)); } .cluster li img { height: 92px; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 14px; }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; } figcaption small { display: block; }
figure img { max-width: 560px; margin: 8px auto 0; }
@media (max-width: 700px) { .report, article, figure { padding: 10px; }
  .seed { grid-template-columns: minmax(0, 1fr); gap: 10px; }
  .seed header { display: grid; grid-template-columns: 84px minmax(0, 1fr); gap: 10px; }
  .seed header .item { margin: 0; } .seed header img { height: 104px; }
  .seed header .chip { width: fit-content; max-width: 100%; }
  .cluster ol { grid-template-columns: repeat(auto-fill, minmax(50px, 1fr)); gap: 6px; }
  .cluster li img { height: 64px; }
  th, td { font-size: 12px; } }
"""
