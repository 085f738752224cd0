"""Whole builds: what is in a dataset, and what it depends on."""

import hashlib
import io
import json
import logging
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from beam_pipelines import BuildOptions, build_dataset, pipeline
from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.pages.rules import PageRules
from beam_pipelines.shell.progress import shown_progress
from tests.beam_pipelines.page_reference import comparable, decode_page, reference_pages
from tests.beam_pipelines.random_logs import DAY, SPLIT, START, items_table, picture, random_logs, write_logs

ROOT = Path(__file__).resolve().parents[2]


def build(logs, output, **options):
    return build_dataset(logs, output, BuildOptions(split_by_time=SPLIT, **options))


def fails(message, logs, output, **options):
    with pytest.raises(InputError, match=message):
        build(logs, output, **options)
    assert not output.exists()


def files_of(dataset):
    return {
        path.relative_to(dataset).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dataset.rglob("*"))
        if path.is_file()
    }


def test_every_page_equals_the_slow_reference(dataset, log_rows):
    manifest = Manifest.read(dataset)
    item_ids = pq.read_table(dataset / "items/items.parquet")["item_id"].to_pylist()
    user_ids = pq.read_table(dataset / "users/users.parquet")["user_id"].to_pylist()
    expected, _, _ = reference_pages(*log_rows)
    found = {}
    for name, split in manifest.splits.items():
        for shard in split.shards:
            records = list(tf.data.TFRecordDataset(str(dataset / shard.path)).as_numpy_iterator())
            assert len(records) == shard.records
            pages = dict(decode_page(record, item_ids, user_ids) for record in records)
            assert all(split.window.first <= page["time"] <= split.window.last for page in pages.values())
            found.update({page_id: (name, page) for page_id, page in pages.items()})
    assert len(found) == sum(split.pages for split in manifest.splits.values())

    def split_of(time):
        return "pretrain" if time < START + 7 * DAY else "train" if time < START + 15 * DAY else "test"

    assert found == {page_id: (split_of(page["time"]), comparable(page)) for page_id, page in expected.items()}


def test_the_manifest_says_what_is_there(dataset, logs, log_rows):
    manifest = Manifest.read(dataset)
    expected, _, _ = reference_pages(*log_rows)
    listed = [f for split in (*manifest.splits.values(), manifest.pretraining) for f in split.shards]
    listed += [manifest.items.file, manifest.users.file, manifest.images.index, *manifest.images.shards]
    manifest.verify(dataset, listed)
    assert {f.path for f in listed} | {"manifest.json"} == set(files_of(dataset))
    assert manifest.notice == "made up"
    assert [s.path for s in manifest.sources] == ["impressions.parquet", "events.parquet", "items.parquet"]
    assert manifest.max_candidates == max(len(page["candidates"]) for page in expected.values())
    for name in ("click", "pay", "cart"):
        assert manifest.counters[f"history.{name}.steps"] == sum(len(page[name]) for page in expected.values())
    clicks = sum(c["clicked"] for page in expected.values() for c in page["candidates"])
    assert sum(split.clicks for split in manifest.splits.values()) == clicks
    assert manifest.counters["rows.impressions"] == len(log_rows[0])
    assert manifest.counters["items.only_in_logs"] == 2
    assert manifest.counters["users.only_in_logs"] == 12


def test_tables_are_sorted_and_complete(dataset):
    items = pq.read_table(dataset / "items/items.parquet")
    assert items.column_names == [
        "item_id",
        "category",
        "title",
        "published_at",
        "stat_price",
        "cat_size",
        "label_style",
    ]
    assert items["item_id"].to_pylist() == [f"{n:03d}" for n in range(22)]
    assert items["title"].to_pylist() == [""] * 22
    assert items["published_at"].to_pylist() == [START] * 20 + [None] * 2
    assert items["stat_price"].type == pa.float64()
    np.testing.assert_array_equal(items["stat_price"].to_numpy(), [1.5] * 19 + [np.nan] * 3)
    assert items["cat_size"].to_pylist() == ["s"] * 20 + [""] * 2
    assert items["label_style"].to_pylist() == ["x"] * 20 + [""] * 2
    users = pq.read_table(dataset / "users/users.parquet")
    assert users["user_id"].to_pylist() == sorted(users["user_id"].to_pylist())


def test_each_picture_is_stored_once_and_found_by_item(dataset, logs):
    manifest = Manifest.read(dataset)
    index = pq.read_table(dataset / manifest.images.index.path).to_pylist()
    assert (manifest.images.stored, manifest.images.items_with_image) == (7, 19)
    assert manifest.images.missing == {"no image named": 3}
    assert len(index) == 22
    assert [(row["shard"], row["index"], row["sha256"]) for row in (index[0], index[20])] == [(-1, -1, "")] * 2
    assert index[1] == index[8] == index[15] != index[2]
    (shard,) = manifest.images.shards
    reader = ArrayRecordReader(str(dataset / shard.path))
    for n in range(1, 7):
        stored = Image.open(io.BytesIO(reader.read([index[n]["index"]])[0]))
        colour = (n * 60, 0, 0) if n < 4 else (0, 0, n * 30)
        np.testing.assert_allclose(np.asarray(stored)[20, 15], colour, atol=6)
        assert index[n]["sha256"] == hashlib.sha256(picture(colour)).hexdigest()


def test_bytes_do_not_depend_on_the_order_or_files_or_workers(dataset, logs, log_rows, tmp_path):
    build(logs, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(dataset)
    threads = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    build_dataset(logs, tmp_path / "threads", BuildOptions(split_by_time=SPLIT), beam_options=threads)
    assert files_of(tmp_path / "threads") == files_of(dataset)

    impressions, events = (random.Random(1).sample(rows, len(rows)) for rows in log_rows)
    shuffled = write_logs(tmp_path / "shuffled", impressions, events, folder_of=7)
    build(shuffled, tmp_path / "other")
    content, other = files_of(dataset), files_of(tmp_path / "other")
    content.pop("manifest.json")
    other.pop("manifest.json")
    assert content == other
    one, two = Manifest.read(dataset), Manifest.read(tmp_path / "other")
    assert one.model_copy(update={"sources": two.sources}) == two
    assert one.digest() != two.digest()


def test_number_of_buckets_changes_shards_but_not_pages(dataset, logs, tmp_path):
    build(logs, tmp_path / "one", page_buckets=1)

    def records(path, split):
        shards = [str(path / shard.path) for shard in Manifest.read(path).splits[split].shards]
        return sorted(tf.data.TFRecordDataset(shards).as_numpy_iterator())

    assert [len(split.shards) for split in Manifest.read(tmp_path / "one").splits.values()] == [1, 1, 1]
    for split in ("pretrain", "train", "test"):
        assert records(tmp_path / "one", split) == records(dataset, split)


def test_no_temporary_file_is_left(dataset):
    assert not [path for path in dataset.rglob(".*")]
    assert sorted(path.name for path in dataset.iterdir()) == [
        "images",
        "items",
        "manifest.json",
        "pages",
        "pretraining",
        "users",
    ]
    assert not list(dataset.parent.glob(f".{dataset.name}.*"))


def test_a_split_column_overrides_times_and_users_have_features(tmp_path):
    impressions, events = random_logs(pages=20)
    for row in impressions:
        row["split"] = ["pretrain", "train", "test"][int(row["page_id"][1:]) % 3]
    logs = write_logs(tmp_path / "logs", impressions, events)
    users = {"user_id": ["u03", "zz", "u03"], "stat_age": ["31", "?", "31"], "cat_city": ["Ulm", None, "Ulm"]}
    pa.csv.write_csv(pa.table(users), logs / "users.csv")
    fails(r"users has 'zz'; `min_joined` is 0.5", logs, tmp_path / "d", max_bad_fraction=0.5)
    manifest = build(logs, tmp_path / "d", min_joined=0, max_bad_fraction=0.5)
    assert manifest.joins["impressions.users"].joined_ids == 1
    assert {name: split.pages for name, split in manifest.splits.items()} == {"pretrain": 7, "train": 7, "test": 6}
    assert manifest.options["split_by_time"] is None
    rows = {row["user_id"]: row for row in pq.read_table(tmp_path / "d/users/users.parquet").to_pylist()}
    assert rows["u03"] == {"user_id": "u03", "stat_age": 31.0, "cat_city": "Ulm"}
    assert np.isnan(rows["zz"]["stat_age"])
    other = next(row["user_id"] for row in impressions if row["user_id"] != "u03")
    assert rows["zz"]["cat_city"] == rows[other]["cat_city"] == ""
    assert manifest.counters["users.duplicate"] == 1


def test_bad_rows_are_counted_by_reason_in_dead_letters(tmp_path):
    impressions, events = random_logs(pages=60)
    good, _, _ = reference_pages(impressions, events)
    for n, change in enumerate([{"timestamp": -1}, {"item_id": None}, {"position": -3}, {"position": -4}]):
        impressions.append({**impressions[n], **change})
    impressions += [
        {**impressions[0], "page_id": "shared", "user_id": "u00"},
        {**impressions[1], "page_id": "shared", "user_id": "u01"},
    ]
    events += [{**events[0], "event": "wish"}]
    logs = write_logs(tmp_path / "logs", impressions, events)
    build(logs, tmp_path / "d")
    counters = Manifest.read(tmp_path / "d").counters
    assert {name: count for name, count in counters.items() if name.startswith("rejected")} == {
        "rejected.events.invalid event": 1,
        "rejected.impressions.invalid position": 2,
        "rejected.impressions.timestamp out of range": 1,
        "rejected.impressions.missing item_id": 1,
        "rejected.impressions.page of several users": 2,
    }
    letters = (tmp_path / "d/dead_letters/impressions.jsonl").read_text().splitlines()
    assert letters == sorted(letters)
    assert [json.loads(line)["table"] for line in letters] == ["impressions"] * 6
    assert sum(split.pages for split in Manifest.read(tmp_path / "d").splits.values()) == len(good)


def counter_pages(users=3, days=6):
    """Rows of pages whose ID counts from 1 again every day; the users, if there are several, share the numbers."""
    return [
        {"page_id": str(page), "user_id": f"u{user}", "item_id": f"{(day + position) % 20:03d}"}
        | {"timestamp": START + day * DAY + page * 60_000, "position": position, "clicked": position == 0}
        for user in range(users)
        for day in range(days)
        for page in range(2)
        for position in range(3)
    ]


@pytest.mark.parametrize(("users", "what"), [(1, "again after more than 60 minutes"), (3, "by several users")])
def test_page_ids_that_count_from_1_again_are_refused_or_split(tmp_path, log_rows, users, what):
    logs = write_logs(tmp_path / "logs", counter_pages(users), log_rows[1])
    named = 2 * users
    found = rf"^impressions: {named} of {named} page IDs are used {what}.*'0' by the user .*; make page_id one for each"
    fails(found + r" page shown, or pass `split_reused_pages` \(`max_bad_fraction`", logs, tmp_path / "d")
    manifest = build(logs, tmp_path / "d", split_reused_pages=True)
    assert sum(split.pages for split in manifest.splits.values()) == 12 * users == manifest.counters["pages.split"]
    assert sum(split.clicks for split in manifest.splits.values()) == 12 * users
    assert manifest.counters["pages.of_several_users"] == (named if users > 1 else 0)
    assert not [name for name in manifest.counters if name.startswith("rejected.impressions")]
    moments = {(page["user"], page["time"]) for page in pages_of(tmp_path / "d").values()}
    assert moments == {(row["user_id"], row["timestamp"]) for row in counter_pages(users)}


def test_a_few_reused_page_ids_cost_their_rows_and_are_told(dataset, log_rows, tmp_path, capsys):
    impressions, events = log_rows
    again = [{**row, "page_id": "home", "user_id": "u00"} for row in impressions[:20]]
    logs = write_logs(tmp_path / "logs", [*impressions, *again], events)
    with shown_progress():
        manifest = build(logs, tmp_path / "d")
    rejected = {name: count for name, count in manifest.counters.items() if name.startswith("rejected.")}
    assert rejected == {"rejected.impressions.page ID used again after a pause": 20}
    assert (manifest.counters["pages.after_a_pause"], manifest.counters["pages.named"]) == (1, 121)
    assert pages_of(tmp_path / "d") == pages_of(dataset)
    told = capsys.readouterr().out
    assert "impressions: 1 of 121 page IDs are used again after more than 60 minutes" in told
    assert "; 20 rows rejected: make page_id one for each page shown" in told
    candidates = sum(split.impressions for split in manifest.splits.values())
    repeated = manifest.counters["impressions.duplicate"] + manifest.counters["impressions.conflicting"]
    assert manifest.counters["rows.impressions"] == candidates + repeated + 20
    conflicting = manifest.counters["impressions.conflicting"]
    assert f"impressions: {conflicting} rows repeat an item of their page with other values" in told


def test_of_conflicting_item_rows_the_last_one_counts(tmp_path, log_rows):
    titles = ["b", "a", "a"]
    for n, order in enumerate(([0, 1, 2], [2, 1, 0])):
        items = items_table()
        for name, column in items.items():
            extra = titles if name == "title" else [column[5]] * 3
            items[name] = [extra[i] for i in order] + [v for i, v in enumerate(column) if i != 5]
        logs = write_logs(tmp_path / f"logs{n}", *log_rows, items=items)
        build(logs, tmp_path / f"d{n}")
        manifest = Manifest.read(tmp_path / f"d{n}")
        assert (manifest.counters["items.duplicate"], manifest.counters["items.conflicting"]) == (2, 1)
        rows = pq.read_table(tmp_path / f"d{n}/items/items.parquet").to_pylist()
        assert [row["title"] for row in rows if row["item_id"] == items_table()["item_id"][5]] == ["ab"[n]]


def test_too_many_bad_rows_fail_the_build(tmp_path):
    impressions, events = random_logs(pages=20)
    for row in impressions[::5]:
        row["clicked"] = None
    logs = write_logs(tmp_path / "logs", impressions, events)
    message = (
        r"\d+ of \d+ rows of impressions are bad \(\d+ missing clicked\); e\.g\. impressions.parquet:1: no clicked; "
    )
    fails(message, logs, tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    build(logs, tmp_path / "d", max_bad_fraction=0.5)


def test_no_page_at_all_is_an_error(tmp_path, log_rows):
    row = {**log_rows[0][0], "timestamp": -1}
    logs = write_logs(tmp_path / "logs", [row], log_rows[1])
    fails("no page in 1 rows", logs, tmp_path / "d", max_bad_fraction=1, timestamp_unit="milliseconds")
    empty = pq.read_schema(logs / "impressions.parquet").empty_table()
    pq.write_table(empty, logs / "impressions.parquet")
    fails("no page in 0 rows of impressions", logs, tmp_path / "d", max_bad_fraction=1)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def bad_image_logs(tmp_path, log_rows):
    logs = write_logs(tmp_path / "logs", *log_rows)
    huge = io.BytesIO()
    Image.new("1", (8000, 8000)).save(huge, "PNG")
    files = {
        "10.png": picture("red", "PNG"),
        "11.png": picture("red", "PNG"),  # the same picture under another name
        "12.jpg": b"<html>404</html>",
        "13.jpg": picture("green")[:-300],
        "14.tif": picture("green", "TIFF"),
        "15.png": huge.getvalue(),
    }
    for name, content in files.items():
        (logs / "images" / name).write_bytes(content)
    items = items_table()
    names = ["../items.parquet", "nowhere.jpg", *files]
    items["image"] = names + items["image"][len(names) :]
    pq.write_table(pa.table(items), logs / "items.parquet")
    return logs


def test_bad_pictures_are_counted_and_their_items_kept(tmp_path, log_rows):
    logs = bad_image_logs(tmp_path, log_rows)
    fails(r"6 of 19 items with a picture are bad", logs, tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    build(logs, tmp_path / "d", max_bad_fraction=0.4)
    images = Manifest.read(tmp_path / "d").images
    assert images.missing == {
        "missing": 1,
        "no image named": 3,
        "not an image but HTML": 1,
        "outside images/": 1,
        "too many pixels": 1,
        "undecodable": 1,
        "unsupported TIFF": 1,
    }
    index = pq.read_table(tmp_path / "d" / images.index.path).to_pylist()
    assert index[17] == index[16] != index[15]  # 10.png and 11.png
    assert images.items_with_image == sum(row["shard"] >= 0 for row in index) == 13
    assert images.stored == len({row["sha256"] for row in index} - {""}) == images.shards[0].records


def test_pictures_in_several_shards(logs, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "IMAGES_PER_SHARD", 3)
    build(logs, tmp_path / "d", image_format="webp", image_side=16)
    images = Manifest.read(tmp_path / "d").images
    assert len(images.shards) > 1
    readers = [ArrayRecordReader(str(tmp_path / "d" / shard.path)) for shard in images.shards]
    assert [reader.num_records() for reader in readers] == [shard.records for shard in images.shards]
    for row in pq.read_table(tmp_path / "d" / images.index.path).to_pylist()[1:7]:
        stored = Image.open(io.BytesIO(readers[row["shard"]].read([row["index"]])[0]))
        assert (stored.format, stored.size) == ("WEBP", (16, 21))


def test_logs_without_pictures(tmp_path, log_rows):
    logs = write_logs(tmp_path / "logs", *log_rows)
    for path in (logs / "images").iterdir():
        path.unlink()
    (logs / "images").rmdir()
    fails(r"items.image names 7 pictures such as '0.jpg', but there is no directory \S+/images;", logs, tmp_path / "d")
    items = items_table()
    pq.write_table(pa.table({**items, "image": [""] * 20}), logs / "items.parquet")
    build(logs, tmp_path / "d")
    assert Manifest.read(tmp_path / "d").images is None


def test_a_notice_that_cannot_be_read(tmp_path, log_rows):
    logs = write_logs(tmp_path / "logs", *log_rows)
    for text in ("{", "[]", '{"note": "x"}'):
        (logs / "logs.json").write_text(text)
        fails(r"logs.json must be \{\"notice\"", logs, tmp_path / "d")


def test_a_file_that_breaks_in_a_worker_is_named(tmp_path, log_rows):
    logs = write_logs(tmp_path / "logs", *log_rows)
    path = logs / "impressions.parquet"
    column = pq.read_metadata(path).row_group(0).column(7)  # dwell_seconds: the driver does not read it
    assert column.path_in_schema == "dwell_seconds"
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset : column.data_page_offset + 10] = b"\xff" * (
        column.data_page_offset + 10 - column.dictionary_page_offset
    )
    path.write_bytes(content)
    fails("impressions.parquet cannot be read", logs, tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def ids_of(dataset, name):
    return pq.read_table(dataset / f"{name}s/{name}s.parquet")[f"{name}_id"].to_pylist()


def pages_of(dataset):
    """Page ID to what the record holds, with IDs for rows."""
    ids = ids_of(dataset, "item"), ids_of(dataset, "user")
    shards = [str(dataset / shard.path) for split in Manifest.read(dataset).splits.values() for shard in split.shards]
    return dict(decode_page(record, *ids) for record in tf.data.TFRecordDataset(shards).as_numpy_iterator())


def test_rows_of_a_previous_dataset_keep_their_numbers(tmp_path, log_rows):
    impressions, events = log_rows
    day = START + 10 * DAY
    earlier = [r for r in impressions if r["timestamp"] < day and r["item_id"] > "003" and r["user_id"] != "u00"]
    first = write_logs(
        tmp_path / "first",
        earlier,
        [e for e in events if e["user_id"] != "u00"][:9],
        items={k: v[:16] for k, v in items_table().items()},
    )
    build(first, tmp_path / "one")
    new_items = {k: v[4:] for k, v in items_table().items()}  # without four of the first logs' items
    second = write_logs(tmp_path / "second", impressions, events, items=new_items)
    options = BuildOptions(split_by_time=SPLIT)
    build_dataset(second, tmp_path / "two", options, previous=tmp_path / "one")
    build(second, tmp_path / "fresh")
    for name in ("item", "user"):
        before, after = ids_of(tmp_path / "one", name), ids_of(tmp_path / "two", name)
        assert after[: len(before)] == before
        assert after[len(before) :] == sorted(set(ids_of(tmp_path / "fresh", name)) - set(before)) != []
    assert after != sorted(after)
    manifest = Manifest.read(tmp_path / "two")
    gone = set(ids_of(tmp_path / "one", "item")) - set(new_items["item_id"])
    assert manifest.counters["items.only_in_previous"] == len(gone) > 4
    assert manifest.options["previous"] == Manifest.read(tmp_path / "one").digest()
    items = {row["item_id"]: row for row in pq.read_table(tmp_path / "two/items/items.parquet").to_pylist()}
    assert items["019"]["category"] == "c"  # only the first logs described it
    # Pages are the same, whatever the numbers of rows; ties of position or time are in the order of rows.
    one, other = pages_of(tmp_path / "two"), pages_of(tmp_path / "fresh")

    def unordered(page):
        return {k: sorted(map(str, v)) if isinstance(v, list) else v for k, v in page.items() if k != "query"}

    assert {k: unordered(v) for k, v in one.items()} == {k: unordered(v) for k, v in other.items()}
    shutil.rmtree(tmp_path / "two")
    (tmp_path / "one/items/items.parquet").write_bytes(b"another")
    with pytest.raises(ArtifactError, match=r"items.parquet is not the file"):
        build_dataset(second, tmp_path / "two", options, previous=tmp_path / "one")
    with pytest.raises(InputError, match="`previous`: no directory"):
        build_dataset(second, tmp_path / "two", options, previous=tmp_path / "none")
    assert not (tmp_path / "two").exists()


def test_a_canary_equal_to_the_label_reaches_nothing(dataset, logs, log_rows, tmp_path):
    impressions, events = log_rows
    of_item = {row["item_id"]: row["clicked"] for row in impressions}
    canaries = {"stat_canary": [float(of_item.get(item, 0)) for item in items_table()["item_id"]]}
    with_canary = [{**row, "canary": int(row["clicked"]), "stat_clicked": float(row["clicked"])} for row in impressions]
    other = write_logs(tmp_path / "logs", with_canary, [{**e, "canary": 1} for e in events], items_table() | canaries)
    build(other, tmp_path / "d")
    content, found = files_of(dataset), files_of(tmp_path / "d")
    differing = {name for name in content | found if content.get(name) != found.get(name)}
    # Impressions have no columns beyond the contract's; a statistic of an item is the item's, on whatever page.
    assert differing == {"manifest.json", "items/items.parquet"}


def test_train_pages_are_sampled_and_the_rate_is_told(dataset, logs, tmp_path):
    build(logs, tmp_path / "d", train_negatives=0.3)
    whole, sampled = Manifest.read(dataset).splits, Manifest.read(tmp_path / "d").splits
    assert {name: split.negative_rate for name, split in sampled.items()} == {
        "pretrain": 1.0,
        "train": 0.3,
        "test": 1.0,
    }
    assert sampled["train"].clicks == whole["train"].clicks
    assert (
        0.1
        < (sampled["train"].impressions - sampled["train"].clicks)
        / (whole["train"].impressions - whole["train"].clicks)
        < 0.5
    )
    assert (sampled["pretrain"], sampled["test"]) == (whole["pretrain"], whole["test"])


def view_of(dataset):
    view = Manifest.read(dataset).pretraining
    ids = ids_of(dataset, "item"), ids_of(dataset, "user")
    records = tf.data.TFRecordDataset([str(dataset / shard.path) for shard in view.shards]).as_numpy_iterator()
    return view, dict(decode_page(record, *ids) for record in records)


def test_the_view_for_pre_training(dataset, log_rows):
    view, pages = view_of(dataset)
    manifest = Manifest.read(dataset)
    whole, clicks, _ = reference_pages(*log_rows)
    assert (view.kind, view.negative_rate, view.max_candidates, view.max_clicks, view.categories) == (
        ("page", 0.2, 5, 5, [])
    )
    assert view.pages == len(pages) == sum(view.history_lengths["click"])
    assert view.window.last < START + 7 * DAY
    with_picture = {item for item, image in zip(items_table()["item_id"], items_table()["image"], strict=True) if image}
    for page_id, page in pages.items():
        same = [(c["item_id"], c["clicked"]) for c in whole[page_id]["candidates"] if c["item_id"] in with_picture]
        shown = [(c["item_id"], c["clicked"]) for c in page["candidates"]]
        assert set(shown) <= set(same)
        assert [item for item, clicked in shown if clicked] == [item for item, clicked in same if clicked][:5] != []
        assert shown == sorted(shown, key=lambda row: not row[1])
        history = [(t, i) for u, t, i in clicks if u == page["user"] and t < page["time"] and i in with_picture]
        assert page["click"] == sorted(history, key=lambda step: (-step[0], step[1]))[:5] != []
    counters = {name: count for name, count in manifest.counters.items() if name.startswith("pretraining.")}
    assert counters["pretraining.pages"] == manifest.splits["pretrain"].pages
    left = counters["pretraining.pages"] - counters["pretraining.without_history"]
    assert left - counters["pretraining.without_positive"] == view.pages


def test_the_causal_view_and_its_categories(logs, log_rows, tmp_path):
    items = items_table() | {"category": ["c" if n % 2 else "d" for n in range(20)]}
    other = write_logs(tmp_path / "logs", *log_rows, items=items)
    build(other, tmp_path / "d", pretraining_view="causal", pretraining_categories=["d"])
    view, pages = view_of(tmp_path / "d")
    wanted = {
        item
        for item, image, category in zip(*(items[name] for name in ("item_id", "image", "category")), strict=True)
        if image and category == "d"
    }
    _, clicks, _ = reference_pages(*log_rows)
    clicks = [click for click in clicks if click[2] in wanted]
    first = {user: min(t for u, t, _ in clicks if u == user) for user, _, _ in clicks}
    targets = [(page["user"], page["time"], c["item_id"]) for page in pages.values() for c in page["candidates"]]
    end = START + 7 * DAY
    assert sorted(targets) == sorted(c for c in clicks if first[c[0]] < c[1] < end) != []
    assert all(page["click"] and page["click"][0][0] < page["time"] for page in pages.values())
    assert (view.kind, view.categories, view.clicks) == ("causal", ["d"], len(targets))
    message = "`pretraining_categories`: no item has the category 'e'"
    fails(message, other, tmp_path / "e", pretraining_view="causal", pretraining_categories=["e"])
    assert not (tmp_path / "e").exists()


def test_clicks_may_come_from_events_alone(tmp_path, log_rows):
    impressions, _ = log_rows
    clicks = [
        {"user_id": row["user_id"], "item_id": row["item_id"], "timestamp": row["timestamp"] + 5, "event": "click"}
        for row in impressions
        if row["clicked"]
    ]
    unlabelled = [{name: value for name, value in row.items() if name != "clicked"} for row in impressions]
    logs = write_logs(tmp_path / "logs", unlabelled, clicks)
    fails("no column 'clicked'", logs, tmp_path / "d")
    build(logs, tmp_path / "d", attribute_clicks=0.5)
    expected, _, orphans = reference_pages(unlabelled, clicks, PageRules(split_times=(0, 0), attribution_hours=0.5))
    assert pages_of(tmp_path / "d") == {page_id: comparable(page) for page_id, page in expected.items()}
    manifest = Manifest.read(tmp_path / "d")
    assert orphans == []
    assert manifest.counters["clicks.attributed"] + manifest.counters["clicks.late"] == len({*map(str, clicks)})
    assert manifest.options["attribute_clicks"] == 0.5


def test_the_output_must_not_lie_in_the_logs(logs):
    fails(r"^`output`: .* is inside .*, which is read; choose another place", logs, logs / "dataset")


def test_an_existing_output_is_kept_unless_it_is_to_be_replaced(dataset, logs, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").touch()
    with pytest.raises(ArtifactError, match="exists; pass `overwrite=True` to replace it"):
        build(logs, tmp_path / "d")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["mine"]
    manifest = build_dataset(logs, str(tmp_path / "d"), BuildOptions(split_by_time=SPLIT), overwrite=True)
    assert manifest == Manifest.read(tmp_path / "d") == Manifest.read(dataset)


def test_a_build_prints_nothing_and_leaves_loggers_alone(logs, tmp_path, capsys):
    root, beam = logging.getLogger(), logging.getLogger("apache_beam")
    before = list(root.filters), list(root.handlers), root.level, list(beam.filters), beam.level
    build(logs, tmp_path / "d")
    assert (list(root.filters), list(root.handlers), root.level, list(beam.filters), beam.level) == before
    assert capsys.readouterr() == ("", "")


def test_a_script_that_builds_keeps_its_logging(logs, tmp_path):
    code = f"""
import logging, sys
root = logging.getLogger()
before = list(root.filters), list(root.handlers), root.level
from beam_pipelines import BuildOptions, build_dataset
build_dataset({str(logs)!r}, {str(tmp_path / "d")!r}, BuildOptions(split_by_time={SPLIT}))
assert (list(root.filters), list(root.handlers), root.level) == before
assert logging.getLogger("apache_beam").level == logging.NOTSET
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("runner", ["NoRunner", "collections.Counter"])
def test_a_runner_that_beam_does_not_have(logs, tmp_path, runner):
    with pytest.raises(InputError, match=r"^`runner`: "):
        build_dataset(logs, tmp_path / "d", BuildOptions(split_by_time=SPLIT), runner=runner)
    assert list(tmp_path.iterdir()) == []
