"""The peer of `beam_pipelines.build` in Polars: the same page records from the same logs, on one machine.

    .venv-bench/bin/python -m benchmarks.data_job.peers.polars_pages --logs DIR --output DIR --split-by-time A,B

What one writes who needs the pages of clean Parquet logs once: everything in memory, one shard per split, records
encoded with the project's own encoder, page by page (`--encode columns` takes even the job's own encoder of whole
columns). It knows the default rules of the job and none of its options, and it neither
checks rows nor writes dead letters, pictures, counters, checksums or a manifest.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from tqdm import tqdm

from beam_pipelines.format.records import (
    FEATURES,
    HISTORIES,
    STATISTICS_DAYS,
    WIRE_ORDER,
    encode_packed_page,
    encode_packed_pages,
    pack_int64,
)
from beam_pipelines.format.tfrecord import write_records

SPLITS = ("pretrain", "train", "test")
DAY = 86_400_000
REACH = {"click": 183 * DAY, "pay": 730 * DAY}
PRIOR_IMPRESSIONS = 20
VIEW_NEGATIVES = 0.2
VIEW_CANDIDATES = VIEW_CLICKS = 5
PAGES_PER_CHUNK = 50_000


Encode = Callable[[list[pa.BinaryArray]], list[bytes]]


class History(NamedTuple):
    """Item and time of steps; the history of page `i` is `start[i]:stop[i]`."""

    item: np.ndarray
    time: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def build(logs: Path, output: Path, split_times: Sequence[int], encode: Encode) -> None:
    """Writes `SPLIT.tfrecord`, `pretraining.tfrecord`, `items.parquet` and `users.parquet`."""
    impressions = pl.scan_parquet(logs / "impressions.parquet").with_columns(
        pl.col("query").fill_null(""), pl.col("dwell_seconds").fill_null(0), pl.col("converted").fill_null(False)
    )
    events = pl.scan_parquet(logs / "events.parquet")
    catalog = pl.scan_parquet(logs / "items.parquet").fill_null("").unique("item_id")
    items = _rows("item", impressions, events, catalog).join(catalog, on="item_id", how="left", maintain_order="left")
    items, users = (
        items.fill_null("").collect(engine="streaming"),
        _rows("user", impressions, events).collect(engine="streaming"),
    )
    output.mkdir(parents=True)
    items.drop("item", "image").write_parquet(output / "items.parquet")
    users.drop("user").write_parquet(output / "users.parquet")

    pages = _pages(impressions, users, split_times)
    candidates = _candidates(impressions, items, pages)
    asked = candidates.filter(pl.col("query") != "").unique("page", keep="first", maintain_order=True)
    pages = pages.join(asked.select("page", "query"), on="page", how="left", maintain_order="left")
    candidates = candidates.drop("query")
    steps = (
        events.join(users.lazy(), on="user_id")
        .join(items.lazy(), on="item_id")
        .select("user", "item", "event", time="timestamp")
        .unique()
        .collect(engine="streaming")
    )
    events_of = {kind: steps.filter(event=kind).drop("event") for kind in ("click", "pay", "cart", "cart_remove")}
    labels = candidates.filter("clicked").join(pages, on="page").select("user", "item", "time")
    clicks = pl.concat([labels, events_of["click"]]).unique()
    candidates = _with_statistics(candidates, pages, events_of["pay"])

    histories = {
        "click": _before(pages, clicks, REACH["click"], HISTORIES["click"]),
        "pay": _before(pages, events_of["pay"], REACH["pay"], HISTORIES["pay"]),
        "cart": _carts(pages, events_of["cart"], events_of["cart_remove"], HISTORIES["cart"]),
    }
    for number, split in enumerate(SPLITS):
        _write(output / f"{split}.tfrecord", pages.filter(split=number), candidates, histories, encode)
    eligible = items.select("item", eligible=pl.col("image") != "")
    view, candidates = _pretraining_view(pages.filter(split=0), candidates, eligible)
    clicks = clicks.join(eligible.filter("eligible"), on="item", how="semi")
    none = History(*[np.zeros(0, np.int64)] * 2, *[np.zeros(len(pages), np.int64)] * 2)
    histories = {"click": _before(pages, clicks, REACH["click"], VIEW_CLICKS), "pay": none, "cart": none}
    with_history = pl.Series(histories["click"].stop > histories["click"].start)
    view = view.filter(with_history.gather(view["page"]))
    _write(output / "pretraining.tfrecord", view, candidates, histories, encode)


def _rows(name: str, *sources: pl.LazyFrame) -> pl.LazyFrame:
    """All IDs in order, each with its row number `name`."""
    key = f"{name}_id"
    return pl.concat([source.select(key) for source in sources]).unique().sort(key).with_row_index(name)


def _pages(impressions: pl.LazyFrame, users: pl.DataFrame, split_times: Sequence[int]) -> pl.DataFrame:
    """Pages in the order in which they are written: by split, then by a hash of their ID."""
    pages = impressions.group_by("page_id").agg(pl.col("user_id").first(), time=pl.col("timestamp").min())
    pages = pages.join(users.lazy().select("user_id", "user"), on="user_id").drop("user_id").collect(engine="streaming")
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in pages["page_id"])
    return (
        pages.with_columns(
            hash=pl.Series(np.frombuffer(digests, ">u8").astype(np.uint64)),
            split=pl.sum_horizontal(pl.col("time") >= moment for moment in split_times),
        )
        .sort("split", "hash", "page_id")
        .with_row_index("page")
    )


def _candidates(impressions: pl.LazyFrame, items: pl.DataFrame, pages: pl.DataFrame) -> pl.DataFrame:
    """One row per page and item, by page, position and item."""
    rows = (
        impressions.join(items.lazy().select("item_id", "item"), on="item_id")
        .join(pages.lazy().select("page_id", "page"), on="page_id")
        .select("page", "item", "position", "clicked", "converted", "timestamp", "query", dwell="dwell_seconds")
        .sort("page", "item")
        .collect()
    )
    again = rows.select(pl.all_horizontal(pl.col("page", "item") == pl.col("page", "item").shift())).to_series()
    again = again.fill_null(False)  # the first row
    repeated = again | again.shift(-1, fill_value=False)
    preference = {
        "clicked": True,
        "converted": True,
        "dwell": True,
        "position": False,
        "timestamp": False,
        "query": False,
    }
    kept = (
        rows.filter(repeated)
        .sort(list(preference), descending=list(preference.values()))
        .unique(["page", "item"], keep="first", maintain_order=True)
    )
    return pl.concat([rows.filter(~repeated), kept]).drop("timestamp").sort("page", "position", "item")


def _with_statistics(candidates: pl.DataFrame, pages: pl.DataFrame, pays: pl.DataFrame) -> pl.DataFrame:
    """Adds what was known of each item on the page's day."""
    day = pl.from_epoch(pl.col("time") // DAY, "d").alias("day")
    candidates = candidates.with_columns(pages.select(day)["day"].gather(candidates["page"]))
    shown = candidates.group_by("item", "day").agg(impressions=pl.len(), clicks=pl.col("clicked").sum())
    paid = pays.group_by("item", day).agg(pays=pl.len())
    daily = (
        shown.join(paid, on=["item", "day"], how="full", coalesce=True)
        .with_columns(pl.col("impressions", "clicks", "pays").fill_null(0).cast(pl.Int64))
        .sort("item", "day")
    )
    whole = daily.group_by("day").agg(pl.col("impressions", "clicks").sum()).sort("day")
    windows = [daily.select("item", "day")]
    for days in STATISTICS_DAYS:
        sums = daily.rolling("day", period=f"{days}d", closed="left", group_by="item").agg(
            pl.col("impressions", "clicks", "pays").sum()
        )
        average = whole.rolling("day", period=f"{days}d", closed="left").agg(
            average=pl.col("clicks").sum() / pl.max_horizontal(pl.col("impressions").sum(), 1)
        )
        ctr = (pl.col("clicks") + PRIOR_IMPRESSIONS * pl.col("average")) / (pl.col("impressions") + PRIOR_IMPRESSIONS)
        sums = sums.join(average, on="day", how="left", maintain_order="left").with_columns(ctr=ctr.cast(pl.Float32))
        windows.append(sums.select(pl.col("impressions", "clicks", "pays", "ctr").name.suffix(f"_{days}d")))
    statistics = pl.concat(windows, how="horizontal")
    return candidates.join(statistics, on=["item", "day"], how="left", maintain_order="left").drop("day")


def _before(pages: pl.DataFrame, steps: pl.DataFrame, reach: int, limit: int) -> History:
    """The newest steps of each page's user strictly before it."""
    steps = steps.sort("user", "time", "item", descending=[False, True, False])
    user, time = steps["user"].to_numpy().astype(np.int64), steps["time"].to_numpy()
    latest = max(pages["time"].max(), steps["time"].max() or 0)
    span = latest - min(pages["time"].min(), steps["time"].min() or latest) + 2
    key = user * span + latest - time  # ascending: by user, then newest first
    first = pages["user"].to_numpy().astype(np.int64) * span
    age = latest - pages["time"].to_numpy()
    start = np.searchsorted(key, first + age, side="right")
    stop = np.searchsorted(key, first + np.minimum(age + reach, span - 1), side="right")
    return History(steps["item"].to_numpy(), time, start, np.minimum(stop, start + limit))


def _carts(pages: pl.DataFrame, added: pl.DataFrame, removed: pl.DataFrame, limit: int) -> History:
    """What is in the cart at each page: of each item the latest addition, unless a removal followed."""
    moves = pl.concat([added.with_columns(removal=False), removed.with_columns(removal=True)])
    stays = (
        moves.sort("user", "item", "time", "removal")
        .with_columns(until=pl.col("time").shift(-1).over("user", "item"))
        .filter(~pl.col("removal"))
        .sort("user", "time", "item", descending=[False, True, False])
    )
    rows = (
        pages.lazy()
        .select("page", "user", moment="time")
        .join(stays.lazy(), on="user", maintain_order="left_right")
        .filter(pl.col("time") < pl.col("moment"), pl.col("moment") <= pl.col("until").fill_null(pl.col("moment")))
        .select("page", "item", "time")
        .collect()
    )
    page = rows["page"].to_numpy()
    start, stop = (np.searchsorted(page, np.arange(len(pages)), side) for side in ("left", "right"))
    return History(rows["item"].to_numpy(), rows["time"].to_numpy(), start, np.minimum(stop, start + limit))


def _pretraining_view(
    pages: pl.DataFrame, candidates: pl.DataFrame, eligible: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Few candidates of the pretrain pages, the clicked ones first; and the pages that have a clicked one."""
    first, count = _slices(candidates, pages)
    candidates = candidates[: int(first[-1] + count[-1])] if len(pages) else candidates.clear()
    place = (np.arange(len(candidates)) - np.repeat(first, count)).astype(np.uint64)
    mixed = np.repeat(pages["hash"].to_numpy(), count) + place * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = mixed ^ (mixed >> np.uint64(shift))
        mixed = mixed * np.uint64(factor)
    sampled = (mixed >> np.uint64(11)) * 2.0**-53 < VIEW_NEGATIVES
    kept = (
        candidates.filter(pl.col("clicked") | pl.Series(sampled), eligible["eligible"].gather(candidates["item"]))
        .sort("page", pl.col("clicked"), descending=[False, True], maintain_order=True)
        .filter(pl.int_range(pl.len()).over("page") < VIEW_CANDIDATES)
    )
    return pages.join(kept.filter("clicked"), on="page", how="semi", maintain_order="left"), kept


def _slices(candidates: pl.DataFrame, pages: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """First row and number of the candidates of each page."""
    page = candidates["page"].to_numpy()
    first, last = (np.searchsorted(page, pages["page"].to_numpy(), side) for side in ("left", "right"))
    return first, last - first


def page_by_page(columns: list[pa.BinaryArray]) -> list[bytes]:
    """Encodes pages in a loop, as one would."""
    return [encode_packed_page(page) for page in zip(*(column.to_pylist() for column in columns), strict=True)]


def column_by_column(columns: list[pa.BinaryArray]) -> list[bytes]:
    """Encodes pages as the job itself does."""
    return encode_packed_pages(columns).to_pylist()


def _write(
    path: Path, pages: pl.DataFrame, candidates: pl.DataFrame, histories: dict[str, History], encode: Encode
) -> None:
    candidates = candidates.join(pages, on="page", how="semi", maintain_order="left")
    with open(path, "wb") as file, tqdm(total=len(pages), desc=path.name, unit=" pages") as bar:
        for chunk in pages.iter_slices(PAGES_PER_CHUNK):
            payloads = _payloads(chunk, candidates, histories)
            columns = [payloads[name] for name in WIRE_ORDER]
            write_records(file, encode(columns))
            bar.update(len(chunk))


def _payloads(
    pages: pl.DataFrame, candidates: pl.DataFrame, histories: dict[str, History]
) -> dict[str, pa.BinaryArray]:
    """The values of each feature on each page, packed."""
    page = pages["page"].to_numpy()
    first, count = _slices(candidates, pages)
    candidates = candidates[int(first[0]) : int(first[-1] + count[-1])]
    payloads = {}
    for name, kind, group, _ in FEATURES:
        if kind == "bytes":
            payloads[name] = pa.array(pages[name].fill_null(""), pa.binary())
        elif group == "context":
            values = pages["time" if name == "timestamp" else name]
            payloads[name] = _packed(kind, values.to_numpy(), np.arange(len(pages) + 1))
        elif group == "candidates":
            payloads[name] = _packed(kind, candidates[name].to_numpy(), np.append(0, np.cumsum(count)))
        else:
            start, stop = histories[group].start[page], histories[group].stop[page]
            first_step, last_step = int(start.min()), int(stop.max())
            values = histories[group].item if name.endswith("item") else histories[group].time
            data, offsets = pack_int64(values[first_step:last_step])
            pairs = zip(offsets[start - first_step].tolist(), offsets[stop - first_step].tolist(), strict=True)
            payloads[name] = pa.array([data[i:j] for i, j in pairs], pa.binary())
    return payloads


def _packed(kind: str, values: np.ndarray, start: np.ndarray) -> pa.BinaryArray:
    """Lists that follow each other; list `i` is `values[start[i]:start[i + 1]]`."""
    if kind == "float":
        data, offsets = values.astype("<f4").tobytes(), 4 * start
    else:
        data, offsets = pack_int64(values)
        offsets = offsets[start]
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(start) - 1, buffers)


def main() -> None:
    """Builds from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--split-by-time", required=True, metavar="PRETRAIN_END,TRAIN_END", help="two ISO dates")
    parser.add_argument(
        "--encode", choices=("pages", "columns"), default="pages", help="record by record, or all at once"
    )
    args = parser.parse_args()
    moments = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in args.split_by_time.split(",")]
    encode = column_by_column if args.encode == "columns" else page_by_page
    build(args.logs, args.output, [int(moment.timestamp() * 1000) for moment in moments], encode)


if __name__ == "__main__":
    main()
