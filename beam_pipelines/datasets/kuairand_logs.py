"""KuaiRand's feed log as a log directory: real impressions with real clicks, without pictures and titles.

Read are the files of KuaiRand-Pure, -1K and -27K as their authors publish them, or an edition that was repackaged as
impressions, videos, users and the histories before them. What the source leaves open, and what is made of it:

- It has no page ID. A page is what one feed (`tab`) showed a user without a pause of more than an hour. Longer pages
  would have more candidates to compare, but their histories would end hours before most of them (per day and feed, the
  median page with both classes lasts six hours), and pages of two feeds would overlap, so that one page's clicks would
  be in the other's history before they happened. The usual half hour is too short for a log that keeps few of the
  videos that were shown: pauses between two kept ones are longer than pauses in the use of the app.
- A page's query is the feed it was shown in: what the user opened, known before anything is shown, and the strongest
  single fact about the rate of clicks.
- `is_click` is a click; on the auto-play feeds it means that the user stayed. A click that became a `long_view` is a
  conversion. On demand `long_view` is the click, as in protocols that rank by it, and there are no conversions.
  `play_time_ms` is the dwell time. None of an impression's outcomes becomes a feature of its item, and
  `video_features_statistic` is not read: its counts are means over the whole month, the days to predict included.
- The random log shows what another policy drew: videos at random instead of recommended ones. It is left out, or gets
  pages of its own, whose query and ID end in `random`.
- Of the repackaged histories, `long_watch_seq` holds clicks: nearly every long view is one, while `watch_seq` is all
  that was shown. Only the time of the last watch is known. Earlier ones are spread evenly between the log's first day
  and that time, in their order, and all precede the user's first impression.
- `upload_dt` is a day in UTC+8; a video counts as published when that day begins there.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines.datasets.log_writer import LogSummary, LogWriter, log_writer
from beam_pipelines.datasets.session_pages import SessionPages, cut_sessions
from beam_pipelines.datasets.source_files import SourceFiles
from beam_pipelines.datasets.source_tables import Layout, SourceTable, TableFile, find_layout, say_unread
from beam_pipelines.datasets.user_buckets import user_buckets
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.progress import say

RandomExposure = Literal["leave_out", "pages"]
"""What becomes of impressions of the random policy; see `write_kuairand_logs`."""
Clicked = Literal["is_click", "long_view"]
"""Which of the source's columns is a click; see `write_kuairand_logs`."""
NOTICE = (
    "inferred pages: impressions and clicks are real, but the source names no pages; a page is what one feed showed a "
    "user without a pause of an hour"
)
NOTICE_OF_HISTORY = f"{NOTICE}, and the times of clicks before 2022-04-25 are estimates"
"""Of the repackaged edition."""
NOTICE_OF_RANDOM = f"{NOTICE}; pages whose query ends in `random` show videos that were drawn at random"
NOTICE_OF_LONG_VIEWS = "; a click is a long view"
"""Added where it is."""
_GAP = 3_600_000  # milliseconds
_UTC8 = 8 * 3_600_000
_FIRST_DAY = 1_649_347_200_000  # 2022-04-08 in UTC+8, when the source's log begins
_HASHED = [f"onehot_feat{number}" for number in range(18)]
_RANGES: dict[str, tuple[str, tuple[int, ...]]] = {
    "follows": ("follow_user_num", (1, 11, 51, 101, 151, 251, 501)),
    "fans": ("fans_user_num", (1, 10, 100, 1000, 5000, 10_000, 100_000, 1_000_000)),
    "friends": ("friend_user_num", (1, 5, 30, 60, 120, 250)),
    "registered_days": ("register_days", (8, 15, 31, 61, 91, 181, 366, 731)),
}
"""The publisher's ranges of a user's counts: where each but the first begins."""


def _required(names: Sequence[str], type: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, type, nullable=False) for name in names]


_SHOWN = [
    *_required(["user_id", "video_id"], pa.string()),
    *_required(["time_ms", "tab", "is_click", "long_view"], pa.int64()),
    pa.field("play_time_ms", pa.float64()),
]
_VIDEOS = pa.schema(
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
)
_USERS = pa.schema(
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
)
_HISTORY = pa.schema(
    [
        *_required(["user_id"], pa.string()),
        *_required(["last_time_ms"], pa.int64()),
        pa.field("long_watch_seq", pa.string()),
    ]
)
_OFFICIAL_LOG = pa.schema([*_SHOWN, *_required(["is_rand"], pa.int64())])
_HISTORY_TABLE = "user_history_before_20220425"
_RANDOM_LOG = "log_random_4_22_to_5_08"


def _official(name: str, ending: str, parts: Sequence[str] = ("",)) -> Layout:
    """An edition as it is published; the largest has its standard logs in two parts."""
    earlier = [f"log_standard_4_08_to_4_21_{ending}{part}.csv" for part in parts]
    later = [f"log_standard_4_22_to_5_08_{ending}{part}.csv" for part in parts]
    return Layout(
        name,
        {
            "videos": TableFile(f"video_features_basic_{ending}.csv", _VIDEOS),
            "users": TableFile(f"user_features_{ending}.csv", _USERS),
            **{file: TableFile(file, _OFFICIAL_LOG, required=False) for file in earlier},
            **{file: TableFile(file, _OFFICIAL_LOG) for file in later},
            _RANDOM_LOG: TableFile(f"{_RANDOM_LOG}_{ending}.csv", _OFFICIAL_LOG, required=False),
        },
    )


REPACKAGED = Layout(
    "a repackaged edition",
    {
        "impressions": TableFile("impressions.csv", pa.schema(_SHOWN)),
        _HISTORY_TABLE: TableFile("user_history_before_20220425.csv", _HISTORY),
        "videos": TableFile("videos.csv", _VIDEOS),
        "users": TableFile("users.csv", _USERS),
    },
)
LAYOUTS = (
    _official("KuaiRand-Pure", "pure"),
    _official("KuaiRand-1K", "1k"),
    _official("KuaiRand-27K", "27k", ("_part1", "_part2")),
    REPACKAGED,
)


def to_impressions(shown: pa.Table, ending: str = "", clicked: Clicked = "is_click") -> tuple[pa.Table, SessionPages]:
    """Puts the source's impressions into pages; the table is by user, then time.

    Args:
        shown: the source's rows.
        ending: what the ID and the query of a page end in.
        clicked: the column that is a click.
    """
    time = shown["time_ms"].to_numpy()
    pages = cut_sessions(shown["user_id"], time, shown["video_id"], _GAP, shown["tab"].to_numpy())
    page_id = pages.ids(shown["user_id"], time)
    shown = shown.take(pa.array(pages.order))
    feed = shown["tab"].take(pa.array(pages.start[pages.page]))  # a moment's rows may be of two feeds
    query = pc.binary_join_element_wise("feed", feed.cast(pa.string()), " ")
    if ending:
        page_id = pc.binary_join_element_wise(page_id, ending, "-")
        query = pc.binary_join_element_wise(query, ending, " ")
    columns = {
        "page_id": page_id,
        "user_id": shown["user_id"],
        "item_id": shown["video_id"],
        "timestamp": shown["time_ms"],
        "position": pages.position,
        "clicked": shown[clicked],
        "dwell_seconds": pc.divide(shown["play_time_ms"], 1000.0),
        "query": query,
    }
    if clicked == "is_click":
        columns["converted"] = pc.multiply(shown["is_click"], shown["long_view"])
    return pa.table(columns), pages


def to_events(history: pa.Table, first_shown: pa.Table) -> tuple[pa.Table, int]:
    """Turns the earlier long watches into clicks.

    Args:
        history: the source's rows.
        first_shown: `user_id` and the `timestamp` of the user's first impression.

    Returns:
        The clicks, and of how many users the history was moved to end before the first impression.
    """
    history = history.filter(pc.fill_null(pc.match_substring_regex(history["long_watch_seq"], r"\S"), False))
    watches = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(history["long_watch_seq"])).combine_chunks()
    count = pc.list_value_length(watches).to_numpy(zero_copy_only=False).astype(np.int64)
    owner = pc.list_parent_indices(watches).to_numpy(zero_copy_only=False)
    shown = pc.index_in(history["user_id"], first_shown["user_id"])
    limit = pc.subtract(first_shown["timestamp"].take(shown), 1)
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
    none = pa.nulls(len(videos), pa.string())
    return pa.table(
        {
            "item_id": videos["video_id"],
            "category": pc.replace_substring_regex(videos["tag"], ",.*", ""),
            "title": none,
            "image": none,
            "published_at": pc.subtract(videos["upload_dt"].cast(pa.timestamp("ms")).cast(pa.int64()), _UTC8),
            "stat_duration_seconds": pc.divide(videos["video_duration"], 1000.0),
            "stat_width": videos["server_width"],
            "stat_height": videos["server_height"],
            "label_tags": videos["tag"],
            "label_video_type": videos["video_type"],
            "label_upload_type": videos["upload_type"],
        }
    )


def to_users(users: pa.Table, ranges: bool = True) -> pa.Table:
    """Names the users' columns as the input contract does.

    Args:
        users: the source's rows.
        ranges: whether counts are also given as categories, by the publisher's ranges.
    """
    counts = _RANGES.items() if ranges else ()
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
            **{f"cat_{name}_range": _range_of(users[column], first) for name, (column, first) in counts},
            **{f"cat_{name}": users[name] for name in _HASHED},
        }
    )


def _range_of(counts: pa.ChunkedArray, first: tuple[int, ...]) -> pa.Array:
    """Names the range that each count lies in after its bounds: "10-49", "250+"."""
    lower = (0, *first)
    names = [
        f"{start}+" if stop is None else str(start) if stop == start + 1 else f"{start}-{stop - 1}"
        for start, stop in zip(lower, (*first, None), strict=True)
    ]
    values = counts.to_numpy()
    place = np.searchsorted(first, np.nan_to_num(values), side="right")
    return pa.array(np.array(names)[place], pa.string(), mask=np.isnan(values))


class _Impressions:
    """Writes the pages of a log, part by part, and counts what a reader of them should know.

    Args:
        writer: of the log directory.
        clicked: the column that is a click.

    Attributes:
        pages, impressions, clicks: how many were written.
        counters: see `LogSummary`.
        first_shown: per part, `user_id` and the `timestamp` of the user's first impression.
    """

    def __init__(self, writer: LogWriter, clicked: Clicked) -> None:
        self.pages = self.impressions = self.clicks = 0
        self.counters: dict[str, int] = {}
        self.first_shown: list[pa.Table] = []
        self._writer = writer
        self._clicked = clicked

    def write(self, shown: pa.Table, ending: str = "") -> None:
        """Writes the pages of some users; see `to_impressions`."""
        if not len(shown):
            return
        impressions, pages = to_impressions(shown, ending, self._clicked)
        self._writer.append("impressions", impressions)
        first = impressions.group_by("user_id").aggregate([("timestamp", "min")])
        self.first_shown.append(first.rename_columns({"timestamp_min": "timestamp"}))
        self.pages += len(pages.start)
        self.impressions += len(impressions)
        self.clicks += pc.sum(impressions["clicked"]).as_py()
        repeated = len(shown) - len(shown.group_by(["user_id", "video_id", "time_ms"]).aggregate([]))
        of_both = pages.with_both_classes(impressions["clicked"].to_numpy())
        self.count("pages with both a click and a non-click", of_both)
        self.count("impressions on pages of their own", (np.bincount(pages.page) == 1).sum())
        self.count("impressions that repeat a user, video and time", repeated)
        if self._clicked == "is_click":
            long_only = pc.sum(pc.greater(shown["long_view"], shown["is_click"])).as_py()
            self.count("long views without a click, no conversions", long_only)

    def count(self, what: str, number: int) -> None:
        """Adds to a counter."""
        self.counters[what] = self.counters.get(what, 0) + int(number)


def write_kuairand_logs(
    source: Path,
    output: Location | str,
    *,
    clicked: Clicked = "is_click",
    random_exposure: RandomExposure = "leave_out",
    overwrite: bool = False,
) -> LogSummary:
    """Writes a log directory from the source's tables.

    Args:
        source: folder or archive (.zip, .tar.gz) with the files of KuaiRand-Pure, -1K or -27K, or with those of a
            repackaged edition; each .csv, .csv.gz or .csv.zip.
        output: log directory to make.
        clicked: the column that is a click. With `long_view` there are no conversions.
        random_exposure: `leave_out` leaves out what the random policy showed; `pages` puts it on pages of its own,
            whose query and ID end in `random`.
        overwrite: whether an existing output is replaced.

    Raises:
        InputError: an argument or a file of the source cannot be used.
    """
    for name, value, choices in (
        ("clicked", clicked, get_args(Clicked)),
        ("random_exposure", random_exposure, get_args(RandomExposure)),
    ):
        if value not in choices:
            raise InputError(f"`{name}` must be {' or '.join(choices)}. Received: {value}")
    with SourceFiles(source, "downloading KuaiRand-Pure") as files:
        layout, folder, tables = find_layout(files, LAYOUTS)
        logs = _logs(layout, tables, random_exposure)
        history, videos, users = (tables.get(name) for name in (_HISTORY_TABLE, "videos", "users"))
        used = [table for table in (*logs, history, videos, users) if table]
        say_unread(files, folder, used)
        notice = NOTICE_OF_HISTORY if history else NOTICE_OF_RANDOM if random_exposure == "pages" else NOTICE
        notice += NOTICE_OF_LONG_VIEWS if clicked == "long_view" else ""
        with (
            whole_directory(as_location(output), overwrite=overwrite, inputs=[source]) as directory,
            log_writer(directory, notice) as writer,
        ):
            written = _Impressions(writer, clicked)
            for shown in user_buckets(_batches(logs), directory):
                drawn = pc.equal(shown["is_rand"], 1)
                written.write(shown.filter(pc.invert(drawn)))
                if random_exposure == "pages":
                    written.write(shown.filter(drawn), "random")
                else:
                    written.count("impressions of the random policy, left out", pc.sum(drawn).as_py())
            if not written.impressions:
                raise InputError(f"{source}: no impressions but those of the random policy, which are left out")
            events = 0
            if history:
                clicks, moved = to_events(history.read(), pa.concat_tables(written.first_shown))
                writer.append("events", clicks)
                written.count("users whose history was moved to end before their first impression", moved)
                events = len(clicks)
            for batch in tables["videos"].batches():
                writer.append("items", to_items(pa.Table.from_batches([batch])))
            for batch in tables["users"].batches():
                writer.append("users", to_users(pa.Table.from_batches([batch]), ranges=layout is not REPACKAGED))
    return LogSummary(
        pages=written.pages,
        impressions=written.impressions,
        clicks=written.clicks,
        events=events,
        users=tables["users"].rows,
        items=tables["videos"].rows,
        counters={**{f"rows of {table.name}": table.rows for table in used}, **written.counters},
    )


def _logs(layout: Layout, tables: Mapping[str, SourceTable], random_exposure: RandomExposure) -> list[SourceTable]:
    """The logs to read.

    Raises:
        InputError: one part of a log is there without the other, or the random log is asked for and is not there.
    """
    earlier = [name for name in layout.tables if name.startswith("log_standard_4_08")]
    missing = [name for name in earlier if name not in tables]
    if 0 < len(missing) < len(earlier):
        raise InputError(f"`source`: no {', '.join(missing)}, of which the other part is there")
    if missing:
        say(f"no {', '.join(missing)}: histories begin on 22 April")
    chosen = [table for name, table in tables.items() if name == "impressions" or name.startswith("log_standard")]
    if random_exposure == "pages":
        if _RANDOM_LOG not in tables:
            raise InputError(f"`random_exposure`: there is no {_RANDOM_LOG}_*.csv to make pages of")
        chosen.append(tables[_RANDOM_LOG])
    return chosen


def _batches(logs: Sequence[SourceTable]) -> Iterator[pa.RecordBatch]:
    """The rows of all logs, each with whether the random policy chose the video."""
    for log in logs:
        for batch in log.batches():
            log.check_times("time_ms", batch["time_ms"], per_second=1000)
            for name in ("is_click", "long_view", *(["is_rand"] if "is_rand" in batch.schema.names else [])):
                log.check_flags(name, batch[name])
            if log.name.startswith("log_random") or "is_rand" not in batch.schema.names:
                drawn = np.full(len(batch), int(log.name.startswith("log_random")))
                batch = pa.record_batch([*(batch[name] for name in _OFFICIAL_LOG.names[:-1]), drawn], _OFFICIAL_LOG)
            yield batch
