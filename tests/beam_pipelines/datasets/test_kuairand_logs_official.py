"""The files of KuaiRand-Pure, -1K and -27K, with the names, columns and order of columns of their README."""

import csv
import io
import json
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from beam_pipelines import BuildOptions, build_dataset
from beam_pipelines.datasets import user_buckets
from beam_pipelines.datasets.kuairand_logs import to_users, write_kuairand_logs
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import Manifest

HOUR = 3_600_000
EARLIER, LATER = 1_649_400_000_000, 1_650_600_000_000  # of 8 and 22 April
LOG = [
    *("user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment"),
    *("is_forward", "is_hate", "long_view", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time"),
    *("is_profile_enter", "is_rand", "tab"),
]
VIDEO = [
    *("video_id", "author_id", "video_type", "upload_dt", "upload_type", "visible_status", "video_duration"),
    *("server_width", "server_height", "music_id", "music_type", "tag"),
]
COUNTS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
USER = [
    *("user_id", "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author"),
    *(column for name in COUNTS for column in (name, f"{name}_range")),
    *(f"onehot_feat{n}" for n in range(18)),
]


def shown(user, video, time, click, long=0, tab=1, rand=0):
    values = dict.fromkeys(LOG, 0)
    values |= {"user_id": user, "video_id": video, "date": 20220422, "hourmin": 400, "time_ms": time, "tab": tab}
    values |= {
        "is_click": click,
        "is_like": 1 - click,
        "long_view": long,
        "play_time_ms": 1500 * click,
        "is_rand": rand,
    }
    return [values[name] for name in LOG]


TABLES = {
    "log_standard_4_08_to_4_21": (
        LOG,
        [shown(7, 11, EARLIER, 1, 1), shown(7, 12, EARLIER + HOUR, 0), shown(8, 11, EARLIER, 0)],
    ),
    "log_standard_4_22_to_5_08": (
        LOG,
        [
            shown(8, 12, LATER, 1),
            shown(7, 12, LATER, 1, 0),
            shown(7, 11, LATER + 1, 0, tab=4),
            shown(7, 13, LATER, 0, rand=1),
        ],
    ),
    "log_random_4_22_to_5_08": (LOG, [shown(7, 13, LATER, 1, rand=1), shown(9, 13, LATER + 2, 0)]),
    "user_features": (
        USER,
        [
            [user, "full_active", 0, -124, 1, 10, "(0,10]", 0, "0", 250, "250+", 31, "31-60", *["1"] * 12, *[""] * 6]
            for user in (7, 8, 9)
        ],
    ),
    "video_features_basic": (
        VIDEO,
        [
            [video, 5, "NORMAL", "2022-04-07", "Web", 0.0, 9000.0, 720.0, 1280.0, 3, 9.0, "3,4"]
            for video in (11, 12, 13)
        ],
    ),
    "video_features_statistic": (["video_id", "counts", "show_cnt"], [[11, 66, 75.2]]),
}


def make(path, edition="pure", without=(), parts=()):
    """A folder, .zip or .tar.gz with the folders of the publisher's archive; `parts` of the standard logs."""
    files = {}
    for name, (header, rows) in TABLES.items():
        if name in without:
            continue
        named = {f"{name}_{edition}": rows}
        if parts and name.startswith("log_standard"):
            named = {f"{name}_{edition}_part{part}": rows[part - 1 :: 2] for part in parts}
        for file, some in named.items():
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([header, *some])
            files[f"KuaiRand-Pure/data/{file}.csv"] = text.getvalue().encode()
    files["KuaiRand-Pure/load_data_pure.py"] = b"import pandas\n"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix == ".gz":
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def pages_of(logs):
    """By page, the videos shown with whether they were clicked, in their order; and all queries."""
    rows = pq.read_table(logs / "impressions.parquet").sort_by([("page_id", "ascending"), ("position", "ascending")])
    pages = {}
    for row in rows.to_pylist():
        pages.setdefault((row["page_id"], row["query"]), []).append((row["item_id"], row["timestamp"], row["clicked"]))
    return pages


STANDARD = {
    (f"7-{EARLIER}", "feed 1"): [("11", EARLIER, 1), ("12", EARLIER + HOUR, 0)],
    (f"8-{EARLIER}", "feed 1"): [("11", EARLIER, 0)],
    (f"7-{LATER}", "feed 1"): [("12", LATER, 1)],
    (f"7-{LATER + 1}", "feed 4"): [("11", LATER + 1, 0)],
    (f"8-{LATER}", "feed 1"): [("12", LATER, 1)],
}
RANDOM = {
    (f"7-{LATER}-random", "feed 1 random"): [("13", LATER, 0), ("13", LATER, 1)],
    (f"9-{LATER + 2}-random", "feed 1 random"): [("13", LATER + 2, 0)],
}


@pytest.mark.parametrize("place", ["folder", "folder/KuaiRand-Pure/data", "it.zip", "it.tar.gz"])
def test_the_published_files_are_read_from_wherever_they_are(tmp_path, place):
    make(tmp_path / place.partition("/")[0])
    logs = write_kuairand_logs(tmp_path / place, tmp_path / "logs")
    assert pages_of(tmp_path / "logs") == STANDARD
    assert (logs.pages, logs.impressions, logs.clicks, logs.events, logs.users, logs.items) == (5, 6, 3, 0, 3, 3)
    rows = {name: number for name, number in logs.counters.items() if name.startswith("rows of log")}
    assert rows == {"rows of log_standard_4_08_to_4_21_pure.csv": 3, "rows of log_standard_4_22_to_5_08_pure.csv": 4}
    assert logs.counters["impressions of the random policy, left out"] == 1 == sum(rows.values()) - logs.impressions
    assert "estimates" not in json.loads((tmp_path / "logs/logs.json").read_text())["notice"]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "impressions.parquet",
        "items.parquet",
        "logs.json",
        "users.parquet",
    ]


def test_the_random_log_gets_pages_of_its_own(tmp_path):
    source = make(tmp_path / "source")
    logs = write_kuairand_logs(source, tmp_path / "logs", random_exposure="pages")
    found = pages_of(tmp_path / "logs")
    assert {key: sorted(rows) for key, rows in found.items()} == STANDARD | RANDOM
    assert logs.impressions == sum(n for name, n in logs.counters.items() if name.startswith("rows of log")) == 9
    assert "impressions of the random policy, left out" not in logs.counters
    assert "random" in json.loads((tmp_path / "logs/logs.json").read_text())["notice"]


def test_logs_that_do_not_fit_into_memory_come_out_the_same(tmp_path, monkeypatch):
    source = make(tmp_path / "source")
    monkeypatch.setattr(user_buckets, "IN_MEMORY", 2)
    monkeypatch.setattr(user_buckets, "BUCKETS", 3)
    logs = write_kuairand_logs(source, tmp_path / "logs", random_exposure="pages")
    assert {key: sorted(rows) for key, rows in pages_of(tmp_path / "logs").items()} == STANDARD | RANDOM
    assert (logs.pages, logs.impressions) == (7, 9)
    assert not list((tmp_path / "logs").glob("*.arrow"))


@pytest.mark.parametrize(("edition", "parts"), [("1k", ()), ("27k", (1, 2))])
def test_larger_editions(tmp_path, edition, parts):
    write_kuairand_logs(make(tmp_path / "source", edition, parts=parts), tmp_path / "logs")
    assert pages_of(tmp_path / "logs") == STANDARD


def test_users_have_counts_and_their_ranges(tmp_path):
    write_kuairand_logs(make(tmp_path / "source"), tmp_path / "logs")
    user = pq.read_table(tmp_path / "logs/users.parquet").to_pylist()[0]
    assert {name: value for name, value in user.items() if "onehot" not in name} == {
        "user_id": "7",
        "stat_follows": 10.0,
        "stat_fans": 0.0,
        "stat_friends": 250.0,
        "stat_registered_days": 31.0,
        "cat_active_degree": "full_active",
        "cat_live_streamer": "-124",
        "cat_video_author": "1",
        "cat_follows_range": "1-10",
        "cat_fans_range": "0",
        "cat_friends_range": "250+",
        "cat_registered_days_range": "31-60",
    }
    assert [user[f"cat_onehot_feat{n}"] for n in (11, 12)] == ["1", None]


def test_real_ranges_are_the_publishers(shared_data):
    types = {name: pa.float64() if name in COUNTS else pa.string() for name in USER}
    users = pa.csv.read_csv(
        shared_data("kuairand_impressions") / "users.csv.gz",
        convert_options=pa.csv.ConvertOptions(column_types=types),
    )
    ours = to_users(users)
    for name, theirs in zip(("follows", "fans", "friends", "registered_days"), COUNTS, strict=True):
        pairs = set(zip(ours[f"cat_{name}_range"].to_pylist(), users[f"{theirs}_range"].to_pylist(), strict=True))
        assert len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs}) > 6


def test_the_logs_build(tmp_path):
    write_kuairand_logs(make(tmp_path / "source"), tmp_path / "logs", random_exposure="pages")
    build_dataset(tmp_path / "logs", tmp_path / "dataset", BuildOptions(split_by_time=("2022-04-10", "2022-04-21")))
    manifest = Manifest.read(tmp_path / "dataset")
    assert not [name for name in manifest.counters if name.startswith("rejected.")]
    assert {name: split.pages for name, split in manifest.splits.items()} == {"pretrain": 2, "test": 5}


def test_the_log_before_is_not_needed_but_both_of_its_parts_are(tmp_path):
    logs = write_kuairand_logs(make(tmp_path / "one", without=["log_standard_4_08_to_4_21"]), tmp_path / "logs")
    assert logs.impressions == 3
    source = make(tmp_path / "two", "27k", parts=(1, 2))
    (source / "KuaiRand-Pure/data/log_standard_4_08_to_4_21_27k_part2.csv").unlink()
    with pytest.raises(
        InputError, match=r"no log_standard_4_08_to_4_21_27k_part2\.csv, of which the other part is there"
    ):
        write_kuairand_logs(source, tmp_path / "other")


@pytest.mark.parametrize(
    ("broken", "random", "message"),
    [
        (
            lambda data: (data / "user_features_pure.csv").unlink(),
            "leave_out",
            r"^`source`: no user_features_pure.csv in .*; expected KuaiRand-Pure: .*; found .*load_data_pure.py",
        ),
        (
            lambda data: [path.unlink() for path in data.iterdir()],
            "leave_out",
            r"expected KuaiRand-Pure: .* or KuaiRand-1K: .* or KuaiRand-27K: .* or a repackaged edition: ",
        ),
        (
            lambda data: (data / "log_random_4_22_to_5_08_pure.csv").unlink(),
            "pages",
            r"^`random_exposure`: there is no log_random_4_22_to_5_08_\*.csv",
        ),
        (lambda _: None, "mix", r"^`random_exposure` must be leave_out or pages\. Received: mix"),
        (
            lambda data: replace(data / "log_standard_4_22_to_5_08_pure.csv", f"{LATER},1", f"{LATER // 1000},1"),
            "leave_out",
            r"log_standard_4_22_to_5_08_pure.csv: column 'time_ms' must be milliseconds since 1970.* Received: 1650600",
        ),
        (
            lambda data: replace(data / "log_standard_4_08_to_4_21_pure.csv", f"{EARLIER},1", f"{EARLIER},2"),
            "leave_out",
            r"column 'is_click' must be 0 or 1. Received: 2",
        ),
        (
            lambda data: make(data.parents[1], "1k"),
            "leave_out",
            r"more than one data set: KuaiRand-Pure in KuaiRand-Pure/data and KuaiRand-1K in KuaiRand-Pure/data",
        ),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(tmp_path, broken, random, message):
    source = make(tmp_path / "source")
    broken(source / "KuaiRand-Pure/data")
    with pytest.raises(InputError, match=message) as error:
        write_kuairand_logs(source, tmp_path / "logs", random_exposure=random)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
