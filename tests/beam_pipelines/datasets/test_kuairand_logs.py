import csv
import gzip
import json
import random
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from beam_pipelines import BuildOptions, build_dataset
from beam_pipelines.datasets.kuairand_logs import NOTICE_OF_HISTORY, write_kuairand_logs
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Manifest
from tests.beam_pipelines.gauc import gauc
from tests.beam_pipelines.page_reference import comparable, decode_page, reference_pages, without_statistics

HOUR = 3_600_000
START = 1_650_816_000_000  # 2022-04-25 in UTC+8
FIRST_DAY = START - 17 * 24 * HOUR
TEST_BEGINS = START + 9 * 24 * HOUR
HEADERS = {
    "impressions": "user_id,video_id,time_ms,date,tab,is_click,long_view,play_time_ms,duration_ms\n",
    "user_history_before_20220425": "user_id,history_len,last_time_ms,watch_seq,like_seq,long_watch_seq\n",
    "videos": "video_id,author_id,video_type,upload_dt,upload_type,video_duration,server_width,server_height,tag\n",
    "users": "user_id,user_active_degree,is_live_streamer,is_video_author,follow_user_num,fans_user_num,"
    f"friend_user_num,register_days,register_days_range,{','.join(f'onehot_feat{n}' for n in range(18))}\n",
}
# user, video, hours after START, tab, click, long view, milliseconds played
SHOWN = [
    ("7", "01", 0.0, 1, 1, 1, 9000),
    ("7", "2", 0.9, 1, 0, 0, 500),
    ("7", "3", 1.8, 1, 1, 0, 2500),  # 1.8 h after the page began, but never a pause of an hour
    ("7", "4", 1.9, 0, 0, 0, 0),  # another feed
    ("7", "5", 2.0, 1, 1, 1, 70000),  # and back
    ("7", "2", 2.0, 4, 0, 0, 0),  # one moment, so one page, whatever the feed
    ("7", "2", 3.1, 1, 0, 1, 100),  # a pause of more than an hour
    ("7", "2", 3.1, 1, 1, 0, 3000),  # the same again with another outcome
    ("8", "01", 3.1, 1, 0, 0, 0),
]
HISTORY = [
    ("7", 4, START - HOUR, "2 01 5 5", "5", "01 5 5"),
    ("8", 1, START + int(3.1 * HOUR), "2", "", "2"),  # at the very moment of the user's first impression
    ("9", 2, START - 2 * HOUR, "4 4", "", ""),
]


def make_source(path, *, gz=False, shown=SHOWN):
    rows = {
        "impressions": [
            (user, video, START + int(hours * HOUR), 20220425, tab, click, long, played, 10_000)
            for user, video, hours, tab, click, long, played in shown
        ],
        "user_history_before_20220425": HISTORY,
        "videos": [
            ("01", 5, "NORMAL", "2022-04-10", "Web", 87433.0, 720.0, 1280.0, "39,68"),
            ("2", 5, "AD", "2022-04-09", "Web", "", 720.0, 1280.0, ""),
            *((video, 5, "NORMAL", "2022-04-11", "Web", 5000.0, 720.0, 1280.0, "3") for video in "345"),
        ],
        "users": [(user, "full_active", -124, 1, 5, 6, 7, 800, "730+", *["1"] * 17, "") for user in "789"],
    }
    path.mkdir()
    for name, table in rows.items():
        with (gzip.open if gz else open)(path / f"{name}.csv{'.gz' if gz else ''}", "wt", newline="") as file:
            file.write(HEADERS[name])
            csv.writer(file).writerows(table)
    return path


def read(logs, table):
    return pq.read_table(logs / f"{table}.parquet").to_pylist()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "gz"])
def source(request, tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("kuairand") / "source", gz=request.param)


@pytest.fixture(scope="module")
def logs(source):
    write_kuairand_logs(source, source.parent / "logs")
    return source.parent / "logs"


def test_a_page_is_what_a_feed_showed_without_a_pause(logs):
    by_page = defaultdict(list)
    for row in read(logs, "impressions"):
        by_page[row["page_id"]].append((row["item_id"], row["position"], row["query"]))
    moments = {page: int(page.split("-")[1]) - START for page in by_page}
    assert {(page.split("-")[0], moments[page] / HOUR): rows for page, rows in by_page.items()} == {
        ("7", 0.0): [("01", 0, "feed 1"), ("2", 1, "feed 1"), ("3", 2, "feed 1")],
        ("7", 1.9): [("4", 0, "feed 0")],
        ("7", 2.0): [("5", 0, "feed 1"), ("2", 1, "feed 1")],
        ("7", 3.1): [("2", 0, "feed 1"), ("2", 1, "feed 1")],
        ("8", 3.1): [("01", 0, "feed 1")],
    }


def test_outcomes_are_clicks_conversions_and_dwell_time(logs):
    outcomes = {
        (row["user_id"], row["item_id"], row["timestamp"], row["clicked"], row["converted"], row["dwell_seconds"])
        for row in read(logs, "impressions")
    }
    assert outcomes == {
        (user, video, START + int(hours * HOUR), click, click and long, played / 1000)
        for user, video, hours, _, click, long, played in SHOWN
    }


def test_long_views_may_be_the_clicks(source):
    logs = source.parent / "long_views"
    summary = write_kuairand_logs(source, logs, clicked="long_view")
    rows = read(logs, "impressions")
    assert {(row["user_id"], row["item_id"], row["timestamp"], row["clicked"]) for row in rows} == {
        (user, video, START + int(hours * HOUR), long) for user, video, hours, _, _, long, _ in SHOWN
    }
    assert all("converted" not in row for row in rows)
    assert summary.clicks == 3
    assert not any("conversions" in what for what in summary.counters)
    notice = json.loads((logs / "logs.json").read_text())["notice"]
    assert notice == f"{NOTICE_OF_HISTORY}; a click is a long view"
    with pytest.raises(InputError, match=r"^`clicked` must be is_click or long_view\. Received: like$"):
        write_kuairand_logs(source, source.parent / "likes", clicked="like")


def test_history_is_spread_before_the_first_impression(logs):
    events = read(logs, "events")
    assert {row["event"] for row in events} == {"click"}
    mine = [(row["item_id"], row["timestamp"]) for row in events if row["user_id"] == "7"]
    step = (START - HOUR - FIRST_DAY) // 3
    assert mine == [("01", START - HOUR - 2 * step), ("5", START - HOUR - step), ("5", START - HOUR)]
    other = [(row["item_id"], row["timestamp"]) for row in events if row["user_id"] != "7"]
    assert other == [("2", START + int(3.1 * HOUR) - 1)]


def test_items_and_users_carry_no_outcome(logs):
    items, users = (
        {row[key]: row for row in read(logs, name)} for name, key in (("items", "item_id"), ("users", "user_id"))
    )
    assert items["01"] == {
        "item_id": "01",
        "category": "39",
        "title": None,
        "image": None,
        "published_at": START - 15 * 24 * HOUR,  # 2022-04-10 began in UTC+8
        "stat_duration_seconds": 87.433,
        "stat_width": 720.0,
        "stat_height": 1280.0,
        "label_tags": "39,68",
        "label_video_type": "NORMAL",
        "label_upload_type": "Web",
    }
    assert items["2"]["category"] is None
    assert items["2"]["stat_duration_seconds"] is None
    assert (users["7"]["stat_fans"], users["7"]["cat_live_streamer"], users["7"]["cat_onehot_feat0"]) == (
        6,
        "-124",
        "1",
    )
    assert len(users["7"]) == 1 + 4 + 3 + 18
    outcomes = {row["stat_duration_seconds"] for row in items.values() if row["item_id"] in "345"}
    assert outcomes == {5.0}  # the impressions' play times and durations differ
    assert json.loads((logs / "logs.json").read_text())["notice"].startswith("inferred pages")


def test_order_of_rows_does_not_matter(logs, tmp_path):
    shuffled = random.Random(1).sample(SHOWN, len(SHOWN))
    # Equal user, video and time leave only the outcome to tell rows apart: the build merges those.
    source = make_source(tmp_path / "source", shown=[row for row in shuffled if row[2] != 3.1])
    write_kuairand_logs(source, tmp_path / "logs")
    expected = [row for row in read(logs, "impressions") if row["timestamp"] != START + int(3.1 * HOUR)]
    assert read(tmp_path / "logs", "impressions") == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("videos", None, r"no videos.csv in .*; expected .*impressions.csv, .*; found impressions.csv, "),
        ("users", "user_id,fans_user_num\n1,2\n", "no column 'user_active_degree'"),
        ("impressions", "", "impressions.csv has no header"),
        ("impressions", HEADERS["impressions"], "impressions.csv has no rows"),
        (
            "impressions",
            HEADERS["impressions"] + "7,2,soon,1,1,1,1,1,1\n",
            "impressions.csv, line 2: column 'time_ms' holds 'soon', no int64",
        ),
        ("impressions", HEADERS["impressions"] + ",2,1,1,1,1,1,1,1\n", "'user_id' is empty in row 1"),
    ],
)
def test_a_broken_source_is_one_clear_line(tmp_path, name, text, message):
    source = make_source(tmp_path / "source")
    (source / f"{name}.csv").unlink()
    if text is not None:
        (source / f"{name}.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        write_kuairand_logs(source, tmp_path / "logs")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    source, work = shared_data("kuairand_impressions"), tmp_path_factory.mktemp("kuairand_real")
    write_kuairand_logs(source, work / "logs")
    options = BuildOptions(split_by_time=("2022-04-24", "2022-05-04T00:00+08:00"))
    build_dataset(work / "logs", work / "dataset", options)
    return work


def test_real_rows_all_arrive(real):
    manifest = Manifest.read(real / "dataset")
    counters = manifest.counters
    assert not [name for name in counters if name.startswith("rejected.")]
    assert {name: counters[f"rows.{name}"] for name in ("impressions", "items", "users", "events")} == {
        "impressions": 180_384,
        "items": 7583,
        "users": 25_156,
        "events": 380_402,
    }
    assert counters["items.only_in_logs"] == counters["users.only_in_logs"] == counters["events.duplicate"] == 0
    # 362 rows repeat a user, video and moment; the others were shown again later on the same page.
    assert counters["impressions.conflicting"] == 915
    assert {name: (split.pages, split.impressions, split.clicks) for name, split in manifest.splits.items()} == {
        "train": (122_903, 149_499, 67_626),
        "test": (24_640, 29_970, 13_379),
    }
    assert manifest.notice == NOTICE_OF_HISTORY
    assert manifest.images is None


def test_real_pages_have_both_classes_and_no_order_gives_them_away(real):
    impressions = pq.read_table(real / "logs" / "impressions.parquet")
    page = impressions["page_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    clicked, position = impressions["clicked"].to_numpy(), impressions["position"].to_numpy()
    clicks, shown = np.bincount(page, clicked), np.bincount(page)
    assert ((clicks > 0) & (clicks < shown)).sum() == 10_032
    assert gauc(page, clicked, position) == pytest.approx(0.5, abs=0.04)
    first = impressions.group_by("user_id").aggregate([("timestamp", "min")])
    events = pq.read_table(real / "logs" / "events.parquet")
    begins = first["timestamp_min"].take(pc.index_in(events["user_id"], first["user_id"]))
    assert pc.all(pc.less(events["timestamp"], begins)).as_py()
    assert pc.min(events["timestamp"]).as_py() >= FIRST_DAY


def test_real_pages_are_what_the_reference_says(real):
    chosen = pa.array([str(user) for user in range(0, 27_000, 300)])
    tables = {
        name: pq.read_table(real / "logs" / f"{name}.parquet", filters=pc.field("user_id").isin(chosen)).to_pylist()
        for name in ("impressions", "events")
    }
    expected, _, _ = reference_pages(tables["impressions"], tables["events"], with_statistics=False)
    ids = [
        pq.read_table(real / "dataset" / path).column(0).to_pylist()
        for path in ("items/items.parquet", "users/users.parquet")
    ]
    found = {}
    marks = [f"{user}-".encode() for user in chosen.to_pylist()]
    for shard in sorted((real / "dataset" / "pages").glob("test-*")):
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            if any(mark in record for mark in marks):  # decoding them all would take long
                page_id, page = decode_page(record, *ids)
                found[page_id] = without_statistics(page)
    found = {page_id: page for page_id, page in found.items() if page_id.split("-")[0] in chosen.to_pylist()}
    expected = {page_id: page for page_id, page in expected.items() if page["time"] >= TEST_BEGINS}
    assert len(expected) > 20
    assert set(found) == set(expected)
    for page_id, page in expected.items():
        page = comparable(page)
        for row in page["candidates"]:
            row["dwell_seconds"] = pytest.approx(row["dwell_seconds"])
        assert found[page_id] == page
