"""Simulated logs of any size for benchmarks, in the input contract of `beam_pipelines`.

    python -m benchmarks.data_job.impression_logs --output DIR [--impressions 2000000] [--seed 0]

What is simulated: 17 days of pages of about ten candidates; users whose activity is lognormal (the most active one has
about 0.1 % of the pages) and items whose popularity falls with their rank, both growing with the size; clicks on about
8 % of the impressions, fewer further down the page; queries on half of the pages, from a few thousand; and events
(clicks elsewhere, carts, removals and payments) of a tenth of the impressions' number. As in real logs, rows are in
order of arrival, which is only nearly that of time, and a few were sent twice. Nine in ten items name one of 16 tiny
pictures, so that pre-training sees them and pictures cost next to nothing. Nothing in these logs means anything beyond
their size and skew.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

DAYS = 17
SPLIT_BY_TIME = ("2026-03-11", "2026-03-15")
"""Ends of the pre-training and training days: 10 and 4 days; 3 are left for testing."""

_FIRST_MOMENT = 1_772_323_200_000  # 2026-03-01, epoch milliseconds
_DAY = 86_400_000
_MEAN_CANDIDATES = 10
_PAGES_PER_CHUNK = 100_000  # about a million rows: one row group
_CATEGORIES = 40
_QUERIES = 4000
_PICTURES = 16
_LARGEST_SHARE = 0.001  # of all pages, of one user
_MEAN_DELAY = 30_000.0  # milliseconds until a row arrives
_SENT_TWICE = 0.001

IMPRESSIONS = pa.schema(
    [
        ("page_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),
        ("position", pa.int32()),
        ("clicked", pa.bool_()),
        ("converted", pa.bool_()),
        ("dwell_seconds", pa.float32()),
        ("query", pa.string()),
    ]
)


def write_logs(directory: Path, impressions: int, seed: int = 0) -> None:
    """Writes `impressions.parquet`, `events.parquet`, `items.parquet` and `images/`.

    Args:
        directory: where to; it is created.
        impressions: how many, about; a fortieth of it is the number of items, a hundredth that of users.
        seed: equal seeds give equal logs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    users = _ids("u", max(100, impressions // 100))
    items = _ids("i", max(500, impressions // 40))
    activity = rng.lognormal(sigma=1.3, size=len(users))
    activity = np.minimum(activity / activity.sum(), _LARGEST_SHARE if len(users) > 2 / _LARGEST_SHARE else 1)
    popularity = rng.permutation(1 / (20 + np.arange(len(items))))
    draws = _Draws(rng, np.cumsum(activity / activity.sum()), np.cumsum(popularity / popularity.sum()))

    category = pa.array([f"category {i}" for i in range(_CATEGORIES)])
    picture = np.where(rng.random(len(items)) < 0.9, rng.integers(_PICTURES, size=len(items)), -1)
    pq.write_table(
        pa.table(
            {
                "item_id": items,
                "category": category.take(pa.array(rng.integers(_CATEGORIES, size=len(items)))),
                "title": pa.array([f"item {i}" for i in range(len(items))]),
                "image": _write_images(directory / "images").take(pa.array(picture, mask=picture < 0)),
            }
        ),
        directory / "items.parquet",
    )
    _write_events(directory / "events.parquet", impressions // 10, draws, users, items)
    pages = impressions // _MEAN_CANDIDATES
    with (
        pq.ParquetWriter(directory / "impressions.parquet", IMPRESSIONS) as writer,
        tqdm(total=pages, desc="simulating logs", unit=" pages", unit_scale=True) as bar,
    ):
        for first, moments in _moments(rng, pages):
            table = _impressions(first, moments, draws, users, items)
            writer.write_table(table, row_group_size=table.num_rows)
            bar.update(len(moments))


def _write_images(directory: Path) -> pa.Array:
    """Writes plain squares and returns their names."""
    directory.mkdir(exist_ok=True)
    names = [f"{i}.png" for i in range(_PICTURES)]
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (16 * i, 255 - 16 * i, 128)).save(directory / name)
    return pa.array(names)


class _Draws:
    """Draws users and items by their weight."""

    def __init__(self, rng: np.random.Generator, users: np.ndarray, items: np.ndarray) -> None:
        self.rng = rng
        self._users = users
        self._items = items

    def users(self, size: int) -> np.ndarray:
        return np.minimum(np.searchsorted(self._users, self.rng.random(size)), len(self._users) - 1)

    def items(self, size: int) -> np.ndarray:
        return np.minimum(np.searchsorted(self._items, self.rng.random(size)), len(self._items) - 1)


def _moments(rng: np.random.Generator, pages: int) -> Iterator[tuple[int, np.ndarray]]:
    """Chunks of pages, the oldest first: the number of the first one and their times, with few of them at night."""
    for first in range(0, pages, _PAGES_PER_CHUNK):
        count = min(_PAGES_PER_CHUNK, pages - first)
        day = (first + np.sort(rng.random(count)) * count) / pages * DAYS
        day -= np.sin(2 * np.pi * day) / (2 * np.pi) * 0.8
        yield first, _FIRST_MOMENT + (day * _DAY).astype(np.int64)


def _impressions(first: int, moments: np.ndarray, draws: _Draws, users: pa.Array, items: pa.Array) -> pa.Table:
    rng = draws.rng
    candidates = rng.integers(4, 2 * _MEAN_CANDIDATES - 3, size=len(moments))
    page = np.repeat(np.arange(len(moments)), candidates)
    item = draws.items(len(page))
    distinct = rng.permutation(np.unique(page * len(items) + item))  # a page shows an item once
    distinct = distinct[np.argsort(distinct // len(items), kind="stable")]
    page, item = np.divmod(distinct, len(items))
    position = np.arange(len(page)) - np.searchsorted(page, np.arange(len(moments)))[page]
    clicked = rng.random(len(page)) < 0.13 / (1 + 0.15 * position)
    time = moments[page] + position * rng.integers(100, 400, size=len(moments))[page]
    query = np.where(rng.random(len(moments)) < 0.5, (_QUERIES * rng.random(len(moments)) ** 3).astype(np.int64), -1)
    rows = {
        "page_id": _hexadecimal(first + np.arange(len(moments))).take(pa.array(page)),
        "user_id": users.take(pa.array(draws.users(len(moments))[page])),
        "item_id": items.take(pa.array(item)),
        "timestamp": pa.array(time),
        "position": pa.array(position, pa.int32()),
        "clicked": pa.array(clicked),
        "converted": pa.array(clicked & (rng.random(len(page)) < 0.04)),
        "dwell_seconds": pa.array(np.where(clicked, rng.lognormal(2.5, 1, len(page)), 0).astype(np.float32)),
        "query": pa.array([f"query {i}" for i in range(_QUERIES)]).take(pa.array(query[page], mask=query[page] < 0)),
    }
    return _arrived(pa.table(rows, schema=IMPRESSIONS), time, rng)


def _write_events(path: Path, count: int, draws: _Draws, users: pa.Array, items: pa.Array) -> None:
    """Half of the events are carts, of which a fifth are removed and a fifth paid for; the others are clicks."""
    rng = draws.rng
    carts = count // 2
    clicks = count - carts - 2 * (carts // 5)
    user, item = draws.users(carts + clicks), draws.items(carts + clicks)
    time = _FIRST_MOMENT + (rng.random(carts + clicks) * DAYS * _DAY).astype(np.int64)
    ended = rng.permutation(carts)[: 2 * (carts // 5)]
    event = np.repeat([2, 0], [carts, clicks])
    user, item = np.concatenate([user, user[ended]]), np.concatenate([item, item[ended]])
    time = np.concatenate([time, time[ended] + rng.exponential(_DAY / 4, len(ended)).astype(np.int64)])
    event = np.concatenate([event, np.repeat([1, 3], carts // 5)])
    rows = {
        "user_id": users.take(pa.array(user)),
        "item_id": items.take(pa.array(item)),
        "timestamp": pa.array(time),
        "event": pa.array(["click", "pay", "cart", "cart_remove"]).take(pa.array(event)),
    }
    pq.write_table(_arrived(pa.table(rows), time, rng), path)


def _arrived(rows: pa.Table, time: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """Rows in the order in which they arrive, some of them twice."""
    sent = np.concatenate([np.arange(len(time)), np.flatnonzero(rng.random(len(time)) < _SENT_TWICE)])
    arrival = time[sent] + rng.exponential(_MEAN_DELAY, len(sent))
    return rows.take(pa.array(sent[np.argsort(arrival)]))


def _ids(prefix: str, count: int) -> pa.Array:
    return pa.array([f"{prefix}{i:08d}" for i in range(count)])


def _hexadecimal(numbers: np.ndarray) -> pa.Array:
    """16 hexadecimal digits that look random, for distinct numbers distinct (the finaliser of SplitMix64)."""
    x = numbers.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    nibbles = np.stack([(x >> np.uint64(shift)) & np.uint64(15) for shift in range(60, -1, -4)], axis=1)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles.astype(np.intp)]
    offsets = np.arange(0, 16 * len(x) + 1, 16, dtype=np.int32)
    return pa.StringArray.from_buffers(len(x), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits)))


def main() -> None:
    """Writes logs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--impressions", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_logs(args.output, args.impressions, args.seed)


if __name__ == "__main__":
    main()
