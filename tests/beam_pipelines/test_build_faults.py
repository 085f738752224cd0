"""Bad input and bad luck in the data job: what each fault would do to a dataset, and the test that it does not.

| fault | what it would do | test |
| --- | --- | --- |
| a row with a broken time, ID or event type | a wrong example, or a build that dies of one row in a billion | `test_a_bad_row_is_a_dead_letter_and_the_rest_a_dataset`, `test_more_bad_rows_than_allowed_publish_nothing` |
| rows delivered twice, or twice with other values | clicks and exposures counted twice | `test_a_file_delivered_twice_changes_no_page`, `pages/test_assembly.test_duplicates_count_once_and_a_click_wins` |
| other row order, files, workers | datasets that cannot be compared or reproduced | `test_pipeline.test_bytes_do_not_depend_on_the_order_or_files_or_workers` |
| a click in its own page's history, a column equal to the label | offline metrics that no live model reaches | `pages/test_assembly.test_history_is_strictly_before_the_page_and_without_its_own_clicks`, `pages/test_assembly.test_every_page_equals_the_slow_reference`, `test_a_column_that_gives_the_label_away_reaches_no_file`; on the model's side `test_ranker.test_labels_and_positions_are_no_inputs` |
| clicks that come late, or belong to nothing shown | labels that no model could know in time; clicks out of nowhere | `test_clicks_are_attributed_late_or_rejected`, `test_the_attribution_window_ends_to_the_millisecond`, `test_a_click_after_midnight_counts_from_the_day_after_it`, `test_without_attribution_a_click_event_is_only_history` |
| one user with a large part of the log | a worker out of memory, a build that never ends | `test_a_hot_user_fits_into_memory`, `test_a_hot_user_has_the_same_pages_in_any_number_of_buckets`, `pages/test_assembly.test_time_is_linear_in_the_size_of_one_user` |
| steps older than a history may reach | a model that is fed what no server will look up | `test_histories_reach_back_to_the_millisecond` |
| pages without history, with one item, with thousands | shapes that break training; the wrong steps cut off | `test_pages_at_the_edges`, `pages/test_assembly.test_limits_of_the_schema_keep_the_newest`, `pages/test_assembly.test_long_pages_are_cut_and_what_is_cut_still_counts`; cutting candidates while reading: `models/data/test_pages.test_pages_are_padded_and_cut_at_the_oldest_step` |
| a damaged, empty, missing or changed input file | a dataset of half the log | `test_a_broken_input_is_named_and_publishes_nothing`, `test_pipeline.test_a_file_that_breaks_in_a_worker_is_named`, `test_a_line_that_is_no_json_text_is_a_dead_letter`, `test_a_log_that_changes_under_the_build_publishes_nothing` |
| an error in a worker, a worker process that is killed | one line of ours below 18 to 280 of the log; a build that waits forever | `test_what_a_worker_raises_is_one_line_in_a_terminal`, `test_runners.test_what_the_user_can_mend_is_one_line_and_nothing_is_logged`, `test_runners.test_a_worker_process_that_is_killed_ends_the_pipeline` |
| the build is killed, the disk is full | half a dataset that looks like a whole one; a disk full of leftovers | `test_a_killed_build_publishes_nothing_and_can_be_repeated`, `test_a_build_killed_while_replacing_leaves_the_old_dataset`, `test_a_full_disk_publishes_nothing_and_can_be_repeated` |
| a second build into the same output | shards of two builds side by side, pages read twice | `test_a_rebuild_is_refused_or_replaces_everything` |
| two builds into one output, a build killed between its two renames, an output that cannot be written | one build lost without a word; neither the old nor the new dataset in its place | `format/test_outputs.test_an_output_that_appeared_meanwhile_is_kept`, `format/test_outputs.test_a_run_killed_while_replacing_costs_nothing`, `format/test_outputs.test_an_output_that_cannot_be_a_directory_is_one_line` |
| an output that is or holds the logs | the logs are gone, replaced by what was made of them | `test_the_logs_are_never_replaced`, `format/test_outputs.test_an_output_that_holds_what_is_read_is_refused` |
| no page at all | an empty dataset that trains an empty model | `test_pipeline.test_no_page_at_all_is_an_error` |
"""  # noqa: E501

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines import build
from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.format.page_reader import decode_page
from beam_pipelines.format.records import FEATURES, HISTORIES
from beam_pipelines.format.tfrecord import read_records
from beam_pipelines.shell.command import run_command

ROOT = Path(__file__).resolve().parents[2]
START = 1_767_225_600_000  # 2026-01-01
HOUR, DAY = 3_600_000, 86_400_000
ITEMS = tuple(f"i{n:02d}" for n in range(30))
SPLIT = ("--split-by-time", "2026-01-08,2026-01-16")


def impression(page, item, time=START, *, user="u0", position=0, clicked=False, **fields):
    row = {"page_id": page, "user_id": user, "item_id": item, "timestamp": time, "position": position}
    return {**row, "clicked": clicked, **fields}


def event(kind, item, time, *, user="u0"):
    return {"user_id": user, "item_id": item, "timestamp": time, "event": kind}


def random_rows(pages=60, users=8, seed=0):
    rng = random.Random(seed)
    impressions, events = [], []
    for page in range(pages):
        user, moment = f"u{rng.randrange(users)}", START + rng.randrange(17 * DAY)
        for position, item in enumerate(rng.sample(range(30), 4)):
            clicked = rng.random() < 0.3
            impressions.append(
                impression(f"p{page:05d}", f"i{item:02d}", moment, user=user, position=position, clicked=clicked)
            )
    for _ in range(2 * pages):
        kind, item = rng.choice(["click", "pay", "cart", "cart_remove"]), f"i{rng.randrange(30):02d}"
        events.append(event(kind, item, START + rng.randrange(17 * DAY), user=f"u{rng.randrange(users)}"))
    return impressions, events


def write_logs(directory, impressions, events=(), items=ITEMS):
    directory.mkdir()
    pq.write_table(pa.Table.from_pylist(impressions), directory / "impressions.parquet")
    if events:
        pq.write_table(pa.Table.from_pylist(events), directory / "events.parquet")
    columns = {name: [value] * len(items) for name, value in (("category", "c"), ("title", "t"), ("image", ""))}
    pq.write_table(pa.table({"item_id": items, **columns}), directory / "items.parquet")
    return directory


def command(logs, output, *options):
    return ["--logs", str(logs), "--output", str(output), *SPLIT, *options]


def files_of(dataset):
    return {p.relative_to(dataset).as_posix(): p.read_bytes() for p in sorted(dataset.rglob("*")) if p.is_file()}


def records_of(dataset):
    splits = Manifest.read(dataset).splits
    return {
        name: sorted(r for s in split.shards for r in read_records(dataset / s.path)) for name, split in splits.items()
    }


def pages_of(dataset, *page_ids):
    """Page ID to its features, with item IDs, of these pages; of all if none is named."""
    item_ids = np.array(pq.read_table(dataset / "items/items.parquet")["item_id"].to_pylist())
    pages = {}
    for record in (record for records in records_of(dataset).values() for record in records):
        if page_ids and not any(page_id.encode() in record for page_id in page_ids):
            continue
        page = decode_page(record)
        for name in ("item", *(f"{history}_item" for history in HISTORIES)):
            page[name] = item_ids[page[name]].tolist()
        pages[page["page_id"][0].decode()] = page
    return pages


def fails(arguments, capsys):
    """Runs a build that must fail; returns its one line."""
    with pytest.raises(SystemExit) as stop:
        run_command(build.main, arguments)
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write_logs(tmp_path_factory.mktemp("faults") / "logs", *random_rows())


@pytest.fixture(scope="module")
def dataset(logs):
    build.main(command(logs, logs.parent / "dataset"))
    return logs.parent / "dataset"


BAD_IMPRESSIONS = {
    "missing timestamp": {"timestamp": None},
    "timestamp out of range": {"timestamp": -1},
    "timestamp out of range (microseconds)": {"timestamp": 1000 * START},
    "missing page_id": {"page_id": None},
    "missing user_id": {"user_id": ""},
    "missing item_id": {"item_id": None},
    "invalid position": {"position": -1},
    "missing clicked": {"clicked": None},
}
BAD_EVENTS = {
    "invalid event": {"event": "wish"},
    "missing event": {"event": None},
    "missing user_id": {"user_id": None},
    "timestamp out of range": {"timestamp": -5},
}


def with_bad_rows(impressions, events):
    more = [{**impression("bad", "i00"), **change} for change in BAD_IMPRESSIONS.values()]
    return impressions + more, events + [{**event("click", "i00", START), **change} for change in BAD_EVENTS.values()]


def test_a_bad_row_is_a_dead_letter_and_the_rest_a_dataset(dataset, tmp_path):
    impressions, events = random_rows()
    logs = write_logs(tmp_path / "logs", *with_bad_rows(impressions, events))
    build.main(command(logs, tmp_path / "d", "--timestamp-unit", "milliseconds"))
    assert records_of(tmp_path / "d") == records_of(dataset)
    counters = Manifest.read(tmp_path / "d").counters
    for table, bad in (("impressions", BAD_IMPRESSIONS), ("events", BAD_EVENTS)):
        letters = [json.loads(line) for line in (tmp_path / f"d/dead_letters/{table}.jsonl").read_text().splitlines()]
        expected = sorted(reason.split(" (")[0] for reason in bad)
        assert sorted(letter["reason"] for letter in letters) == expected
        for reason in set(expected):
            assert counters[f"rejected.{table}.{reason}"] == expected.count(reason)
        assert len({letter["row_hash"] for letter in letters}) == len(bad)


def test_more_bad_rows_than_allowed_publish_nothing(tmp_path, capsys):
    impressions, events = random_rows()
    logs = write_logs(tmp_path / "logs", with_bad_rows(impressions, events)[0], events)
    options = ("--timestamp-unit", "milliseconds", "--max-bad-fraction", "0.03")
    assert "8 of 248 rows of impressions are bad (2 " in fails(command(logs, tmp_path / "d", *options), capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_file_delivered_twice_changes_no_page(dataset, tmp_path):
    logs = write_logs(tmp_path / "logs", *random_rows())
    rows = {}
    for name in ("impressions", "events"):
        once = logs / f"{name}.parquet"
        rows[name] = pq.read_metadata(once).num_rows
        (logs / name).mkdir()
        for delivery in ("monday", "tuesday"):
            (logs / name / f"{delivery}.parquet").write_bytes(once.read_bytes())
        once.unlink()
    build.main(command(logs, tmp_path / "d"))
    assert records_of(tmp_path / "d") == records_of(dataset)
    before, after = Manifest.read(dataset).counters, Manifest.read(tmp_path / "d").counters
    for name, count in rows.items():
        assert after[f"{name}.duplicate"] - before[f"{name}.duplicate"] == count


def test_a_column_that_gives_the_label_away_reaches_no_file(dataset, tmp_path):
    impressions, events = random_rows()
    canary = [{**row, "bought_later": f"canary {row['clicked']}"} for row in impressions]
    logs = write_logs(tmp_path / "logs", canary, events)
    build.main(command(logs, tmp_path / "d"))
    content, expected = files_of(tmp_path / "d"), files_of(dataset)
    content.pop("manifest.json")  # holds the digest of the input
    expected.pop("manifest.json")
    assert content == expected
    page = next(iter(pages_of(tmp_path / "d").values()))
    assert page.keys() == {feature.name for feature in FEATURES}


def test_clicks_are_attributed_late_or_rejected(tmp_path):
    noon = START + 9 * DAY + 12 * HOUR
    shown = [
        impression("morning", "i00", noon - 4 * HOUR),
        impression("noon", "i00", noon),
        impression("noon", "i01", noon, position=1),
        impression("noon", "i02", noon, position=2),
        impression("other", "i03", noon, user="u1"),
        impression("next week", "i04", noon + 7 * DAY),
    ]
    events = [
        event("click", "i00", noon + 1),  # in time: of the page at noon, not of the one in the morning
        event("click", "i01", noon + 3 * HOUR),  # late
        event("click", "i09", noon + 1),  # never shown
        event("click", "i03", noon + 1),  # shown to somebody else
        event("click", "i04", noon + 1),  # shown a week later
        event("pay", "i09", noon + 1),  # what is paid need not have been shown
    ]
    shown = [{name: value for name, value in row.items() if name != "clicked"} for row in shown]
    logs = write_logs(tmp_path / "logs", shown, events)
    build.main(command(logs, tmp_path / "d", "--attribute-clicks", "2", "--max-bad-fraction", "0.6"))
    pages = pages_of(tmp_path / "d")
    labels = {name: dict(zip(page["item"], page["clicked"].tolist(), strict=True)) for name, page in pages.items()}
    assert labels == {
        "morning": {"i00": 0},
        "noon": {"i00": 1, "i01": 0, "i02": 0},
        "other": {"i03": 0},
        "next week": {"i04": 0},
    }
    # A late click is no label, but the user has made it; the others have not happened as far as anyone can tell.
    later = pages["next week"]
    assert list(zip(later["click_item"], later["click_time"].tolist(), strict=True)) == [
        ("i01", noon + 3 * HOUR),
        ("i00", noon + 1),
    ]
    assert later["pay_item"] == ["i09"]
    counters = Manifest.read(tmp_path / "d").counters
    assert counters["clicks.attributed"] == counters["clicks.late"] == 1
    letters = [json.loads(line) for line in (tmp_path / "d/dead_letters/events.jsonl").read_text().splitlines()]
    assert sorted(letter["reason"] for letter in letters) == [
        "click before its impression",
        "click without impression",
        "click without impression",
    ]
    assert counters["rejected.events.click before its impression"] == 1
    assert counters["rejected.events.click without impression"] == 2


@pytest.mark.parametrize(("delay", "clicked"), [(0, 1), (HOUR // 2, 1), (HOUR // 2 + 1, 0)])
def test_the_attribution_window_ends_to_the_millisecond(tmp_path, delay, clicked):
    rows = [
        impression("p", "i00"),
        impression("p", "i01", position=1),
        impression("other", "i02", START + 1, user="u1"),
    ]
    logs = write_logs(tmp_path / "logs", rows, [event("click", "i01", START + delay)])
    build.main(command(logs, tmp_path / "d", "--attribute-clicks", "0.5"))
    assert pages_of(tmp_path / "d", "p")["p"]["clicked"].tolist() == [0, clicked]
    assert Manifest.read(tmp_path / "d").counters["clicks.late"] == 1 - clicked


def test_a_click_after_midnight_counts_from_the_day_after_it(tmp_path):
    midnight = START + 9 * DAY
    shown = [impression(f"day {n}", "i00", midnight + n * DAY, user=f"u{n + 1}") for n in range(3)]
    shown.append(impression("evening", "i00", midnight - HOUR // 2))
    logs = write_logs(tmp_path / "logs", shown, [event("click", "i00", midnight + HOUR // 2)])
    build.main(command(logs, tmp_path / "d", "--attribute-clicks", "2"))
    pages = pages_of(tmp_path / "d")
    assert pages["evening"]["clicked"].tolist() == [1]
    seen = [(pages[f"day {n}"]["impressions_7d"].tolist(), pages[f"day {n}"]["clicks_7d"].tolist()) for n in range(3)]
    assert seen == [([1], [0]), ([2], [1]), ([3], [1])]


def test_without_attribution_a_click_event_is_only_history(tmp_path, capsys):
    shown = [impression("p", "i00"), impression("later", "i01", START + DAY)]
    events = [event("click", "i00", START + 1), event("click", "i09", START + 2)]
    logs = write_logs(tmp_path / "logs", shown, events)
    build.main(command(logs, tmp_path / "d"))
    pages = pages_of(tmp_path / "d")
    assert [page["clicked"].tolist() for page in pages.values()] == [[0], [0]]
    assert pages["later"]["click_item"] == ["i09", "i00"]
    assert not [name for name in Manifest.read(tmp_path / "d").counters if name.startswith("rejected")]
    pq.write_table(pq.read_table(logs / "impressions.parquet").drop_columns("clicked"), logs / "impressions.parquet")
    assert "no column 'clicked'" in fails(command(logs, tmp_path / "e"), capsys)


def write_hot_user(directory, pages, candidates=20, items=5000, clicks_per_page=0.4):
    """Logs of one user with `pages * candidates` impressions, and of a few others."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    rows = pages * candidates
    item_ids = np.array([f"i{n:05d}" for n in range(items)])
    impressions = {
        "page_id": np.repeat([f"p{n:07d}" for n in range(pages)], candidates),
        "user_id": np.repeat(np.where(np.arange(pages) % 1000 == 0, "guest", "hot"), candidates),
        "item_id": item_ids[(np.arange(rows) * 7919 + rng.integers(items)) % items],
        "timestamp": np.repeat(START + np.arange(pages) * (17 * DAY // pages), candidates),
        "position": np.tile(np.arange(candidates), pages),
        "clicked": rng.random(rows) < clicks_per_page / candidates,
    }
    pq.write_table(pa.table(impressions), directory / "impressions.parquet", row_group_size=100_000)
    blank = [""] * items
    table = {"item_id": item_ids, "category": blank, "title": blank, "image": blank}
    pq.write_table(pa.table(table), directory / "items.parquet")
    return directory, impressions


def build_and_measure(logs, output):
    """Builds in a process of its own; returns its largest resident memory in MB."""
    code = (
        "import sys; from beam_pipelines import build; build.main(sys.argv[1:]); "
        "print('peak', *[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *command(logs, output)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(run.stdout.split("peak ")[1]) / 1024


def test_a_hot_user_fits_into_memory(tmp_path):
    logs, impressions = write_hot_user(tmp_path / "logs", pages=10_000, candidates=100)
    peak = build_and_measure(logs, tmp_path / "d")
    assert peak < 900
    mine = impressions["clicked"] & (impressions["user_id"] == "hot")
    times, items = impressions["timestamp"][mine][::-1], impressions["item_id"][mine][::-1]
    pages = pages_of(tmp_path / "d", "p0000002", "p0005001", "p0009999")
    assert [len(pages[name]["click_item"]) for name in sorted(pages)][-1] == HISTORIES["click"]
    for page in pages.values():
        newest = sorted(zip(-times, items, strict=True))  # of equal times by item
        expected = [(-time, item) for time, item in newest if -time < page["timestamp"][0]][: HISTORIES["click"]]
        assert list(zip(page["click_time"].tolist(), page["click_item"], strict=True)) == expected
    assert Manifest.read(tmp_path / "d").counters["history.click.cut_pages"] > 5000


def test_a_hot_user_has_the_same_pages_in_any_number_of_buckets(tmp_path):
    logs, _ = write_hot_user(tmp_path / "logs", pages=1500)
    for buckets in ("1", "7"):
        build.main(command(logs, tmp_path / buckets, "--page-buckets", buckets))
    assert records_of(tmp_path / "1") == records_of(tmp_path / "7")


def test_pages_at_the_edges(tmp_path):
    many = [impression("many", f"x{n:05d}", START + 9 * DAY, position=n, clicked=n == 9999) for n in range(10_000)]
    impressions = [impression("first", "i00", clicked=True), impression("one", "i01", START + 8 * DAY), *many]
    impressions.append(impression("stranger", "i02", START + 10 * DAY, user="never clicked"))
    write_logs(tmp_path / "logs", impressions, items=[*ITEMS, *(f"x{n:05d}" for n in range(10_000))])
    build.main(command(tmp_path / "logs", tmp_path / "d"))
    pages = pages_of(tmp_path / "d")
    for name in ("first", "stranger"):
        assert [len(pages[name][f"{history}_item"]) for history in HISTORIES] == [0, 0, 0]
    assert pages["one"]["item"] == ["i01"]
    assert pages["one"]["click_item"] == ["i00"]
    assert pages["many"]["item"] == [f"x{n:05d}" for n in range(1000)]  # the default of --max-candidates
    manifest = Manifest.read(tmp_path / "d")
    assert (manifest.max_candidates, manifest.counters["pages.candidates_cut"]) == (1000, 9000)
    assert pages["stranger"]["click_item"] == []
    build.main(command(tmp_path / "logs", tmp_path / "all", "--max-candidates", "10000"))
    whole = pages_of(tmp_path / "all")
    assert whole["many"]["item"] == [f"x{n:05d}" for n in range(10_000)]
    assert whole["many"]["clicked"].nonzero()[0].tolist() == [9999]


def test_histories_reach_back_to_the_millisecond(tmp_path):
    now = START + 16 * DAY
    pages = [impression("now", "i00", now), impression("clicked", "i05", now - 2 * DAY, clicked=True)]
    pages.append(impression("too old", "i06", now - 2 * DAY - 1, clicked=True))
    events = [event("click", "i01", now - 2 * DAY), event("click", "i02", now - 2 * DAY - 1)]
    events += [event("pay", "i01", now - 3 * DAY), event("pay", "i02", now - 3 * DAY - 1)]
    events += [event("cart", "i03", START - 3000 * DAY)]  # what lies in the cart has no age
    logs = write_logs(tmp_path / "logs", pages, events)
    build.main(command(logs, tmp_path / "d", "--click-days", "2", "--pay-days", "3"))
    page = pages_of(tmp_path / "d")["now"]
    assert page["click_item"] == ["i01", "i05"]
    assert page["pay_item"] == ["i01"]
    assert page["cart_item"] == ["i03"]


def truncated(logs):
    path = logs / "impressions.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    return "impressions.parquet cannot be read"


def hole_in_the_middle(logs):
    path = logs / "impressions.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] + content[len(content) // 2 :])
    return "impressions.parquet cannot be read"


def zero_bytes_in_a_folder(logs):
    (logs / "impressions").mkdir()
    (logs / "impressions.parquet").rename(logs / "impressions" / "1.parquet")
    (logs / "impressions" / "2.parquet").touch()
    return "impressions/2.parquet is empty (0 bytes)"


def empty_folder(logs):
    (logs / "impressions.parquet").unlink()
    (logs / "impressions").mkdir()
    return "logs/impressions: no data in it; files must end in .parquet, .csv"


def missing_column_in_one_file(logs):
    (logs / "impressions").mkdir()
    whole = pq.read_table(logs / "impressions.parquet")
    (logs / "impressions.parquet").rename(logs / "impressions" / "1.parquet")
    pq.write_table(whole.drop_columns("position"), logs / "impressions" / "2.parquet")
    return "impressions/2.parquet: no column 'position'"


def changed_type_in_one_file(logs):
    (logs / "impressions").mkdir()
    whole = pq.read_table(logs / "impressions.parquet")
    (logs / "impressions.parquet").rename(logs / "impressions" / "1.parquet")
    numbers = pa.array(np.arange(whole.num_rows) / 2)
    pq.write_table(
        whole.set_column(whole.column_names.index("item_id"), "item_id", numbers), logs / "impressions" / "2.parquet"
    )
    return "impressions/2.parquet: impressions.item_id has type double; store IDs as strings"


def column_of_another_kind_in_one_file(logs):
    (logs / "impressions").mkdir()
    whole = pq.read_table(logs / "impressions.parquet")
    (logs / "impressions.parquet").rename(logs / "impressions" / "1.parquet")
    query = pa.array([{"text": "red"}] * whole.num_rows)
    pq.write_table(whole.append_column("query", query), logs / "impressions" / "2.parquet")
    return "impressions/2.parquet: impressions.query has type struct"


def two_columns_of_one_name(logs):
    path = logs / "impressions.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole.append_column("position", whole["position"]), path)
    return "impressions.parquet: two columns are named 'position'"


BREAK = [
    truncated,
    hole_in_the_middle,
    zero_bytes_in_a_folder,
    empty_folder,
    missing_column_in_one_file,
    changed_type_in_one_file,
    column_of_another_kind_in_one_file,
    two_columns_of_one_name,
]


@pytest.mark.parametrize("change", BREAK)
def test_a_broken_input_is_named_and_publishes_nothing(tmp_path, capsys, change):
    logs = write_logs(tmp_path / "logs", *random_rows())
    message = change(logs)
    assert message in fails(command(logs, tmp_path / "d"), capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_what_a_worker_raises_is_one_line_in_a_terminal(tmp_path, mode):
    logs = write_logs(tmp_path / "logs", *random_rows())
    whole = pq.read_table(logs / "impressions.parquet")
    (logs / "impressions.parquet").unlink()
    # The driver does not read this column, and its type is no text.
    odd = whole.append_column("query", pa.array([{"text": "red"}] * whole.num_rows))
    pq.write_table(odd, logs / "impressions.parquet")
    arguments = command(logs, tmp_path / "d", f"--direct_running_mode={mode}", "--direct_num_workers=1")
    process = start(arguments)
    _, errors = process.communicate()
    assert process.returncode == 2
    told = [line for line in errors.replace("\r", "\n").splitlines() if line and "[00:0" not in line]
    assert len(told) == 1, errors
    assert told[0].startswith(f"error: {logs}/impressions.parquet: impressions.query has type struct")
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


@pytest.mark.parametrize(
    "line",
    [b"\xed\xa0\x80", b"\xff\xfe", b'{"page_id": "\xed\xa0\x80"}', b'{"page_id": "\\ud800"}', b"[" * 100_000],
    ids=["half a surrogate pair", "no UTF-8", "half a pair in a string", "half a pair, escaped", "too deep"],
)
def test_a_line_that_is_no_json_text_is_a_dead_letter(dataset, tmp_path, line):
    impressions, events = random_rows()
    logs = write_logs(tmp_path / "logs", impressions, events)
    (logs / "impressions.parquet").unlink()
    rows = [json.dumps(row).encode() for row in impressions]
    (logs / "impressions.jsonl").write_bytes(b"\n".join([*rows, line]))
    build.main(command(logs, tmp_path / "d"))
    assert records_of(tmp_path / "d") == records_of(dataset)
    reason = "not UTF-8" if line.endswith(b'\x80"}') else "malformed row"
    assert Manifest.read(tmp_path / "d").counters[f"rejected.impressions.{reason}"] == 1


@pytest.mark.parametrize("place", ["logs", "logs/impressions", ".", "logs/../logs"])
def test_the_logs_are_never_replaced(tmp_path, capsys, place):
    logs = write_logs(tmp_path / "logs", *random_rows())
    before = files_of(tmp_path)
    assert "which is read; choose another" in fails(command(logs, tmp_path / place, "--overwrite"), capsys)
    assert files_of(tmp_path) == before


@pytest.fixture(scope="module")
def long_logs(tmp_path_factory):
    """A log whose build takes long enough to be killed in the middle."""
    return write_logs(tmp_path_factory.mktemp("long") / "logs", *random_rows(pages=900, users=90))


LONG = ("--page-buckets", "60")


def start(arguments):
    command = [sys.executable, "-m", "beam_pipelines.build", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(pattern, process, directory):
    deadline = time.monotonic() + 120
    while not list(directory.glob(pattern)):
        assert process.poll() is None, "the build ended too early"
        assert time.monotonic() < deadline, "the build never wrote the file"
        time.sleep(0.002)


def kill_when(pattern, arguments, directory):
    """Starts a build and kills it as soon as a file of that name is there."""
    process = start(arguments)
    try:
        wait_for(pattern, process, directory)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("when", ["items/*", "pages/*.tfrecord"])
def test_a_killed_build_publishes_nothing_and_can_be_repeated(long_logs, tmp_path, when):
    arguments = command(long_logs, tmp_path / "d", *LONG)
    kill_when(f".d.incomplete-*/{when}", arguments, tmp_path)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".d.incomplete-")
    assert not (left / "manifest.json").exists()
    with pytest.raises(ArtifactError, match="is not a page dataset"):
        Manifest.read(left)
    build.main(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert not list((tmp_path / "d").rglob(".*"))
    listed = [shard for split in Manifest.read(tmp_path / "d").splits.values() for shard in split.shards]
    assert {shard.path for shard in listed} == {f"pages/{p.name}" for p in (tmp_path / "d/pages").iterdir()}


def test_a_build_killed_while_replacing_leaves_the_old_dataset(logs, long_logs, tmp_path):
    build.main(command(logs, tmp_path / "d"))
    old = files_of(tmp_path / "d")
    kill_when(".d.incomplete-*/pages/*.tfrecord", command(long_logs, tmp_path / "d", *LONG, "--overwrite"), tmp_path)
    assert files_of(tmp_path / "d") == old
    build.main(command(logs, tmp_path / "d", "--overwrite"))
    assert files_of(tmp_path / "d") == old
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_log_that_changes_under_the_build_publishes_nothing(long_logs, tmp_path):
    logs = shutil.copytree(long_logs, tmp_path / "logs")
    process = start(command(logs, tmp_path / "d", *LONG))
    wait_for(".d.incomplete-*/items/*", process, tmp_path)
    whole = pq.read_table(logs / "impressions.parquet")
    pq.write_table(whole.slice(0, 100), tmp_path / "shorter.parquet")
    (tmp_path / "shorter.parquet").rename(logs / "impressions.parquet")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "impressions.parquet changed while it was read" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


DISK = 'mount -t tmpfs -o size=100k disk "$0" || exit 77\nroom() { mount -o remount,size=100m "$0"; }\n'
FILE_SIZE = "ulimit -S -f 8\nroom() { ulimit -S -f unlimited; }\n"
FILL = """
"$@" > /dev/null 2> "$0.errors"
echo "full: $? [$(ls -A "$0")]"
room "$0"
"$@" > /dev/null 2> "$0.errors"
echo "room: $? [$(ls -A "$0")]"
"""


@pytest.mark.parametrize("limit", ["disk", "file size"])
def test_a_full_disk_publishes_nothing_and_can_be_repeated(long_logs, tmp_path, limit):
    """A file system of 100 kB in a mount namespace; where mounting is not allowed, files of at most 8 kB must do."""
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = [sys.executable, "-m", "beam_pipelines.build", *command(long_logs, disk / "d")]
    if limit == "disk":
        shell = ["unshare", "--map-root-user", "--mount", "bash", "-c", DISK + FILL]
    else:
        shell = ["bash", "-c", FILE_SIZE + FILL]
    try:
        run = subprocess.run([*shell, str(disk), *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"{shell[0]} is not installed")
    if limit == "disk" and "full: " not in run.stdout:
        pytest.skip(f"mounting is not allowed here: {run.stderr.strip()}")
    full, room = run.stdout.splitlines()
    assert full == "full: 2 []"
    assert room == "room: 0 [d]", (tmp_path / "disk.errors").read_text()


def test_a_rebuild_is_refused_or_replaces_everything(logs, dataset, tmp_path, capsys):
    output = tmp_path / "d"
    build.main(command(logs, output, "--page-buckets", "9"))
    before = files_of(output)
    line = fails(command(logs, output, "--page-buckets", "2"), capsys)
    assert f"{output} exists; pass --overwrite to replace it" in line
    assert files_of(output) == before
    build.main(command(logs, output, "--page-buckets", "2", "--overwrite"))
    assert {path.split("-of-")[1] for path in files_of(output) if path.startswith("pages/")} == {"00002.tfrecord"}
    assert len(before) > len(files_of(output))
    assert records_of(output) == records_of(dataset)
    assert os.listdir(tmp_path) == ["d"]
