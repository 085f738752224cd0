"""Builds the pages of one bucket of users, with their histories, from that bucket's rows.

The rules, which make the result independent of the order of the input:

- A page is the impressions of one `page_id`. Its time is that of its earliest row, its candidates are ordered by
  position, then item ID. Its query is the first non-empty one in that order.
- Rows of one page and item count once. If they differ, the clicked one wins, then the converted one, the one with the
  longer dwell time, the smaller position, the earlier one, the query that sorts first.
- A history holds one step per moment and item, strictly before the page, newest first; at equal times by item ID.
  `click`: the clicked impressions of all pages, at their page's time, and `click` events. `pay`: `pay` events.
  `cart`: what is in the cart at the page's moment, at the time it was last put there; of a `cart` and a `cart_remove`
  of one item at the same moment the removal is the later one.
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.manifest import SPLITS
from beam_pipelines.records import HISTORIES, encode_packed_page, pack_int64
from beam_pipelines.rows import RejectedRow


@dataclasses.dataclass(frozen=True)
class Steps:
    """Steps of one kind of all users: by user, then newest first, then by item.

    Attributes:
        user, time, item: `(steps,)`.
    """

    user: np.ndarray
    time: np.ndarray
    item: np.ndarray

    @classmethod
    def of(cls, user: np.ndarray, time: np.ndarray, item: np.ndarray) -> "Steps":
        """Sorts steps and keeps one per user, time and item."""
        order = np.lexsort((item, -time, user))
        user, time, item = user[order], time[order], item[order]
        first = _starts_group(user, time, item)
        return cls(user[first], time[first], item[first])

    def before(self, user: np.ndarray, time: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Finds the newest steps of each page strictly before it.

        Args:
            user, time: `(pages,)`.
            limit: steps kept per page.

        Returns:
            `start`, `stop`: `(pages,)`, the page's history is `start:stop`; and how many pages had more steps.
        """
        moments = np.unique(np.concatenate([self.time, time]))
        newest = len(moments)
        # One ascending key for "by user, then newest first"; the last key of a user is larger than any of its steps.
        steps = self.user * (newest + 1) + newest - 1 - np.searchsorted(moments, self.time)
        start = np.searchsorted(steps, user * (newest + 1) + newest - 1 - np.searchsorted(moments, time), side="right")
        stop = np.searchsorted(steps, user * (newest + 1) + newest)
        return start, np.minimum(stop, start + limit), int((stop - start > limit).sum())


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The pages of a bucket, by page ID, ready to be encoded.

    Attributes:
        page_id: `(pages,)`, strings.
        user, time: `(pages,)`.
        query: `(pages,)`, strings.
        split: `(pages,)`, index into `SPLITS`.
        start: `(pages + 1,)`: candidates of page `i` are `start[i]:start[i + 1]`.
        item, position, clicked, converted, dwell: `(candidates,)`.
        click, pay: steps, and the `start` and `stop` of each page's history in them.
        cart: `cart_add` events, and for each page the rows of them that are its history.
        rejected: rows that are on no page.
        counters: what was counted.
    """

    page_id: list[str]
    user: np.ndarray
    time: np.ndarray
    query: list[str]
    split: np.ndarray
    start: np.ndarray
    item: np.ndarray
    position: np.ndarray
    clicked: np.ndarray
    converted: np.ndarray
    dwell: np.ndarray
    click: tuple[Steps, np.ndarray, np.ndarray]
    pay: tuple[Steps, np.ndarray, np.ndarray]
    cart: tuple[Steps, list[np.ndarray]]
    rejected: list[RejectedRow]
    counters: Counter[str]

    def pages_of(self, split: int) -> list[int]:
        """The pages of a split in the order of their shard: by a hash of the page ID, so that users and times mix."""
        pages = np.flatnonzero(self.split == split).tolist()
        return sorted(pages, key=lambda page: (_hash(self.page_id[page]), self.page_id[page]))

    def encode(self, pages: Sequence[int]) -> Iterator[bytes]:
        """Serializes pages, one after the other."""
        slices = {"candidates": (self.start[:-1], self.start[1:]), "click": self.click[1:], "pay": self.pay[1:]}
        columns = {
            "item": ("candidates", self.item),
            "position": ("candidates", self.position),
            "clicked": ("candidates", self.clicked),
            "converted": ("candidates", self.converted),
            "click_item": ("click", self.click[0].item),
            "click_time": ("click", self.click[0].time),
            "pay_item": ("pay", self.pay[0].item),
            "pay_time": ("pay", self.pay[0].time),
        }
        # Every list is a slice of a column, so columns are packed once and pages are put together from slices of bytes.
        packed = []
        for name, (group, values) in columns.items():
            data, offsets = pack_int64(values)
            start, stop = slices[group]
            packed.append((name, data, offsets[start].tolist(), offsets[stop].tolist()))
        for name, values in (("user", self.user), ("timestamp", self.time)):
            data, offsets = pack_int64(values)
            packed.append((name, data, offsets[:-1].tolist(), offsets[1:].tolist()))
        dwell = np.ascontiguousarray(self.dwell, "<f4").tobytes()
        packed.append(("dwell", dwell, (4 * self.start[:-1]).tolist(), (4 * self.start[1:]).tolist()))
        in_cart, cart = self.cart
        for page in pages:
            payloads = {name: data[start[page] : stop[page]] for name, data, start, stop in packed}
            payloads["page_id"] = self.page_id[page].encode()
            payloads["query"] = self.query[page].encode()
            rows = cart[page]
            payloads["cart_item"] = pack_int64(in_cart.item[rows])[0] if len(rows) else b""
            payloads["cart_time"] = pack_int64(in_cart.time[rows])[0] if len(rows) else b""
            yield encode_packed_page(payloads)


def build_bucket(
    impressions: pa.Table,
    events: pa.Table,
    *,
    item_ids: pa.Array,
    user_ids: pa.Array,
    shared_pages: Sequence[str] = (),
    split_times: tuple[int, int] | None = None,
    limits: Mapping[str, int] = HISTORIES,
) -> Bucket:
    """Builds the pages of some users.

    Args:
        impressions, events: all normalised rows of these users (see `rows.normalise`), in any order.
        item_ids, user_ids: the IDs of the item and user tables, sorted; a row's place is the number used in pages.
        shared_pages: IDs of pages that have rows of several users; they are rejected.
        split_times: pages before the first moment are `pretrain`, before the second `train`, the rest `test`; `None`
            if impressions have a `split` column.
        limits: steps kept per history.
    """
    counters: Counter[str] = Counter()
    impressions, rejected = _reject(impressions, shared_pages, split_times is None)
    page_of, page_ids = _encode(impressions["page_id"])
    query_of, queries = _encode(impressions["query"])
    rows = {
        "page": page_of,
        "user": _rows_of(impressions["user_id"], user_ids),
        "item": _rows_of(impressions["item_id"], item_ids),
        "time": _numpy(impressions["timestamp"], np.int64),
        "position": _numpy(impressions["position"], np.int64),
        "clicked": _numpy(impressions["clicked"], np.int64),
        "converted": _numpy(impressions["converted"], np.int64),
        "dwell": _numpy(impressions["dwell_seconds"], np.float32),
        "query": query_of,
    }
    time = np.full(len(page_ids), np.iinfo(np.int64).max)
    np.minimum.at(time, rows["page"], rows["time"])

    candidates = _one_per_page_and_item(rows, counters)
    order = np.lexsort((candidates["item"], candidates["position"], candidates["page"]))
    candidates = {name: values[order] for name, values in candidates.items()}
    start = np.searchsorted(candidates["page"], np.arange(len(page_ids) + 1))
    user = candidates["user"][start[:-1]]
    query = _first_query(candidates["page"], candidates["query"], queries, len(page_ids))

    if split_times is None:
        split = np.zeros(len(page_ids), np.int64)
        split[page_of] = pc.index_in(_combined(impressions["split"]), pa.array(SPLITS)).to_numpy()
    else:
        split = np.searchsorted(np.array(split_times), time, side="right")

    clicked = candidates["clicked"] == 1
    by_kind = _events(events, item_ids, user_ids, counters)
    click = Steps.of(
        np.concatenate([candidates["user"][clicked], by_kind["click"].user]),
        np.concatenate([time[candidates["page"][clicked]], by_kind["click"].time]),
        np.concatenate([candidates["item"][clicked], by_kind["click"].item]),
    )
    histories = {}
    for name, steps in (("click", click), ("pay", by_kind["pay"])):
        first, last, longer = steps.before(user, time, limits[name])
        histories[name] = (steps, first, last)
        counters[f"history.{name}.steps"] = int((last - first).sum())
        counters[f"history.{name}.cut_pages"] = longer
    cart = _cart_at(by_kind["cart"], by_kind["cart_remove"], user, time, limits["cart"], counters)
    return Bucket(
        page_id=page_ids,
        user=user,
        time=time,
        query=query,
        split=split,
        start=start,
        **{name: candidates[name] for name in ("item", "position", "clicked", "converted", "dwell")},
        **histories,
        cart=(by_kind["cart"], cart),
        rejected=rejected,
        counters=counters,
    )


def _reject(impressions: pa.Table, shared_pages: Sequence[str], has_split: bool) -> tuple[pa.Table, list[RejectedRow]]:
    """Takes out the rows of pages of several users or splits."""
    page = impressions["page_id"]
    bad = {"page of several users": pc.is_in(page, pa.array(shared_pages, pa.string()))}
    if has_split:
        counted = impressions.select(["page_id", "split"]).group_by("page_id").aggregate([("split", "count_distinct")])
        mixed = counted.filter(pc.greater(counted["split_count_distinct"], 1))["page_id"]
        bad["page in several splits"] = pc.and_not(pc.is_in(page, _combined(mixed)), bad["page of several users"])
    rejected = [
        RejectedRow.of("impressions", reason, row)
        for reason, mask in bad.items()
        for row in impressions.filter(mask).to_pylist()
    ]
    if rejected:
        impressions = impressions.filter(pc.invert(functools.reduce(pc.or_, bad.values())))
    return impressions, rejected


def _one_per_page_and_item(rows: dict[str, np.ndarray], counters: Counter[str]) -> dict[str, np.ndarray]:
    preference = (rows["query"], rows["time"], rows["position"], -rows["dwell"], -rows["converted"], -rows["clicked"])
    order = np.lexsort((*preference, rows["item"], rows["page"]))
    rows = {name: values[order] for name, values in rows.items()}
    first = _starts_group(rows["page"], rows["item"])
    differs = _starts_group(*rows.values())
    counters["impressions.duplicate"] = int((~differs).sum())
    counters["impressions.conflicting"] = int((differs & ~first).sum())
    return {name: values[first] for name, values in rows.items()}


def _first_query(page: np.ndarray, query: np.ndarray, queries: list[str], pages: int) -> list[str]:
    found = np.full(pages, -1)
    asked = np.flatnonzero(np.array([text != "" for text in queries], bool)[query]) if queries else np.zeros(0, int)
    found[page[asked[::-1]]] = query[asked[::-1]]
    return [queries[i] if i >= 0 else "" for i in found.tolist()]


def _events(events: pa.Table, item_ids: pa.Array, user_ids: pa.Array, counters: Counter[str]) -> dict[str, Steps]:
    user = _rows_of(events["user_id"], user_ids)
    item = _rows_of(events["item_id"], item_ids)
    time = _numpy(events["timestamp"], np.int64)
    kinds = _combined(events["event"])
    by_kind = {}
    for kind in ("click", "pay", "cart", "cart_remove"):
        mask = _numpy(pc.equal(kinds, kind), bool)
        by_kind[kind] = Steps.of(user[mask], time[mask], item[mask])
        counters["events.duplicate"] += int(mask.sum()) - len(by_kind[kind].user)
    return by_kind


def _cart_at(
    added: Steps, removed: Steps, user: np.ndarray, time: np.ndarray, limit: int, counters: Counter[str]
) -> list[np.ndarray]:
    """The rows of `added` that are in the cart at each page, newest first.

    One walk through each user's moments, oldest first, with the cart as a dict from item to row of `added`: a dict
    keeps the order of insertion, so its end is what was put in last.
    """
    empty = np.zeros(0, np.int64)
    carts = [empty] * len(user)
    counters["history.cart.steps"] = counters["history.cart.cut_pages"] = 0
    pages = np.flatnonzero(np.isin(user, added.user))
    if not len(pages):
        return carts
    # At one moment a page comes first (strictly before), then what is added, then what is removed.
    kind = np.repeat([0, 1, 2], [len(pages), len(added.user), len(removed.user)])
    row = np.concatenate([pages, np.arange(len(added.user)), np.arange(len(removed.user))])
    item = np.concatenate([np.zeros(len(pages), np.int64), added.item, removed.item])
    who = np.concatenate([user[pages], added.user, removed.user])
    when = np.concatenate([time[pages], added.time, removed.time])
    order = np.lexsort((-item, kind, when, who))
    cart: dict[int, int] = {}
    owner = -1
    for u, k, r, i in zip(*(column[order].tolist() for column in (who, kind, row, item)), strict=True):
        if u != owner:
            cart, owner = {}, u
        if k == 1:
            cart.pop(i, None)
            cart[i] = r
        elif k == 2:
            cart.pop(i, None)
        else:
            newest = [r for r, _ in zip(reversed(cart.values()), range(limit), strict=False)]
            carts[r] = np.array(newest, np.int64)
            counters["history.cart.steps"] += len(newest)
            counters["history.cart.cut_pages"] += len(cart) > limit
    return carts


def _starts_group(*columns: np.ndarray) -> np.ndarray:
    """Where a row of sorted columns differs from the one before."""
    starts = np.ones(len(columns[0]), bool)
    starts[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return starts


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _combined(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _numpy(column: pa.ChunkedArray | pa.Array, dtype: type) -> np.ndarray:
    return _combined(column).to_numpy(zero_copy_only=False).astype(dtype)


def _rows_of(ids: pa.ChunkedArray, table_ids: pa.Array) -> np.ndarray:
    return _numpy(pc.index_in(ids, table_ids), np.int64)


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Strings as ranks among the sorted distinct ones."""
    encoded = _combined(column).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(pa.array(order)).to_pylist()
