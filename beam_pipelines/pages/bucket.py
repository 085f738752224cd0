"""Builds the pages of one bucket of users, with their histories, from that bucket's rows.

The rules, which make the result independent of the order of the input:

- A page is the impressions of one `page_id`. Its time is that of its earliest row, its candidates are ordered by
  position, then item row. Its query is the first non-empty one in that order.
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

import dataclasses
import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.format.manifest import SPLITS
from beam_pipelines.format.records import FEATURES, HISTORIES, WIRE_ORDER, encode_packed_pages, pack_int64
from beam_pipelines.logs.rejections import RejectedRow
from beam_pipelines.pages.item_statistics import DailyCounts, ItemStatistics
from beam_pipelines.pages.rules import HOUR_MS, PageRules, PretrainingRules

_FEATURES = {feature.name: feature for feature in FEATURES}
_ENCODED_TOGETHER = 2048  # pages
_PRETRAIN, _TRAIN = SPLITS.index("pretrain"), SPLITS.index("train")


@dataclasses.dataclass(frozen=True)
class Steps:
    """Steps of one kind of all owners (users): by owner, then newest first, then by item.

    Attributes:
        owner, time, item: `(steps,)`.
    """

    owner: np.ndarray
    time: np.ndarray
    item: np.ndarray

    @classmethod
    def of(cls, owner: np.ndarray, time: np.ndarray, item: np.ndarray) -> "Steps":
        """Sorts steps and keeps one per owner, time and item."""
        order = _order(owner, time.max(initial=0) - time, item)
        owner, time, item = owner[order], time[order], item[order]
        first = _starts_group(owner, time, item)
        return cls(owner[first], time[first], item[first])

    def where(self, mask: np.ndarray) -> "Steps":
        """Some of the steps."""
        return Steps(self.owner[mask], self.time[mask], self.item[mask])

    def before(
        self, owner: np.ndarray, time: np.ndarray, reach: int, limit: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the newest steps of each page strictly before it.

        Args:
            owner, time: `(pages,)`.
            reach: how much older than the page a step may be.
            limit: steps kept per page.

        Returns:
            `start` and `stop`, `(pages,)`: the page's history is `start:stop`; and where the limit cut it.
        """
        moments = np.unique(np.concatenate([self.time, time]))
        oldest = len(moments)
        # One ascending key for "by owner, then newest first".
        steps = self.owner * (oldest + 1) + oldest - 1 - np.searchsorted(moments, self.time)
        first = owner * (oldest + 1) + oldest - 1
        start = np.searchsorted(steps, first - np.searchsorted(moments, time), side="right")
        stop = np.searchsorted(steps, first - np.searchsorted(moments, time - reach), side="right")
        return start, np.minimum(stop, start + limit), stop - start > limit


@dataclasses.dataclass(frozen=True)
class History:
    """One history of each page.

    Attributes:
        item, time: `(steps,)`, shared by the pages.
        start, stop: `(pages,)`: the history of page `i` is `start[i]:stop[i]`.
    """

    item: np.ndarray
    time: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def empty(cls, pages: int) -> "History":
        """No steps."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, np.zeros(pages, np.int64), np.zeros(pages, np.int64))


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The pages of a bucket.

    Attributes:
        page_id: `(pages,)`, strings, ascending.
        page_hash: uint64 `(pages,)`.
        user, time: `(pages,)`.
        query: `(pages,)`, strings.
        split: `(pages,)`, index into `SPLITS`.
        start: `(pages + 1,)`: candidates of page `i` are `start[i]:start[i + 1]`.
        candidates: feature name of the page schema to values `(candidates,)`; statistics only after `with_statistics`.
        histories: by name.
        clicks: all click steps of the users.
        counts: impressions, clicks and payments by item and day.
        rejected: rows that are on no page.
        counters: what was counted.
    """

    page_id: list[str]
    page_hash: np.ndarray
    user: np.ndarray
    time: np.ndarray
    query: list[str]
    split: np.ndarray
    start: np.ndarray
    candidates: dict[str, np.ndarray]
    histories: dict[str, History]
    clicks: Steps
    counts: DailyCounts
    rejected: list[RejectedRow]
    counters: Counter[str]

    def pages_of(self, split: int) -> np.ndarray:
        """The pages of a split in the order of their shard: by a hash of the page ID, so that users and times mix."""
        pages = np.flatnonzero(self.split == split)
        return pages[np.argsort(self.page_hash[pages], kind="stable")]

    def with_statistics(self, statistics: ItemStatistics) -> "Bucket":
        """The same pages with the statistics of their candidates as of the page's day."""
        time = np.repeat(self.time, np.diff(self.start))
        found = statistics.as_of(self.candidates["item"], time)
        return dataclasses.replace(self, candidates=self.candidates | found)

    def encode(self, pages: np.ndarray) -> Iterator[pa.BinaryArray]:
        """Serializes pages, in order, some at a time."""
        for first in range(0, len(pages), _ENCODED_TOGETHER):
            block = pages[first : first + _ENCODED_TOGETHER]
            yield encode_packed_pages([payloads(block) for payloads in self._payloads])

    @functools.cached_property
    def _payloads(self) -> list[Callable[[np.ndarray], pa.BinaryArray]]:
        """For each feature what finds its payloads on some pages.

        Every list on a page is a slice of a column, so columns are packed once and pages put together from slices.
        """
        return [self._packed(name) for name in WIRE_ORDER]

    def _packed(self, name: str) -> Callable[[np.ndarray], pa.BinaryArray]:
        feature = _FEATURES[name]
        if feature.kind == "bytes":
            texts = pa.array(self.page_id if name == "page_id" else self.query, pa.string()).cast(pa.binary())
            return lambda pages: texts.take(pa.array(pages))
        if feature.group in HISTORIES:
            history = self.histories[feature.group]
            data, offsets = pack_int64(getattr(history, name.split("_")[1]))
            return lambda pages: _slices(data, offsets[history.start[pages]], offsets[history.stop[pages]])
        values, start = (
            ({"user": self.user, "timestamp": self.time}[name], np.arange(len(self.page_id) + 1))
            if feature.group == "context"
            else (self.candidates[name], self.start)
        )
        if feature.kind == "float":
            data, offsets = np.ascontiguousarray(values, "<f4").tobytes(), 4 * start
        else:
            data, offsets = pack_int64(values)
            offsets = offsets[start]
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        packed = pa.Array.from_buffers(pa.binary(), len(start) - 1, buffers)
        return lambda pages: packed.take(pa.array(pages))

    def pretraining_view(
        self, rules: PretrainingRules, reach: int, eligible: np.ndarray, user_ids: pa.Array
    ) -> "Bucket":
        """The pages that an encoder learns on: few candidates, few clicks, all of them with something to see.

        `page`: of each pretrain page the eligible candidates, the clicked ones first, the order kept otherwise, and
        the latest eligible clicks. Pages without a click before them or a clicked candidate are left out.

        `causal`: for each moment at which a user clicked, the clicks of that moment as clicked candidates (on several
        pages if there are many) and the latest strictly earlier ones as the history, so that each click that others
        precede is a target exactly once.

        Args:
            rules: what to keep.
            reach: how far back histories reach, in milliseconds.
            eligible: bool by item row.
            user_ids: by user row.

        Returns:
            Pages in split 0, without statistics; `counters` says what was left out.

        Reference: COURIER, section 4.2.1 and appendix C.
        """
        clicks = self.clicks.where(eligible[self.clicks.item])
        counters: Counter[str] = Counter()
        if rules.kind == "page":
            view = self._trimmed(rules, eligible, counters)
        else:
            view = self._next_clicks(clicks.where(clicks.time < rules.end), rules.candidates, user_ids)
        start, stop, _ = clicks.before(view.user, view.time, reach, rules.clicks)
        positives = np.concatenate([[0], np.cumsum(view.candidates["clicked"])])[view.start]
        without_history = stop == start
        without_positive = ~without_history & (np.diff(positives) == 0)
        counters["pretraining.pages"] = len(view.page_id)
        counters["pretraining.without_history"] = int(without_history.sum())
        counters["pretraining.without_positive"] = int(without_positive.sum())
        history = History(clicks.item, clicks.time, start, stop)
        view = dataclasses.replace(view, histories=view.histories | {"click": history}, counters=counters)
        return view._of_pages(np.flatnonzero(~(without_history | without_positive)))

    def _trimmed(self, rules: PretrainingRules, eligible: np.ndarray, counters: Counter[str]) -> "Bucket":
        pages = self._of_pages(np.flatnonzero(self.split == _PRETRAIN))
        seen = eligible[pages.candidates["item"]]
        counters["pretraining.ineligible_candidates"] = int((~seen).sum())
        kept = seen & pages._sampled(rules.negatives)
        counters["pretraining.negatives_sampled_out"] = int((seen & ~kept).sum())
        page = np.repeat(np.arange(len(pages.page_id)), np.diff(pages.start))
        order = np.flatnonzero(kept)
        order = order[np.lexsort((-pages.candidates["clicked"][order], page[order]))]
        start = np.searchsorted(page[order], np.arange(len(pages.page_id) + 1))
        place = np.arange(len(order)) - start[page[order]]
        counters["pretraining.candidates_cut"] = int((place >= rules.candidates).sum())
        order = order[place < rules.candidates]
        none = History.empty(len(pages.page_id))
        return dataclasses.replace(
            pages,
            start=np.searchsorted(page[order], np.arange(len(pages.page_id) + 1)),
            candidates={name: values[order] for name, values in pages.candidates.items()},
            histories={name: none for name in pages.histories},
        )

    def _next_clicks(self, targets: Steps, candidates: int, user_ids: pa.Array) -> "Bucket":
        moment = np.flatnonzero(_starts_group(targets.owner, targets.time))
        place = np.arange(len(targets.item))
        place -= np.repeat(moment, np.diff(moment, append=len(targets.item)))
        first = np.flatnonzero(place % candidates == 0)  # a moment of many clicks takes several pages
        user, time = targets.owner[first], targets.time[first]
        names = zip(user_ids.take(pa.array(user)).to_pylist(), time.tolist(), place[first].tolist(), strict=True)
        page_id = [f"{name}@{moment}+{start}" if start else f"{name}@{moment}" for name, moment, start in names]
        start = np.append(first, len(targets.item))
        zeros = np.zeros(len(targets.item), np.int64)
        return dataclasses.replace(
            self,
            page_id=page_id,
            page_hash=_hashes(page_id),
            user=user,
            time=time,
            query=[""] * len(page_id),
            split=np.full(len(page_id), _PRETRAIN),
            start=start,
            candidates={
                "item": targets.item,
                "position": place % candidates,
                "clicked": zeros + 1,
                "converted": zeros,
                "dwell": zeros.astype(np.float32),
            },
            histories={name: History.empty(len(page_id)) for name in self.histories},
        )

    def _sampled(self, rate: float) -> np.ndarray:
        """The clicked candidates and, chosen by a hash of page and place, a share `rate` of the others."""
        if rate == 1:
            return np.ones(self.start[-1], bool)
        candidates = np.diff(self.start)
        place = np.arange(self.start[-1]) - np.repeat(self.start[:-1], candidates)
        mixed = _mixed(np.repeat(self.page_hash, candidates) + place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        return (self.candidates["clicked"] == 1) | ((mixed >> np.uint64(11)) * 2.0**-53 < rate)

    def _of_pages(self, pages: np.ndarray) -> "Bucket":
        """Some of the pages."""
        length = np.diff(self.start)[pages]
        start = np.concatenate([[0], np.cumsum(length)])
        rows = np.arange(start[-1]) + np.repeat(self.start[:-1][pages] - start[:-1], length)
        return dataclasses.replace(
            self,
            page_id=[self.page_id[page] for page in pages.tolist()],
            query=[self.query[page] for page in pages.tolist()],
            **{name: getattr(self, name)[pages] for name in ("page_hash", "user", "time", "split")},
            start=start,
            candidates={name: values[rows] for name, values in self.candidates.items()},
            histories={
                name: History(h.item, h.time, h.start[pages], h.stop[pages]) for name, h in self.histories.items()
            },
        )

    def _of_candidates(self, kept: np.ndarray) -> "Bucket":
        """Some of the candidates; pages that keep none are left out."""
        start = np.concatenate([[0], np.cumsum(kept)])[self.start]
        candidates = {name: values[kept] for name, values in self.candidates.items()}
        smaller = dataclasses.replace(self, start=start, candidates=candidates)
        return smaller._of_pages(np.flatnonzero(np.diff(start)))


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
        shared_pages: IDs of pages that have rows of several users; they are rejected.
    """
    counters: Counter[str] = Counter()
    name_rows = functools.partial(_rejected, item_ids=item_ids, user_ids=user_ids)
    impressions, rejected = _reject_pages(impressions, shared_pages, rules.split_times is None, name_rows)
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
    order = _order(candidates["page"], candidates["position"], candidates["item"])
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
    histories["cart"], cut["cart"] = _carts(by_kind["cart"], by_kind["cart_remove"], user, time, rules.limits["cart"])
    for name, history in histories.items():
        counters[f"history.{name}.steps"] = int((history.stop - history.start).sum())
        counters[f"history.{name}.cut_pages"] = int(cut[name].sum())

    bucket = Bucket(
        page_id=page_ids,
        page_hash=_hashes(page_ids),
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
    )
    place = np.arange(len(page)) - np.repeat(start[:-1], np.diff(start))
    counters["pages.candidates_cut"] = int((place >= rules.max_candidates).sum())
    if counters["pages.candidates_cut"]:
        bucket = bucket._of_candidates(place < rules.max_candidates)
        page = np.repeat(np.arange(len(page_ids)), np.diff(bucket.start))
    if rules.train_negatives < 1:
        kept = bucket._sampled(rules.train_negatives) | (split[page] != _TRAIN)
        counters["train.negatives_sampled_out"] = int((~kept).sum())
        bucket = bucket._of_candidates(kept)
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
    impressions: pa.Table, shared_pages: Sequence[str], has_split: bool, name_rows: functools.partial[list[RejectedRow]]
) -> tuple[pa.Table, list[RejectedRow]]:
    """Takes out the rows of pages of several users or splits."""
    page = impressions["page_id"]
    bad = {}
    if len(shared_pages):
        bad["page of several users"] = pc.is_in(page, pa.array(shared_pages, pa.string()))
    if has_split:
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
    order = _order(rows["page"], rows["item"])
    rows = {name: values[order] for name, values in rows.items()}
    first = _starts_group(rows["page"], rows["item"])
    kept = np.append(first[1:], True) & first  # rows that are alone
    again = np.flatnonzero(~kept)
    few = {name: values[again] for name, values in rows.items()}
    preference = (few["query"], few["time"], few["position"], -few["dwell"], -few["converted"], -few["clicked"])
    order = np.lexsort((*preference, few["item"], few["page"]))
    few = {name: values[order] for name, values in few.items()}
    best = _starts_group(few["page"], few["item"])
    differs = _starts_group(*few.values())
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
    known = np.isin(clicked, pairs)
    clicked_pair = np.searchsorted(pairs, clicked[known])
    latest = np.searchsorted(shown, clicked_pair * len(moments) + np.searchsorted(moments, clicks.time[known]), "right")
    preceded = latest > np.searchsorted(pair_of, clicked_pair)
    found = order[latest[preceded] - 1]
    time = clicks.time[known][preceded]
    in_time = time - candidates["shown"][found] <= window
    counters["clicks.attributed"] = int(in_time.sum())
    counters["clicks.late"] = int((~in_time).sum())
    attributed = np.zeros(len(pair), bool)
    attributed[found[in_time]] = True
    click_time[attributed] = np.iinfo(np.int64).max
    np.minimum.at(click_time, found[in_time], time[in_time])
    early = known.copy()
    early[known] = ~preceded
    return attributed, {"click without impression": ~known, "click before its impression": early}


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


def _carts(added: Steps, removed: Steps, user: np.ndarray, time: np.ndarray, limit: int) -> tuple[History, np.ndarray]:
    """What is in the cart at each page, newest first, and where the limit cut it.

    One walk through each user's moments, oldest first, with the cart as a dict from item to row of `added`: a dict
    keeps the order of insertion, so its end is what was put in last.
    """
    start, stop = np.zeros((2, len(user)), np.int64)
    cut = np.zeros(len(user), bool)
    pages = np.flatnonzero(np.isin(user, added.owner))
    # At one moment a page comes first (strictly before), then what is added, then what is removed.
    kind = np.repeat([0, 1, 2], [len(pages), len(added.owner), len(removed.owner)])
    row = np.concatenate([pages, np.arange(len(added.owner)), np.arange(len(removed.owner))])
    item = np.concatenate([np.zeros(len(pages), np.int64), added.item, removed.item])
    who = np.concatenate([user[pages], added.owner, removed.owner])
    when = np.concatenate([time[pages], added.time, removed.time])
    order = _order(who, when, kind, item.max(initial=0) - item)
    steps: list[int] = []
    cart: dict[int, int] = {}
    owner = first = -1
    for u, k, r, i in zip(*(column[order].tolist() for column in (who, kind, row, item)), strict=True):
        if u != owner:
            cart, owner, first = {}, u, -1
        if k:
            cart.pop(i, None)
            if k == 1:
                cart[i] = r
            first = -1
        elif cart:
            if first < 0:  # pages between two changes share their steps
                first = len(steps)
                steps += itertools.islice(reversed(cart.values()), limit)
            start[r], stop[r], cut[r] = first, len(steps), len(cart) > limit
    rows = np.array(steps, np.int64)
    return History(added.item[rows], added.time[rows], start, stop), cut


def _order(*columns: np.ndarray) -> np.ndarray:
    """Sorts rows by columns of non-negative integers, the first one first; equal rows keep their order."""
    key = np.zeros(len(columns[0]), np.int64)
    bits = [int(column.max(initial=0)).bit_length() for column in columns]
    if sum(bits) > 63:
        return np.lexsort(columns[::-1])
    for column, width in zip(columns, bits, strict=True):  # one sort by all of them is faster than one by each
        key = (key << width) | column
    return np.argsort(key, kind="stable")


def _starts_group(*columns: np.ndarray) -> np.ndarray:
    """Where a row of sorted columns differs from the one before."""
    starts = np.ones(len(columns[0]), bool)
    starts[1:] = False
    for column in columns:
        starts[1:] |= column[1:] != column[:-1]
    return starts


def _hashes(texts: Sequence[str]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Scrambles uint64 values (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _slices(data: bytes, start: np.ndarray, stop: np.ndarray) -> pa.BinaryArray:
    """Slices that may overlap."""
    slices = [data[first:last] for first, last in zip(start.tolist(), stop.tolist(), strict=True)]
    return pa.array(slices, pa.binary())


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
