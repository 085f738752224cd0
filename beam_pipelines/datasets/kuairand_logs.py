"""KuaiRand-Pure's feed log as a log directory: real impressions with real clicks, without pictures and titles.

What the source leaves open, and what is made of it:

- It has no page ID. A page is what one feed (`tab`) showed a user without a pause of more than an hour. Longer pages
  would have more candidates to compare, but their histories would end hours before most of them (per day and feed, the
  median page with both classes lasts six hours), and pages of two feeds would overlap, so that one page's clicks would
  be in the other's history before they happened. The usual half hour is too short for a log that keeps few of the
  videos that were shown: pauses between two kept ones are longer than pauses in the use of the app.
- A page's query is the feed it was shown in: what the user opened, known before anything is shown, and the strongest
  single fact about the rate of clicks.
- `is_click` is a click; on the auto-play feeds it means that the user stayed. A click that became a `long_view` is a
  conversion. `play_time_ms` is the dwell time. None of an impression's outcomes becomes a feature of its item.
- Of the earlier histories, `long_watch_seq` holds clicks: nearly every long view is one, while `watch_seq` is all that
  was shown. Only the time of the last watch is known. Earlier ones are spread evenly between the log's first day and
  that time, in their order, and all precede the user's first impression.
- `upload_dt` is a day in UTC+8; a video counts as published when that day begins there.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.datasets.log_writer import LogSummary, write_logs
from beam_pipelines.datasets.session_pages import SessionPages, cut_sessions
from beam_pipelines.datasets.source_files import find_tables, read_table, require_source
from beam_pipelines.format.outputs import whole_directory

NOTICE = (
    "inferred pages: impressions and clicks are real, but the source names no pages; a page is what one feed showed a "
    "user without a pause of an hour, and the times of clicks before 2022-04-25 are estimates"
)
_GAP = 3_600_000  # milliseconds
_UTC8 = 8 * 3_600_000
_FIRST_DAY = 1_649_347_200_000  # 2022-04-08 in UTC+8, when the source's log begins
_HASHED = [f"onehot_feat{number}" for number in range(18)]


def _required(names: Sequence[str], type: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, type, nullable=False) for name in names]


TABLES = {
    "impressions": pa.schema(
        [
            *_required(["user_id", "video_id"], pa.string()),
            *_required(["time_ms", "tab", "is_click", "long_view"], pa.int64()),
            pa.field("play_time_ms", pa.float64()),
        ]
    ),
    "user_history_before_20220425": pa.schema(
        [
            *_required(["user_id"], pa.string()),
            *_required(["last_time_ms"], pa.int64()),
            pa.field("long_watch_seq", pa.string()),
        ]
    ),
    "videos": pa.schema(
        [
            *_required(["video_id"], pa.string()),
            pa.field("video_type", pa.string()),
            pa.field("upload_dt", pa.date32()),
            pa.field("upload_type", pa.string()),
            pa.field("video_duration", pa.float64()),
            pa.field("server_width", pa.float64()),
            pa.field("server_height", pa.float64()),
            pa.field("tag", pa.string()),
        ]
    ),
    "users": pa.schema(
        [
            *_required(["user_id"], pa.string()),
            pa.field("user_active_degree", pa.string()),
            pa.field("is_live_streamer", pa.string()),
            pa.field("is_video_author", pa.string()),
            pa.field("follow_user_num", pa.float64()),
            pa.field("fans_user_num", pa.float64()),
            pa.field("friend_user_num", pa.float64()),
            pa.field("register_days", pa.float64()),
            *(pa.field(name, pa.string()) for name in _HASHED),
        ]
    ),
}


def to_impressions(shown: pa.Table) -> tuple[pa.Table, SessionPages]:
    """Puts the source's impressions into pages; the table is by user, then time."""
    time = shown["time_ms"].to_numpy()
    pages = cut_sessions(shown["user_id"], time, shown["video_id"], _GAP, shown["tab"].to_numpy())
    page_id = pages.ids(shown["user_id"], time)
    shown = shown.take(pa.array(pages.order))
    feed = shown["tab"].take(pa.array(pages.start[pages.page]))  # a moment's rows may be of two feeds
    table = pa.table(
        {
            "page_id": page_id,
            "user_id": shown["user_id"],
            "item_id": shown["video_id"],
            "timestamp": shown["time_ms"],
            "position": pages.position,
            "clicked": shown["is_click"],
            "converted": pc.multiply(shown["is_click"], shown["long_view"]),
            "dwell_seconds": pc.divide(pc.fill_null(shown["play_time_ms"], 0.0), 1000.0),
            "query": pc.binary_join_element_wise("feed", feed.cast(pa.string()), " "),
        }
    )
    return table, pages


def to_events(history: pa.Table, impressions: pa.Table) -> tuple[pa.Table, int]:
    """Turns the earlier long watches into clicks.

    Returns:
        The clicks, and of how many users the history was moved to end before the first impression.
    """
    history = history.filter(pc.fill_null(pc.match_substring_regex(history["long_watch_seq"], r"\S"), False))
    watches = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(history["long_watch_seq"])).combine_chunks()
    count = pc.list_value_length(watches).to_numpy(zero_copy_only=False).astype(np.int64)
    owner = pc.list_parent_indices(watches).to_numpy(zero_copy_only=False)
    first = impressions.group_by("user_id").aggregate([("timestamp", "min")])
    shown = pc.index_in(history["user_id"], first["user_id"])
    limit = pc.subtract(first["timestamp_min"].take(shown), 1)
    told = history["last_time_ms"]
    last = pc.min_element_wise(told, limit).to_numpy()  # nulls, of users without impressions, do not count
    step = np.maximum(1, (last - _FIRST_DAY) // count)
    place = np.arange(len(owner)) - (np.cumsum(count) - count)[owner]
    events = pa.table(
        {
            "user_id": history["user_id"].take(pa.array(owner)),
            "item_id": pc.list_flatten(watches),
            "timestamp": last[owner] - (count[owner] - 1 - place) * step[owner],
            "event": pa.array(np.full(len(owner), "click"), pa.string()),
        }
    )
    return events, int((last < told.to_numpy()).sum())


def to_items(videos: pa.Table) -> pa.Table:
    """Names the videos' columns as the input contract does; a video's category is the first of its tags."""
    empty = pa.array([""] * len(videos), pa.string())
    tag = pc.fill_null(videos["tag"], "")
    return pa.table(
        {
            "item_id": videos["video_id"],
            "category": pc.replace_substring_regex(tag, ",.*", ""),
            "title": empty,
            "image": empty,
            "published_at": pc.subtract(videos["upload_dt"].cast(pa.timestamp("ms")).cast(pa.int64()), _UTC8),
            "stat_duration_seconds": pc.divide(videos["video_duration"], 1000.0),
            "stat_width": videos["server_width"],
            "stat_height": videos["server_height"],
            "label_tags": tag,
            "label_video_type": videos["video_type"],
            "label_upload_type": videos["upload_type"],
        }
    )


def to_users(users: pa.Table) -> pa.Table:
    """Names the users' columns as the input contract does; the source's ranges only repeat its counts."""
    return pa.table(
        {
            "user_id": users["user_id"],
            "stat_follows": users["follow_user_num"],
            "stat_fans": users["fans_user_num"],
            "stat_friends": users["friend_user_num"],
            "stat_registered_days": users["register_days"],
            "cat_active_degree": users["user_active_degree"],
            "cat_live_streamer": users["is_live_streamer"],
            "cat_video_author": users["is_video_author"],
            **{f"cat_{name}": users[name] for name in _HASHED},
        }
    )


def count_rows(shown: pa.Table, impressions: pa.Table, pages: SessionPages) -> dict[str, int]:
    """Counts what a reader of the log should know."""
    keys = ["user_id", "video_id", "time_ms"]
    return {
        "pages with both a click and a non-click": pages.with_both_classes(impressions["clicked"].to_numpy()),
        "impressions on pages of their own": int((np.bincount(pages.page) == 1).sum()),
        "impressions that repeat a user, video and time": len(shown) - len(shown.group_by(keys).aggregate([])),
        "long views without a click, no conversions": pc.sum(
            pc.greater(shown["long_view"], shown["is_click"])
        ).as_py(),
    }  # fmt: skip


def write_kuairand_logs(source: Path, output: Path, *, overwrite: bool = False) -> LogSummary:
    """Writes a log directory from the source's tables.

    Args:
        source: folder with the tables, each `NAME.csv` or `NAME.csv.gz`.
        output: log directory to make.
        overwrite: whether an existing output is replaced.

    Raises:
        InputError: a file of the source cannot be used.
    """
    files = find_tables(require_source(source, "downloading KuaiRand-Pure"), TABLES)
    with whole_directory(output, overwrite=overwrite, inputs=[source]) as directory:
        shown, history, videos, users = (read_table(files[name], schema) for name, schema in TABLES.items())
        impressions, pages = to_impressions(shown)
        events, moved = to_events(history, impressions)
        tables = {"impressions": impressions, "events": events, "items": to_items(videos), "users": to_users(users)}
        write_logs(directory, tables, NOTICE)
    return LogSummary(
        pages=len(pages.start),
        impressions=len(impressions),
        clicks=pc.sum(impressions["clicked"]).as_py(),
        events=len(events),
        users=len(users),
        items=len(videos),
        counters={
            **count_rows(shown, impressions, pages),
            "users whose history was moved to end before their first impression": moved,
        },
    )
