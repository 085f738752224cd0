import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from beam_pipelines import build
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.pages.rules import PageRules
from beam_pipelines.shell.command import CommandError, run_command
from tests.beam_pipelines.page_reference import comparable, decode_page, reference_pages

DAY = 86_400_000
START = 1_767_225_600_000  # 2026-01-01
SPLIT = ["--split-by-time", "2026-01-08,2026-01-16"]


def picture(colour, format="JPEG", size=(30, 40)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format)
    return out.getvalue()


def random_logs(seed=0, pages=120, users=12, items=20):
    rng = random.Random(seed)
    impressions, events = [], []
    for page in range(pages):
        user, time = f"u{rng.randrange(users):02d}", START + rng.randrange(17 * DAY)
        for position in range(rng.randrange(1, 6)):
            impressions.append(
                {
                    "page_id": f"p{page:04d}",
                    "user_id": user,
                    "item_id": f"{rng.randrange(items):03d}",
                    "timestamp": time + rng.randrange(3),
                    "position": position,
                    "clicked": rng.random() < 0.4,
                    "converted": rng.random() < 0.1,
                    "dwell_seconds": rng.choice([0.0, 2.5]),
                    "query": rng.choice(["", "rot", "blau"]),
                }
            )
    for _ in range(300):
        impression = rng.choice(impressions)
        time = rng.choice([impression["timestamp"], START + rng.randrange(17 * DAY)])
        kind = rng.choice(["click", "pay", "cart", "cart_remove"])
        item = f"{rng.randrange(items + 2):03d}"  # two of them are in no items table
        events.append({"user_id": impression["user_id"], "item_id": item, "timestamp": time, "event": kind})
    return impressions, events


def items_table(items=20):
    return {
        "item_id": [f"{n:03d}" for n in reversed(range(items))],
        "category": ["c"] * items,
        "title": [None] * items,
        "image": ["" if n == 0 else f"{n % 7}.jpg" for n in reversed(range(items))],
        "published_at": [START] * items,
        "stat_price": [None] + [1.5] * (items - 1),
        "cat_size": ["s"] * items,
        "label_style": ["x"] * items,
    }


def write_logs(directory, impressions, events, items=None, folder_of=1):
    """Writes logs; with `folder_of` > 1 the large tables are split into that many files."""
    (directory / "images").mkdir(parents=True)
    for name, rows in (("impressions", impressions), ("events", events)):
        if folder_of == 1:
            pq.write_table(pa.Table.from_pylist(rows), directory / f"{name}.parquet", row_group_size=100)
        else:
            (directory / name).mkdir()
            for n in range(folder_of):
                pa.csv.write_csv(pa.Table.from_pylist(rows[n::folder_of]), directory / name / f"{n}.csv")
    pq.write_table(pa.table(items or items_table()), directory / "items.parquet")
    with zipfile.ZipFile(directory / "images" / "0.zip", "w") as archive:
        for n in range(4):
            archive.writestr(f"{n}.jpg", picture((n * 60, 0, 0)))
    for n in range(4, 7):
        (directory / "images" / f"{n}.jpg").write_bytes(picture((0, 0, n * 30)))
    (directory / "logs.json").write_text('{"notice": "made up"}')
    return directory


@pytest.fixture(scope="module")
def log_rows():
    return random_logs()


@pytest.fixture(scope="module")
def logs(tmp_path_factory, log_rows):
    return write_logs(tmp_path_factory.mktemp("logs") / "logs", *log_rows)


@pytest.fixture(scope="module")
def dataset(logs):
    output = logs.parent / "dataset"
    build.main(["--logs", str(logs), "--output", str(output), *SPLIT])
    return output


def files_of(dataset):
    return {
        path.relative_to(dataset).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dataset.rglob("*"))
        if path.is_file()
    }


def fails(message, *arguments):
    with pytest.raises(CommandError, match=message):
        build.main([str(a) for a in arguments])


def exit_code(*arguments):
    with pytest.raises(SystemExit) as stop:
        run_command(build.main, [str(a) for a in arguments])
    return stop.value.code


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
    command = ["--logs", str(logs), *SPLIT]
    build.main([*command, "--output", str(tmp_path / "again")])
    assert files_of(tmp_path / "again") == files_of(dataset)
    threads = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    build.main([*command, "--output", str(tmp_path / "threads"), *threads])
    assert files_of(tmp_path / "threads") == files_of(dataset)

    impressions, events = (random.Random(1).sample(rows, len(rows)) for rows in log_rows)
    shuffled = write_logs(tmp_path / "shuffled", impressions, events, folder_of=7)
    build.main(["--logs", str(shuffled), *SPLIT, "--output", str(tmp_path / "other")])
    content, other = files_of(dataset), files_of(tmp_path / "other")
    content.pop("manifest.json")
    other.pop("manifest.json")
    assert content == other
    one, two = Manifest.read(dataset), Manifest.read(tmp_path / "other")
    assert one.model_copy(update={"sources": two.sources}) == two
    assert one.digest() != two.digest()


def test_number_of_buckets_changes_shards_but_not_pages(dataset, logs, tmp_path):
    build.main(["--logs", str(logs), *SPLIT, "--output", str(tmp_path / "one"), "--page-buckets", "1"])

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
    assert sorted(path.name for path in dataset.parent.iterdir()) == ["dataset", "logs"]


def test_a_split_column_overrides_times_and_users_have_features(tmp_path, capsys):
    impressions, events = random_logs(pages=20)
    for row in impressions:
        row["split"] = ["pretrain", "train", "test"][int(row["page_id"][1:]) % 3]
    logs = write_logs(tmp_path / "logs", impressions, events)
    users = {"user_id": ["u03", "zz", "u03"], "stat_age": ["31", "?", "31"], "cat_city": ["Ulm", None, "Ulm"]}
    pa.csv.write_csv(pa.table(users), logs / "users.csv")
    closing = build.main(["--logs", str(logs), "--output", str(tmp_path / "d"), *SPLIT])
    manifest = Manifest.read(tmp_path / "d")
    assert {name: split.pages for name, split in manifest.splits.items()} == {"pretrain": 7, "train": 7, "test": 6}
    assert manifest.options["split_by_time"] is None
    assert "pages 7 pretrain, 7 train, 6 test; 7 pictures; 0 rejected rows" in closing
    printed = capsys.readouterr().out
    assert "running on FnApiRunner" in printed
    assert "timestamp unit: milliseconds (detected" in printed
    assert "made up" in printed
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
    build.main(["--logs", str(logs), "--output", str(tmp_path / "d"), *SPLIT])
    counters = Manifest.read(tmp_path / "d").counters
    assert {name: count for name, count in counters.items() if name.startswith("rejected")} == {
        "rejected.events.invalid event": 1,
        "rejected.impressions.invalid position": 2,
        "rejected.impressions.invalid timestamp": 1,
        "rejected.impressions.missing item_id": 1,
        "rejected.impressions.page of several users": 2,
    }
    letters = (tmp_path / "d/dead_letters/impressions.jsonl").read_text().splitlines()
    assert letters == sorted(letters)
    assert [json.loads(line)["table"] for line in letters] == ["impressions"] * 6
    assert sum(split.pages for split in Manifest.read(tmp_path / "d").splits.values()) == len(good)


def test_of_conflicting_item_rows_one_is_kept_whatever_their_order(tmp_path, log_rows):
    titles = ["b", "a", "a"]
    for n, order in enumerate(([0, 1, 2], [2, 1, 0])):
        items = items_table()
        for name, column in items.items():
            extra = titles if name == "title" else [column[5]] * 3
            items[name] = [extra[i] for i in order] + [v for i, v in enumerate(column) if i != 5]
        logs = write_logs(tmp_path / f"logs{n}", *log_rows, items=items)
        build.main(["--logs", str(logs), "--output", str(tmp_path / f"d{n}"), *SPLIT])
        manifest = Manifest.read(tmp_path / f"d{n}")
        assert (manifest.counters["items.duplicate"], manifest.counters["items.conflicting"]) == (1, 1)
        rows = pq.read_table(tmp_path / f"d{n}/items/items.parquet").to_pylist()
        assert [row["title"] for row in rows if row["item_id"] == items_table()["item_id"][5]] == ["a"]


def test_too_many_bad_rows_fail_the_build(tmp_path):
    impressions, events = random_logs(pages=20)
    for row in impressions[::5]:
        row["clicked"] = None
    logs = write_logs(tmp_path / "logs", impressions, events)
    command = ["--logs", logs, "--output", tmp_path / "d", *SPLIT]
    fails(r"\d+ of \d+ rows of impressions are bad \(\d+ missing clicked\); --max-bad-fraction allows 0.1", *command)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    build.main([*map(str, command), "--max-bad-fraction", "0.5"])


def test_no_page_at_all_is_an_error(tmp_path, log_rows):
    row = {**log_rows[0][0], "timestamp": -1}
    logs = write_logs(tmp_path / "logs", [row], log_rows[1])
    command = ["--logs", logs, "--output", tmp_path / "d", *SPLIT, "--max-bad-fraction", "1"]
    fails("no page in 1 rows of impressions", *command, "--timestamp-unit", "milliseconds")
    empty = pq.read_schema(logs / "impressions.parquet").empty_table()
    pq.write_table(empty, logs / "impressions.parquet")
    fails("no page in 0 rows of impressions", *command)
    assert exit_code(*command) == 2
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
    command = ["--logs", logs, "--output", tmp_path / "d", *SPLIT]
    fails(r"6 of 19 items with a picture are bad", *command)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    build.main([*map(str, command), "--max-bad-fraction", "0.4"])
    images = Manifest.read(tmp_path / "d").images
    assert images.missing == {
        "missing": 1,
        "no image named": 3,
        "not an image": 2,
        "outside images/": 1,
        "too many pixels": 1,
        "undecodable": 1,
    }
    index = pq.read_table(tmp_path / "d" / images.index.path).to_pylist()
    assert index[17] == index[16] != index[15]  # 10.png and 11.png
    assert images.items_with_image == sum(row["shard"] >= 0 for row in index) == 13
    assert images.stored == len({row["sha256"] for row in index} - {""}) == images.shards[0].records


def test_pictures_in_several_shards(logs, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "IMAGES_PER_SHARD", 3)
    command = ["--logs", str(logs), "--output", str(tmp_path / "d"), *SPLIT]
    build.main([*command, "--image-format", "webp", "--image-side", "16"])
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
    fails(
        r"items.image names 7 pictures, but there is no directory images/",
        "--logs",
        logs,
        *SPLIT,
        "--output",
        tmp_path / "d",
    )
    items = items_table()
    pq.write_table(pa.table({**items, "image": [""] * 20}), logs / "items.parquet")
    build.main(["--logs", str(logs), "--output", str(tmp_path / "d"), *SPLIT])
    assert Manifest.read(tmp_path / "d").images is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foo=1", *SPLIT], "unknown option --foo"),
        (["--split_by_time=1,2", *SPLIT], "unknown option --split_by_time"),
        (["stray", *SPLIT], "unknown argument 'stray'"),
        (["-x", *SPLIT], "unknown argument '-x'"),
        (["--runner", "NoRunner", *SPLIT], "--runner: Beam has no runner 'NoRunner'"),
        ([], "pages belong to no split: pass --split-by-time PRETRAIN_END,TRAIN_END, or add a column `split`"),
        (["--split-by-time", "2026-01-08"], "--split-by-time must be two moments"),
        (["--split-by-time", "2026-01-08,soon"], "--split-by-time must be two moments"),
        (["--split-by-time", "2026-01-08,2026-01-01"], "the earlier first"),
        (["--image-side", "0", *SPLIT], "--image-side must be at least 1"),
        (["--page-buckets", "0", *SPLIT], "--page-buckets must be at least 1"),
        (["--click-days", "0", *SPLIT], "--click-days must be at least 1"),
        (["--train-negatives", "1.5", *SPLIT], "--train-negatives must be between 0 and 1"),
        (["--attribute-clicks", "-1", *SPLIT], "--attribute-clicks must be a number of hours"),
        (["--pretraining-view", "causal"], "causal needs --split-by-time"),
        (["--max-bad-fraction", "7", *SPLIT], "--max-bad-fraction must be between 0 and 1"),
        (["--columns", "items.x=y", *SPLIT], "items has no column 'x'"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(logs, tmp_path, arguments, message):
    fails(message, "--logs", logs, "--output", tmp_path / "d", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept_without_overwrite(logs, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").touch()
    command = ["--logs", str(logs), "--output", str(tmp_path / "d"), *SPLIT]
    fails("exists; pass --overwrite", *command)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["mine"]
    build.main([*command, "--overwrite"])
    assert not (tmp_path / "d" / "mine").exists()


def test_missing_logs_and_tables(tmp_path, log_rows):
    fails("--logs: no directory", "--logs", tmp_path / "none", "--output", tmp_path / "d", *SPLIT)
    logs = write_logs(tmp_path / "logs", *log_rows)
    (logs / "items.parquet").unlink()
    assert exit_code("--logs", logs, "--output", tmp_path / "d", *SPLIT) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_notice_that_cannot_be_read(tmp_path, log_rows):
    logs = write_logs(tmp_path / "logs", *log_rows)
    for text in ("{", "[]", '{"note": "x"}'):
        (logs / "logs.json").write_text(text)
        fails(r"logs.json must be \{\"notice\"", "--logs", logs, "--output", tmp_path / "d", *SPLIT)


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
    fails("impressions.parquet cannot be read", "--logs", logs, "--output", tmp_path / "d", *SPLIT)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_the_module_runs_bare_on_the_simulated_sample(tmp_path):
    """The command exactly as it is documented, from an empty directory; and workers import no TensorFlow."""
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys; from beam_pipelines import build; sys.argv = ['build', '--runner=DirectRunner']; "
        "print(build.main()); assert 'tensorflow' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "artifacts/sample_logs does not exist: simulating the sample first" in run.stdout
    assert "in artifacts/dataset" in run.stdout
    assert "Traceback" not in run.stderr
    assert "WARNING" not in run.stderr
    assert Manifest.read(tmp_path / "artifacts/dataset").notice


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
    build.main(["--logs", str(first), "--output", str(tmp_path / "one"), *SPLIT])
    new_items = {k: v[4:] for k, v in items_table().items()}  # without four of the first logs' items
    second = write_logs(tmp_path / "second", impressions, events, items=new_items)
    command = ["--logs", str(second), *SPLIT, "--output"]
    build.main([*command, str(tmp_path / "two"), "--previous", str(tmp_path / "one")])
    build.main([*command, str(tmp_path / "fresh")])
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
    fails("items.parquet is not the file", *command, tmp_path / "two", "--previous", tmp_path / "one")
    fails("--previous: no directory", *command, tmp_path / "two", "--previous", tmp_path / "none")
    assert not (tmp_path / "two").exists()


def test_a_canary_equal_to_the_label_reaches_nothing(dataset, logs, log_rows, tmp_path):
    impressions, events = log_rows
    of_item = {row["item_id"]: row["clicked"] for row in impressions}
    canaries = {"stat_canary": [float(of_item.get(item, 0)) for item in items_table()["item_id"]]}
    with_canary = [{**row, "canary": int(row["clicked"]), "stat_clicked": float(row["clicked"])} for row in impressions]
    other = write_logs(tmp_path / "logs", with_canary, [{**e, "canary": 1} for e in events], items_table() | canaries)
    build.main(["--logs", str(other), *SPLIT, "--output", str(tmp_path / "d")])
    content, found = files_of(dataset), files_of(tmp_path / "d")
    differing = {name for name in content | found if content.get(name) != found.get(name)}
    # Impressions have no columns beyond the contract's; a statistic of an item is the item's, on whatever page.
    assert differing == {"manifest.json", "items/items.parquet"}


def test_train_pages_are_sampled_and_the_rate_is_told(dataset, logs, tmp_path):
    build.main(["--logs", str(logs), *SPLIT, "--output", str(tmp_path / "d"), "--train-negatives", "0.3"])
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
    command = ["--logs", str(other), *SPLIT, "--pretraining-view", "causal", "--pretraining-categories"]
    build.main([*command, "d", "--output", str(tmp_path / "d")])
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
    fails("no item has the category 'e'", *command, "e", "--output", tmp_path / "e")
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
    fails("no column 'clicked'", "--logs", logs, "--output", tmp_path / "d", *SPLIT)
    build.main(["--logs", str(logs), *SPLIT, "--output", str(tmp_path / "d"), "--attribute-clicks", "0.5"])
    expected, _, orphans = reference_pages(unlabelled, clicks, PageRules(split_times=(0, 0), attribution_hours=0.5))
    assert pages_of(tmp_path / "d") == {page_id: comparable(page) for page_id, page in expected.items()}
    manifest = Manifest.read(tmp_path / "d")
    assert orphans == []
    assert manifest.counters["clicks.attributed"] + manifest.counters["clicks.late"] == len({*map(str, clicks)})
    assert manifest.options["attribute_clicks"] == 0.5
