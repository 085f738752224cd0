"""The commands on URIs give what they give on paths."""

import json
import shutil
import threading
import uuid

import numpy as np
import pytest

from beam_pipelines.format.contents import Contents
from beam_pipelines.format.location import as_location, entries
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.command import CommandError
from models.cluster import main as cluster
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.embed import main as embed
from models.embeddings.embeddings import Embeddings
from models.evaluate import main as evaluate
from models.neighbours import main as neighbours
from models.ranker.run import RankerRun
from models.train_ctr import main as train_ctr
from models.training.checkpoints import Checkpoints
from models.whiten import main as whiten
from tests.models.embeddings.encoder_run import random_pictures, save_encoder
from tests.models.picture_dataset import write_picture_dataset
from tests.models.tiny_dataset import TinyDataset, write_tiny_dataset
from tests.models.training.command_process import ranker_arguments, steps_on_disk, terminate_at

PICTURES = 12


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.cluster)])
def store(request, memory):
    """The URI of an empty directory: of a file system in the memory of this process, or of an S3 on this machine."""
    return memory if request.param == "memory" else f"{request.getfixturevalue('s3_server')}/{uuid.uuid4().hex}"


def put(directory, uri):
    """Copies a local directory to where a command would have written it."""
    with whole_directory(as_location(uri)) as scratch:
        shutil.copytree(directory, scratch, dirs_exist_ok=True)
    return uri


def write_pictures(directory):
    """A dataset of pictures, each of two items."""
    places = [(0, n) for n in range(PICTURES)] * 2
    texts = {name: [f"{name} {row % 3}" for row in range(len(places))] for name in ("category", "title")}
    write_picture_dataset(directory, [random_pictures(PICTURES)], places, image_format="webp", columns=texts)


def test_pictures_to_cluster_ids(store, tmp_path):
    write_pictures(tmp_path / "data")
    save_encoder(tmp_path / "encoder")
    roots = [str(tmp_path), store]
    for name in ("data", "encoder"):
        put(tmp_path / name, f"{store}/{name}")
    for root in roots:
        embed([f"--data={root}/data", f"--encoder={root}/encoder", f"--output={root}/embeddings", "--batch-size=5"])
        cluster([f"--embeddings={root}/embeddings", f"--output={root}/clusters", "--num-clusters=3"])
        neighbours([f"--data={root}/data", f"--embeddings={root}/embeddings", "--item", "i0", "-k=2",
                    f"--clusters={root}/clusters", f"--html={root}/page.html"])  # fmt: skip
    local, remote = (Embeddings.load(f"{root}/embeddings") for root in roots)
    assert remote.metadata == local.metadata
    np.testing.assert_array_equal(remote.vectors, local.vectors)
    local, remote = (Clusters.load(f"{root}/clusters") for root in roots)
    assert remote.metadata == local.metadata
    left = sorted(path.name for path in entries(as_location(store)))
    assert left == ["clusters", "data", "embeddings", "encoder", "page.html"]
    for command, options, message in (
        (embed, [f"--data={store}/data", f"--encoder={store}/none"], f"--encoder: {store}/none: nothing lies"),
        (cluster, [f"--embeddings={store}/data"], f"--embeddings: {store}/data has no metadata.json; models.embed"),
        (whiten, [f"--embeddings={store}/embeddings", f"--data={store}/none"], f"{store}/none: nothing lies"),
        (whiten, ["--embeddings=none://shop/embeddings"], "--embeddings: none://shop/embeddings: .*none"),
    ):
        with pytest.raises(CommandError, match=f"^{message}"):
            command([*options, f"--output={store}/refused"])
    with pytest.raises(CommandError, match=f"^{store}/clusters exists; pass --overwrite"):
        cluster([f"--embeddings={store}/embeddings", f"--output={store}/clusters"])


def test_embeddings_go_on_from_what_the_store_holds(store, tmp_path, monkeypatch):
    write_pictures(tmp_path / "data")
    save_encoder(tmp_path / "encoder")
    output = f"{store}/embeddings"
    options = [f"--data={tmp_path}/data", f"--encoder={tmp_path}/encoder", "--batch-size=2", "--checkpoint-minutes=0"]
    embed([*options, f"--output={tmp_path}/whole"])

    written = []
    write = Checkpoints.write

    def interrupted(self, checkpoint):
        if len(written) == 4:  # as if the machine were gone
            raise KeyboardInterrupt
        written.append(checkpoint.step)
        return write(self, checkpoint)

    with monkeypatch.context() as machine:
        machine.setattr(Checkpoints, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed([*options, f"--output={output}"])
    monkeypatch.setenv("COURIER_CACHE", str(tmp_path / "another"))
    assert written == [0, 2, 4, 6]
    closing = embed([*options, f"--output={output}"])
    assert closing.startswith("wrote embeddings of 24 of 24 items")
    assert Embeddings.load(output).metadata == Embeddings.load(tmp_path / "whole").metadata
    assert entries(as_location(f"{output}.partial")) == []


def test_a_ranker_that_was_stopped_goes_on_from_the_store_and_is_measured_there(store, tmp_path, capsys):
    tiny = write_tiny_dataset(tmp_path / "tiny", items=40, pages=80)
    train_ctr(ranker_arguments(tiny, tmp_path / "ranker", epochs=1))
    there = TinyDataset(put(tiny.data, f"{store}/data"), None, put(tiny.clusters, f"{store}/clusters"), None)
    output = as_location(f"{store}/ranker")
    terminator = threading.Thread(target=terminate_at, args=(output, 2))
    terminator.start()
    with pytest.raises(SystemExit) as left:
        train_ctr(ranker_arguments(there, output, epochs=1))
    terminator.join()
    assert left.value.code == 143
    assert Contents.read(output) is None
    stopped_at = steps_on_disk(output)[-1]
    assert f"stopped by SIGTERM at step {stopped_at} of " in capsys.readouterr().err
    train_ctr(ranker_arguments(there, output, epochs=1))
    assert f"resuming at step {stopped_at} of " in capsys.readouterr().out
    runs = [RankerRun(tmp_path / "ranker"), RankerRun(f"{store}/ranker")]
    assert runs[0].metadata == runs[1].metadata
    for expected, actual in zip(*(run.ranker().get_weights() for run in runs), strict=True):
        np.testing.assert_array_equal(actual, expected)

    reports = []
    for data, run, report in ((tiny.data, runs[0], tmp_path / "report"), (there.data, runs[1], f"{store}/report")):
        evaluate([f"--data={data}", "--model", f"best={run.path}", f"--output={report}"])
        contents = Contents.read(as_location(report)) if report is not tmp_path / "report" else None
        directory = as_location(report) / contents.attempt if contents else as_location(report)
        reports.append(json.loads((directory / "metrics.json").read_text()))
    for report, root in zip(reports, (tiny.data, there.data), strict=True):
        assert report.pop("data") == str(root)
        report["models"]["ranker"].pop("run")
    assert reports[0] == reports[1]


def test_pages_and_pictures_are_fetched_when_they_are_needed(store, tmp_path):
    write_pictures(tmp_path / "data")
    dataset = Dataset(put(tmp_path / "data", f"{store}/data"))
    copies = tmp_path / "cache" / "directories"

    def fetched():
        return sorted({path.suffix for path in copies.rglob("*.*") if not path.name.startswith(".")})

    assert fetched() == [".json", ".parquet"]
    dataset.image_shard_paths()
    assert fetched() == [".array_record", ".json", ".parquet"]
