"""Puts the pages of one bucket of users together, with their histories, from that bucket's rows.

The rules, which make the result independent of the order of the input:

- A page is the impressions of one `page_id`. If that is used again, by another user or after a pause, its rows are
  rejected, or each use is a page of its own (see `reused_pages`). A page's time is that of its earliest row, its
  candidates are ordered by position, then item row. Its query is the first non-empty one in that order.
- Rows of one page and item count once. If they differ, the clicked one wins, then the converted one, the one with the
  longer dwell time, the smaller position, the earlier one, the query that sorts first.
- The `clicked` column says what was clicked. With an attribution window, `click` events say it, too: an event belongs
  to the user's latest candidate of that item shown at or before it (of several shown at that moment: the page whose ID
  sorts last) and makes it clicked unless it is later than the window. A late event changes no label. An event that no
  impression precedes is rejected.
- A history holds one step per moment and item, strictly before the page, newest first; at equal times by item row.
  `click`: the clicked candidates of all pages, at their page's time or, where events were attributed to them, at the
  times of these; and all other `click` events. `pay`: `pay` events. Both reach back a number of days. `cart`: what is
  in the cart at the page's moment, at the time it was last put there; of a `cart` and a `cart_remove` of one item at
  the same moment the removal is the later one.
- What is left out of pages, because they are too long or negatives are sampled, counts in histories and statistics all
  the same.
- A page's category is the commonest one among its candidates; of equally common ones the one that sorts first.
"""

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.manifest import SPLITS
from beam_pipelines.logs.rejections import RejectedRow
from beam_pipelines.pages.bucket import Bucket, hash_ids
from beam_pipelines.pages.histories import History, Steps, find_carts, sort_rows, starts_group
from beam_pipelines.pages.item_statistics import DailyCounts
from beam_pipelines.pages.reused_pages import ReusedPages
from beam_pipelines.pages.rules import HOUR_MS, MINUTE_MS, PageRules

_TRAIN = SPLITS.index("train")


def build_bucket(
    impressions: pa.Table,
    events: pa.Table,
    rules: PageRules,
    *,
    item_ids: pa.Array,
    user_ids: pa.Array,
    item_category: np.ndarray,
    shared_pages: Sequence[str] = (),
) -> Bucket:
    """Builds the pages of some users.

    Args:
        impressions, events: all normalised rows of these users (see `rows.normalise`), in any order, with rows of the
            item and user tables for IDs.
        rules: see `PageRules`.
        item_ids, user_ids: the IDs by row, to name what is rejected.
        item_category: int64 by item row; numbers of categories in sorted order.
        shared_pages: IDs of pages that have rows of several users, here or in other buckets.
    """
    counters: Counter[str] = Counter()
    name_rows = functools.partial(_rejected, item_ids=item_ids, user_ids=user_ids)
    page_of, page_ids = _encode(impressions["page_id"])
    reused = ReusedPages.find(
        page_of,
        _numpy(impressions["user_id"], np.int64),
        _numpy(impressions["timestamp"], np.int64),
        page_ids,
        shared_pages,
        round(rules.page_gap_minutes * MINUTE_MS),
    )
    counters.update(reused.counters())
    given, bad, examples = impressions, {}, {}
    if rules.split_reused_pages and len(reused.row):
        name = impressions.column_names.index("page_id")
        counters["pages.split"] = len(np.unique(reused.use))
        split_ids = reused.split(_combined(impressions["page_id"]), user_ids)
        impressions = impressions.set_column(name, "page_id", pa.chunked_array([split_ids]))
    else:
        bad, examples = reused.rows_by_reason(len(impressions)), reused.examples(page_ids, user_ids)
    impressions, rejected = _reject_pages(impressions, bad, rules.split_times is None, name_rows)
    if impressions is not given:
        page_of, page_ids = _encode(impressions["page_id"])
    query_of, queries = _encode(impressions["query"])
    rows = {
        "page": page_of,
        "user": _numpy(impressions["user_id"], np.int64),
        "item": _numpy(impressions["item_id"], np.int64),
        "time": _numpy(impressions["timestamp"], np.int64),
        "position": _numpy(impressions["position"], np.int64),
        "clicked": _numpy(impressions["clicked"], np.int64),
        "converted": _numpy(impressions["converted"], np.int64),
        "dwell": _numpy(impressions["dwell_seconds"], np.float32),
        "query": query_of,
    }
    candidates = _one_per_page_and_item(rows, counters)
    order = sort_rows(candidates["page"], candidates["position"], candidates["item"])
    candidates = {name: values[order] for name, values in candidates.items()}
    page = candidates["page"]
    start = np.searchsorted(page, np.arange(len(page_ids) + 1))
    user = candidates["user"][start[:-1]]
    time = np.minimum.reduceat(candidates["shown"], start[:-1]) if len(page_ids) else np.zeros(0, np.int64)
    if rules.split_times is None:
        split = np.zeros(len(page_ids), np.int64)
        split[page_of] = pc.index_in(_combined(impressions["split"]), pa.array(SPLITS)).to_numpy()
    else:
        split = np.searchsorted(np.array(rules.split_times), time, side="right")
    query = _first_query(page, candidates["query"], queries, len(page_ids))

    by_kind = _events(events, counters)
    click_time = time[page]
    labelled = candidates["clicked"] == 1
    if rules.attribution_hours is not None:
        window = round(rules.attribution_hours * HOUR_MS)
        attributed, unseen = _attribute(candidates, by_kind["click"], window, click_time, counters)
        by_kind["click"], orphans = _without(by_kind["click"], unseen)
        rejected += name_rows("events", orphans)
        candidates["clicked"] = (labelled | attributed).astype(np.int64)
        labelled &= ~attributed
    clicked = candidates["clicked"] == 1
    click = Steps.of(
        np.concatenate([candidates["user"][labelled], by_kind["click"].owner]),
        np.concatenate([click_time[labelled], by_kind["click"].time]),
        np.concatenate([candidates["item"][labelled], by_kind["click"].item]),
    )
    pay = by_kind["pay"]
    counts = DailyCounts.count(
        impressions=(candidates["item"], time[page]),
        clicks=(candidates["item"][clicked], click_time[clicked]),
        pays=(pay.item, pay.time),
    )

    owners = {"click": (click, user), "pay": (pay, user)}
    if rules.same_category_clicks:
        categories = int(item_category.max(initial=0)) + 1
        of_step = click.owner * categories + item_category[click.item]
        of_page = user * categories + _commonest(page, item_category[candidates["item"]], categories, len(page_ids))
        owners["click"] = (Steps.of(of_step, click.time, click.item), of_page)
    histories = {}
    cut = {}
    for name, (steps, owner) in owners.items():
        first, last, cut[name] = steps.before(owner, time, rules.reach(name), rules.limits[name])
        histories[name] = History(steps.item, steps.time, first, last)
    histories["cart"], cut["cart"] = find_carts(
        by_kind["cart"], by_kind["cart_remove"], user, time, rules.limits["cart"]
    )
    for name, history in histories.items():
        counters[f"history.{name}.steps"] = int((history.stop - history.start).sum())
        counters[f"history.{name}.cut_pages"] = int(cut[name].sum())

    bucket = Bucket(
        page_id=page_ids,
        page_hash=hash_ids(page_ids),
        user=user,
        time=time,
        query=query,
        split=split,
        start=start,
        candidates={name: candidates[name] for name in ("item", "position", "clicked", "converted", "dwell")},
        histories=histories,
        clicks=click,
        counts=counts,
        rejected=rejected,
        counters=counters,
        reused=examples,
    )
    counters["impressions.same_position"] = len(page) - int(starts_group(page, candidates["position"]).sum())
    rank = np.arange(len(page)) - np.repeat(start[:-1], np.diff(start))
    counters["pages.candidates_cut"] = int((rank >= rules.max_candidates).sum())
    if counters["pages.candidates_cut"]:
        bucket = bucket.select_candidates(rank < rules.max_candidates)
        page = np.repeat(np.arange(len(page_ids)), np.diff(bucket.start))
    if rules.train_negatives < 1:
        kept = bucket.sample_negatives(rules.train_negatives) | (split[page] != _TRAIN)
        counters["train.negatives_sampled_out"] = int((~kept).sum())
        bucket = bucket.select_candidates(kept)
        counters["train.pages_sampled_out"] = len(page_ids) - len(bucket.page_id)
    return bucket


def _rejected(table: str, by_reason: dict[str, pa.Table], item_ids: pa.Array, user_ids: pa.Array) -> list[RejectedRow]:
    """Dead letters of rows, which get their IDs back."""
    rejected = []
    for reason, rows in by_reason.items():
        for row in rows.to_pylist():
            row["item_id"], row["user_id"] = item_ids[row["item_id"]].as_py(), user_ids[row["user_id"]].as_py()
            rejected.append(RejectedRow.of(table, reason, row))
    return rejected


def _reject_pages(
    impressions: pa.Table,
    bad: dict[str, pa.Array],
    has_split: bool,
    name_rows: functools.partial[list[RejectedRow]],
) -> tuple[pa.Table, list[RejectedRow]]:
    """Takes out bad rows, given by reason, and those of pages of several splits."""
    if has_split:
        page = impressions["page_id"]
        counted = impressions.select(["page_id", "split"]).group_by("page_id").aggregate([("split", "count_distinct")])
        mixed = counted.filter(pc.greater(counted["split_count_distinct"], 1))["page_id"]
        in_several = pc.is_in(page, _combined(mixed))
        bad["page in several splits"] = functools.reduce(pc.and_not, bad.values(), in_several)
    rejected = name_rows("impressions", {reason: impressions.filter(mask) for reason, mask in bad.items()})
    if rejected:
        impressions = impressions.filter(pc.invert(functools.reduce(pc.or_, bad.values())))
    return impressions, rejected


def _one_per_page_and_item(rows: dict[str, np.ndarray], counters: Counter[str]) -> dict[str, np.ndarray]:
    """One candidate per page and item; `shown` is the time of its earliest row."""
    order = sort_rows(rows["page"], rows["item"])
    rows = {name: values[order] for name, values in rows.items()}
    first = starts_group(rows["page"], rows["item"])
    kept = np.append(first[1:], True) & first  # rows that are alone
    again = np.flatnonzero(~kept)
    few = {name: values[again] for name, values in rows.items()}
    preference = (few["query"], few["time"], few["position"], -few["dwell"], -few["converted"], -few["clicked"])
    order = np.lexsort((*preference, few["item"], few["page"]))
    few = {name: values[order] for name, values in few.items()}
    best = starts_group(few["page"], few["item"])
    differs = starts_group(*few.values())
    counters["impressions.duplicate"] = int((~differs).sum())
    counters["impressions.conflicting"] = int((differs & ~best).sum())
    shown = rows["time"].copy()
    # The best row takes the place of its group's first, so that the order by page and item stays.
    for name, values in few.items():
        rows[name][again[first[again]]] = values[best]
    if len(again):
        shown[again[first[again]]] = np.minimum.reduceat(few["time"], np.flatnonzero(best))
    return {name: values[first] for name, values in rows.items()} | {"shown": shown[first]}


def _first_query(page: np.ndarray, query: np.ndarray, queries: list[str], pages: int) -> list[str]:
    found = np.full(pages, -1)
    asked = np.flatnonzero(np.array([text != "" for text in queries], bool)[query]) if queries else np.zeros(0, int)
    found[page[asked[::-1]]] = query[asked[::-1]]
    return [queries[i] if i >= 0 else "" for i in found.tolist()]


def _events(events: pa.Table, counters: Counter[str]) -> dict[str, Steps]:
    user = _numpy(events["user_id"], np.int64)
    item = _numpy(events["item_id"], np.int64)
    time = _numpy(events["timestamp"], np.int64)
    kinds = _combined(events["event"])
    by_kind = {}
    for kind in ("click", "pay", "cart", "cart_remove"):
        mask = _numpy(pc.equal(kinds, kind), bool)
        by_kind[kind] = Steps.of(user[mask], time[mask], item[mask])
        counters["events.duplicate"] += int(mask.sum()) - len(by_kind[kind].owner)
    return by_kind


def _attribute(
    candidates: dict[str, np.ndarray], clicks: Steps, window: int, click_time: np.ndarray, counters: Counter[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Finds the candidate that each click event belongs to.

    Args:
        candidates: by page and item.
        clicks: the click events.
        window: in milliseconds.
        click_time: `(candidates,)`; becomes the time of the first click where events were attributed.
        counters: what is counted is added here.

    Returns:
        Where events were attributed, `(candidates,)`; and reason to the clicks that belong to none, `(clicks,)`.
    """
    items = max(candidates["item"].max(initial=0), clicks.item.max(initial=0)) + 1
    pair = candidates["user"] * items + candidates["item"]
    order = np.lexsort((candidates["page"], candidates["shown"], pair))
    pairs, pair_of = np.unique(pair[order], return_inverse=True)
    moments = np.unique(np.concatenate([candidates["shown"], clicks.time]))
    shown = pair_of * len(moments) + np.searchsorted(moments, candidates["shown"][order])
    clicked = clicks.owner * items + clicks.item
    was_shown = np.isin(clicked, pairs)
    clicked_pair = np.searchsorted(pairs, clicked[was_shown])
    latest = np.searchsorted(
        shown, clicked_pair * len(moments) + np.searchsorted(moments, clicks.time[was_shown]), "right"
    )
    preceded = latest > np.searchsorted(pair_of, clicked_pair)
    found = order[latest[preceded] - 1]
    time = clicks.time[was_shown][preceded]
    in_time = time - candidates["shown"][found] <= window
    counters["clicks.attributed"] = int(in_time.sum())
    counters["clicks.late"] = int((~in_time).sum())
    attributed = np.zeros(len(pair), bool)
    attributed[found[in_time]] = True
    click_time[attributed] = np.iinfo(np.int64).max
    np.minimum.at(click_time, found[in_time], time[in_time])
    early = was_shown.copy()
    early[was_shown] = ~preceded
    return attributed, {"click without impression": ~was_shown, "click before its impression": early}


def _without(steps: Steps, unseen: dict[str, np.ndarray]) -> tuple[Steps, dict[str, pa.Table]]:
    """Click steps without some, and those by reason, as rows of `events`."""
    rows = pa.table({"user_id": steps.owner, "item_id": steps.item, "timestamp": steps.time})
    rows = rows.append_column("event", pa.array(["click"] * len(rows), pa.string()))
    kept = ~np.any(list(unseen.values()), axis=0)
    return steps.where(kept), {reason: rows.filter(pa.array(mask)) for reason, mask in unseen.items()}


def _commonest(page: np.ndarray, category: np.ndarray, categories: int, pages: int) -> np.ndarray:
    """The commonest category of each page, the first of equally common ones."""
    pairs, count = np.unique(page * categories + category, return_counts=True)
    order = np.lexsort((pairs, -count, pairs // categories))
    return (pairs[order] % categories)[np.searchsorted(pairs[order] // categories, np.arange(pages))]


def _combined(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _numpy(column: pa.ChunkedArray | pa.Array, dtype: type) -> np.ndarray:
    return _combined(column).to_numpy(zero_copy_only=False).astype(dtype)


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Strings as ranks among the sorted distinct ones."""
    encoded = _combined(column).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(pa.array(order)).to_pylist()
