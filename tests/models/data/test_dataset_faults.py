"""What must not go wrong silently when pages are read: one test per fault.

| fault | what it would do | test |
| --- | --- | --- |
| a shard cut between two records, or in the header of one | `tf.data` ends the file early without an error: training on fewer pages | `test_a_changed_set_of_records_stops_every_command_before_its_first_step` |
| a shard removed | the same | the same test |
| a shard added | its pages are thought to be read, and are not | the same test |
| a flipped bit | a crash in mid-epoch, or another page | `test_a_flipped_bit_is_found_before_the_first_step_with_shard_and_record` |
| one bad disk block in a large dataset | all of it is lost | `test_damaged_shards_can_be_left_out_up_to_a_limit` and the ones after it |
| pages of another schema | features missing, or read as something else | `test_pages_of_another_schema_are_refused_with_the_difference` |
"""  # noqa: E501

import json
import re
import shutil

import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.records import SCHEMA_HASH
from beam_pipelines.format.tfrecord import read_records
from beam_pipelines.shell.command import CommandError
from models.data.dataset import PRETRAINING, Dataset
from models.data.pages import page_records
from models.evaluate import main as evaluate_command
from models.pretrain import main as pretrain_command
from models.train_ctr import main as train_ctr_command

TINY_ENCODER = {
    "image_size": "[16, 16]",
    "encoder.embedding_dim": 8,
    "encoder.backbone": "{name: convnet, widths: [8], depths: [1], kernel: 3}",
    "batch_size": 16,
    "epochs": 1,
}
TINY_RANKER = {
    "ranker.mlp_units": "[8]",
    "ranker.lengths": "{click: 0, pay: 0, cart: 0}",
    "ranker.features": "{item: {item_id: {type: id}}, user: {user_id: {type: id}}, candidate: {}, query: false}",
    "epochs": 1,
}


def settings(values):
    return [argument for key, value in values.items() for argument in ("--set", f"{key}={value}")]


def run_pretrain(data, output, *options):
    return pretrain_command(["--data", str(data), "--output", str(output), *settings(TINY_ENCODER), *options])


def run_train_ctr(data, output, *options):
    command = ["--data", str(data), "--output", str(output), "--image-feature", "none", *settings(TINY_RANKER)]
    return train_ctr_command([*command, *options])


@pytest.fixture(scope="module")
def ranker(sample_dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "none"
    run_train_ctr(sample_dataset, run)
    return run


@pytest.fixture
def commands(ranker):
    """Every command that reads pages: the split (or view) that it reads, and how it is run."""

    def run_evaluate(data, output):
        return evaluate_command(["--data", str(data), "--model", str(ranker), "--output", str(output)])

    return {
        "models.pretrain": (PRETRAINING, run_pretrain),
        "models.train_ctr": ("train", run_train_ctr),
        "models.evaluate": ("test", run_evaluate),
    }


@pytest.fixture
def copy(sample_dataset, tmp_path):
    return shutil.copytree(sample_dataset, tmp_path / "data")


def shards_of(data, split):
    """The shards of a split that hold several pages, so that there is something to cut."""
    shards = [shard for shard in Dataset(data).split(split).shards if shard.records > 2]
    return [(data / shard.path, shard.records) for shard in shards]


def starts_of(path):
    """Byte at which each record of a shard starts, and the shard's end."""
    starts = [0]
    for record in read_records(path):
        starts.append(starts[-1] + 16 + len(record))
    return starts


def flip_bit(path, record):
    """Flips a bit in the middle of a record, the first being number 1."""
    start, stop = starts_of(path)[record - 1 : record + 1]
    content = bytearray(path.read_bytes())
    content[(start + stop) // 2] ^= 1
    path.write_bytes(content)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def silently_shorter(path, records):
    """That `tf.data` alone notices nothing."""
    return sum(1 for _ in tf.data.TFRecordDataset(str(path))) < records


def cut_between_records(path, records):
    cut(path, starts_of(path)[-2])
    assert silently_shorter(path, records)
    return rf"{path.name} ends after record {records - 1} of {records}; build the dataset again"


def cut_in_a_header(path, records):
    cut(path, starts_of(path)[1] + 5)
    assert silently_shorter(path, records)
    return rf"{path.name} is damaged in record 2 of {records}; build the dataset again"


def emptied(path, records):
    cut(path, 0)
    assert silently_shorter(path, records)
    return rf"{path.name} ends after record 0 of {records}; build the dataset again"


def removed(path, records):
    path.unlink()
    return rf"{path.name} is missing, but manifest.json lists it; build the dataset again"


def added(path, records):
    more = path.with_name(path.name.replace("-of-", "-more-of-"))
    shutil.copyfile(path, more)
    return rf"{more.name}: manifest.json does not list it"


@pytest.mark.parametrize("command", ["models.pretrain", "models.train_ctr", "models.evaluate"])
@pytest.mark.parametrize("change", [cut_between_records, cut_in_a_header, emptied, removed, added])
def test_a_changed_set_of_records_stops_every_command_before_its_first_step(
    commands, copy, tmp_path, capsys, command, change
):
    split, run = commands[command]
    message = change(*shards_of(copy, split)[-1])
    with pytest.raises(CommandError, match=message):
        run(copy, tmp_path / "output")
    printed = capsys.readouterr()
    assert "Epoch" not in printed.out
    assert "batch" not in printed.err  # the bar of models.evaluate
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("command", ["models.pretrain", "models.train_ctr", "models.evaluate"])
def test_a_flipped_bit_is_found_before_the_first_step_with_shard_and_record(commands, copy, tmp_path, capsys, command):
    split, run = commands[command]
    path, records = shards_of(copy, split)[0]
    flip_bit(path, records - 1)
    with pytest.raises(CommandError, match=rf"{path.name} is damaged in record {records - 1} of {records}"):
        run(copy, tmp_path / "output")
    assert "Epoch" not in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("command", ["models.pretrain", "models.train_ctr"])
def test_damaged_shards_can_be_left_out_up_to_a_limit(commands, copy, tmp_path, capsys, command):
    split, run = commands[command]
    (damaged, records), (missing, others), *_ = shards_of(copy, split)
    flip_bit(damaged, 2)
    missing.unlink()
    with pytest.raises(CommandError, match=rf"{missing.name} is missing.* \(max_bad_shards: 1\)"):
        run(copy, tmp_path / "output", "--max-bad-shards", "1")
    assert not (tmp_path / "output").exists()
    capsys.readouterr()

    closing = run(copy, tmp_path / "output", "--max-bad-shards", "2")
    assert ", 2 damaged shards left out" in closing
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        f"warning: {damaged} is damaged in record 2 of {records}; left out with its {records} pages",
        f"warning: {missing} is missing, but manifest.json lists it; left out with its {others} pages",
    ]


def test_what_is_left_are_the_pages_of_the_whole_shards(copy, sample_dataset):
    damaged, _ = shards_of(copy, "train")[1]
    lost = list(read_records(damaged))
    flip_bit(damaged, 1)
    dataset = Dataset(copy, max_bad_shards=1)
    left = list(page_records(dataset, "train").as_numpy_iterator())
    every = list(page_records(Dataset(sample_dataset), "train").as_numpy_iterator())
    assert left == [record for record in every if record not in lost]
    assert len(left) == len(every) - len(lost)
    assert list(page_records(dataset, "train").as_numpy_iterator()) == left
    assert len(dataset.bad_shards) == 1  # counted once, however often the split is read


def test_a_split_without_a_whole_shard_is_an_error(copy):
    dataset = Dataset(copy, max_bad_shards=1000)
    for path in (copy / "pages").glob("test-*"):
        path.unlink()
    with pytest.raises(ArtifactError, match="every shard of split `test` is damaged"):
        dataset.shard_paths("test")


def test_the_number_of_bad_shards_is_checked(commands, copy, tmp_path):
    with pytest.raises(CommandError, match=r"--max-bad-shards must be at least 0. Received: -1"):
        run_pretrain(copy, tmp_path / "output", "--max-bad-shards", "-1")


def test_an_undamaged_dataset_reads_without_a_warning(sample_dataset, capsys):
    dataset = Dataset(sample_dataset, max_bad_shards=1)
    assert len(list(page_records(dataset, "train"))) == dataset.split("train").pages
    assert capsys.readouterr().err == ""
    assert dataset.bad_shards == []


def renamed(features):
    features[features.index("position int64 candidates")] = "rank int64 candidates"
    return "missing: position; unknown: rank"


def retyped(features):
    features[features.index("timestamp int64 context")] = "timestamp float context"
    return "timestamp is float context instead of int64 context"


def one_more(features):
    features.append("price float candidates")
    return "unknown: price"


def removed_two(features):
    features.remove("query bytes context")
    features.remove("dwell float candidates")
    return "missing: dwell, query"


def reordered(features):
    features.reverse()
    return "the same features in another order, or other labels"


@pytest.mark.parametrize("change", [renamed, retyped, one_more, removed_two, reordered])
def test_pages_of_another_schema_are_refused_with_the_difference(commands, copy, tmp_path, change):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    difference = change(manifest["features"])
    path.write_text(json.dumps({**manifest, "schema_hash": "0123456789abcdef"}))
    message = f"{path}: pages have schema 0123456789abcdef, this version reads {SCHEMA_HASH} ({difference})"
    for _, run in commands.values():
        with pytest.raises(CommandError, match=re.escape(message)):
            run(copy, tmp_path / "output")
    assert not (tmp_path / "output").exists()
