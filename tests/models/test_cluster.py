import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from beam_pipelines.format.manifest import Window, file_sha256
from beam_pipelines.shell.command import CommandError
from models import cluster
from models.clustering.clusters import load_centers, load_cluster_ids
from models.embeddings.store import EmbeddingsMetadata, l2_normalize
from models.vision.encoder_run import EncoderMetadata
from tests.models.planted import planted


def write_embeddings(directory, vectors, has_image, encoder="weights"):
    directory.mkdir()
    np.save(directory / "embeddings.npy", np.where(has_image[:, None], vectors, 0))
    np.save(directory / "has_image.npy", has_image)
    EmbeddingsMetadata(
        items=len(vectors),
        items_with_image=int(has_image.sum()),
        dim=vectors.shape[1],
        dtype=str(vectors.dtype),
        embeddings_sha256=file_sha256(directory / "embeddings.npy"),
        item_ids_sha256="items",
        pictures_sha256="",
        encoder=EncoderMetadata(
            method="courier",
            image_size=(32, 32),
            embedding_dim=vectors.shape[1],
            weights_sha256=encoder,
            dataset_digest="dataset",
            window=Window(first=0, last=1),
            notice="",
        ),
    ).write(directory)
    return directory


@pytest.fixture
def embeddings(tmp_path):
    """Embeddings of 120 items, every tenth without a picture."""
    return write_embeddings(tmp_path / "embeddings", planted(120, 6, 8), np.arange(120) % 10 != 0)


def run(embeddings, output, *more):
    return cluster.main(["--embeddings", str(embeddings), "--output", str(output), *more])


@pytest.mark.parametrize("backend", ["scann", "cells", "exact", "single_pass"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_writes_ids_centers_and_their_origin(backend, dtype, tmp_path):
    has_image = np.arange(120) % 10 != 0
    vectors = planted(120, 6, 8).astype(dtype)
    source = write_embeddings(tmp_path / "embeddings", vectors, has_image)
    line = run(source, tmp_path / "c", "--num-clusters", "6", "--backend", backend)
    assert "6 clusters of 108 pictures" in line
    metadata, ids = load_cluster_ids(tmp_path / "c")
    assert (ids[~has_image] == -1).all()
    assert set(ids[has_image]) == set(range(6))
    assert metadata.embeddings.encoder.weights_sha256 == "weights"
    assert metadata.backend == backend
    _, centers = load_centers(tmp_path / "c")
    unit = l2_normalize(vectors)[has_image]
    nearest = np.square(unit[:, None] - centers).sum(axis=2)
    np.testing.assert_array_equal(ids[has_image], nearest.argmin(axis=1))
    np.testing.assert_allclose(metadata.mean_squared_distance, nearest.min(axis=1).mean(), rtol=1e-5)
    assert not list(tmp_path.glob("*checkpoints*"))


def test_progress_is_a_line_per_pass(embeddings, tmp_path, capsys):
    run(embeddings, tmp_path / "c", "--num-clusters", "6")
    printed = capsys.readouterr().out
    assert "108 pictures into 6 clusters (scann)" in printed
    assert "pass 1: " in printed
    assert "moved" in printed
    assert "imbalance" in printed


def test_embeddings_as_they_are_keep_their_lengths(tmp_path):
    vectors = np.repeat(np.array([[1.0, 0.0], [5.0, 0.0]], np.float32), 10, axis=0)
    source = write_embeddings(tmp_path / "embeddings", vectors, np.ones(20, bool))
    run(source, tmp_path / "c", "--num-clusters", "2", "--no-normalize", "--seed", "1")
    metadata, ids = load_cluster_ids(tmp_path / "c")
    assert not metadata.normalize
    assert len({*ids[:10]}) == len({*ids[10:]}) == 1
    assert ids[0] != ids[-1]


def test_new_items_get_the_ids_of_existing_centers(tmp_path):
    vectors, has_image = planted(200, 6, 8), np.arange(200) % 9 != 0
    old = write_embeddings(tmp_path / "old", vectors[:120], has_image[:120])
    new = write_embeddings(tmp_path / "new", vectors, has_image)
    run(old, tmp_path / "c", "--num-clusters", "6")
    line = run(new, tmp_path / "d", "--like", str(tmp_path / "c"))
    assert f"{has_image.sum()} pictures" in line
    before, old_ids = load_cluster_ids(tmp_path / "c")
    after, ids = load_cluster_ids(tmp_path / "d")
    np.testing.assert_array_equal(ids[:120], old_ids)
    assert (ids[has_image] >= 0).all()
    assert (ids[~has_image] == -1).all()
    assert after.centers_sha256 == before.centers_sha256
    assert after.embeddings.items == 200
    np.testing.assert_array_equal(load_centers(tmp_path / "c")[1], load_centers(tmp_path / "d")[1])


def test_versions_are_not_mixed(embeddings, tmp_path):
    other = write_embeddings(tmp_path / "other", planted(120, 6, 8), np.ones(120, bool), encoder="another")
    run(embeddings, tmp_path / "c", "--num-clusters", "6")
    with pytest.raises(CommandError, match=r"--like: .* must not be mixed; their encoders differ"):
        run(other, tmp_path / "d", "--like", str(tmp_path / "c"))
    centers = tmp_path / "c" / "centers.npy"
    np.save(centers, np.load(centers) + 1)
    with pytest.raises(CommandError, match=r"centers\.npy is missing or is not the file"):
        run(embeddings, tmp_path / "d", "--like", str(tmp_path / "c"))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "metadata.json").unlink(), "models.embed makes it"),
        (lambda d: (d / "embeddings.npy").write_bytes(b"other"), "is not the file its metadata describes"),
        (lambda d: (d / "metadata.json").write_text("{}"), "does not describe"),
    ],
)
def test_damaged_embeddings_are_refused(embeddings, tmp_path, change, message):
    change(embeddings)
    with pytest.raises(CommandError, match=message):
        run(embeddings, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_vector_that_is_not_finite_is_named_and_leaves_nothing(tmp_path):
    vectors = planted(120, 6, 8)
    vectors[17, 3] = np.inf
    source = write_embeddings(tmp_path / "embeddings", vectors, np.ones(120, bool))
    with pytest.raises(CommandError, match="Row 17 is not"):
        run(source, tmp_path / "c", "--num-clusters", "6", "--no-normalize")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-clusters", "109"], "--num-clusters must be between 1 and the 108"),
        (["--num-clusters", "-1"], "--num-clusters"),
        (["--max-passes", "0"], "--max-passes must be at least 1"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--tolerance", "-1"], "--tolerance must be at least 0"),
        (["--threshold", "0.1"], "--threshold is for --backend single_pass"),
        (["--spherical", "--no-normalize"], "--spherical is for embeddings of unit length"),
        (["--like", "nowhere"], "--like: nowhere has no metadata.json; models.cluster makes it"),
        (["--like", "nowhere", "--num-clusters", "3"], "--num-clusters is of new centers"),
    ],
)
def test_impossible_options_are_refused(embeddings, tmp_path, options, message):
    with pytest.raises(CommandError, match=message):
        run(embeddings, tmp_path / "c", *options)
    assert list(tmp_path.iterdir()) == [embeddings]


def test_a_killed_run_goes_on_and_ends_alike(tmp_path):
    source = write_embeddings(tmp_path / "embeddings", planted(40_000, 30, 16, spread=0.7), np.arange(40_000) % 10 != 0)
    # More passes than could ever be needed: there is always one left to be killed in.
    options = ["--num-clusters", "600", "--backend", "exact", "--tolerance", "0", "--max-passes", "14"]
    run(source, tmp_path / "whole", *options)
    command = [sys.executable, "-m", "models.cluster", "--embeddings", str(source), "--output", str(tmp_path / "c")]
    process = subprocess.Popen(
        [*command, *options],
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("pass 4:"):
            break
    deadline = time.monotonic() + 30
    while not list((tmp_path / "c.checkpoints").glob("step-*4.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "c").exists()
    with pytest.raises(CommandError, match=r"seed 0 there, 1 here.*--restart"):
        run(source, tmp_path / "c", *options, "--seed", "1")
    finished = subprocess.run(
        [*command, *options], cwd=Path(__file__).parents[2], env=dict(os.environ), capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert "goes on after pass" in finished.stdout
    assert "pass 1:" not in finished.stdout
    for name in ("cluster_ids.npy", "centers.npy"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    metadata = [json.loads((tmp_path / name / "metadata.json").read_text()) for name in ("c", "whole")]
    assert metadata[0] == metadata[1]
    assert not (tmp_path / "c.checkpoints").exists()
