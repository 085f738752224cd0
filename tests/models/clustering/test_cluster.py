import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.shell.progress import shown_progress
from models.clustering.cluster import cluster
from models.clustering.clusters import Clusters
from models.embeddings.vectors import l2_normalize
from tests.models.planted import planted
from tests.models.saved_embeddings import save_embeddings

HAS_IMAGE = np.arange(120) % 10 != 0


@pytest.fixture
def embeddings(tmp_path):
    """Embeddings of 120 items, every tenth without a picture."""
    return save_embeddings(tmp_path / "embeddings", planted(120, 6, 8), HAS_IMAGE)


@pytest.mark.parametrize("backend", ["scann", "cells", "exact", "single_pass"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_writes_ids_centers_and_their_origin(backend, dtype, tmp_path):
    vectors = planted(120, 6, 8).astype(dtype)
    embeddings = save_embeddings(tmp_path / "embeddings", vectors, HAS_IMAGE)
    clusters = cluster(embeddings, tmp_path / "c", num_clusters=6, backend=backend)
    assert clusters.metadata == Clusters.load(tmp_path / "c").metadata
    assert clusters.metadata.embeddings == embeddings.metadata
    assert (clusters.metadata.backend, clusters.metadata.num_clusters) == (backend, 6)
    assert (clusters.ids[~HAS_IMAGE] == -1).all()
    assert set(clusters.ids[HAS_IMAGE]) == set(range(6))
    unit = l2_normalize(vectors)[HAS_IMAGE]
    nearest = np.square(unit[:, None] - clusters.centers).sum(axis=2)
    np.testing.assert_array_equal(clusters.ids[HAS_IMAGE], nearest.argmin(axis=1))
    np.testing.assert_allclose(clusters.metadata.mean_squared_distance, nearest.min(axis=1).mean(), rtol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "embeddings"]


def test_one_cluster_for_twenty_pictures_unless_told_otherwise(embeddings, tmp_path, capfd):
    assert len(cluster(embeddings.path, str(tmp_path / "c")).centers) == 108 // 20
    assert capfd.readouterr().out == ""  # a library says nothing


def test_embeddings_as_they_are_keep_their_lengths(tmp_path):
    vectors = np.repeat(np.array([[1.0, 0.0], [5.0, 0.0]], np.float32), 10, axis=0)
    embeddings = save_embeddings(tmp_path / "embeddings", vectors)
    clusters = cluster(embeddings, tmp_path / "c", num_clusters=2, normalize=False, seed=1)
    assert not clusters.metadata.normalize
    assert len({*clusters.ids[:10]}) == len({*clusters.ids[10:]}) == 1
    assert clusters.ids[0] != clusters.ids[-1]


def test_new_items_get_the_ids_of_existing_centers(tmp_path):
    vectors, has_image = planted(200, 6, 8), np.arange(200) % 9 != 0
    old = save_embeddings(tmp_path / "old", vectors[:120], has_image[:120])
    new = save_embeddings(tmp_path / "new", vectors, has_image)
    before = cluster(old, tmp_path / "c", num_clusters=6)
    after = cluster(new, tmp_path / "d", like=tmp_path / "c")
    np.testing.assert_array_equal(after.ids[:120], before.ids)
    assert (after.ids[has_image] >= 0).all()
    assert (after.ids[~has_image] == -1).all()
    assert after.metadata.embeddings == new.metadata
    assert (tmp_path / "c" / "centers.npy").read_bytes() == (tmp_path / "d" / "centers.npy").read_bytes()
    changed = {
        name for name, value in before.metadata if value != getattr(after.metadata, name)
    }  # and nothing about the centers
    assert changed == {"mean_squared_distance", "cluster_ids_sha256", "embeddings"}


def test_versions_are_not_mixed(embeddings, tmp_path):
    other = save_embeddings(tmp_path / "other", planted(120, 6, 8), weights_sha256="another")
    clusters = cluster(embeddings, tmp_path / "c", num_clusters=6)
    with pytest.raises(ArtifactError, match=r"`like`: .* must not be mixed; their encoders differ"):
        cluster(other, tmp_path / "d", like=clusters)
    np.save(tmp_path / "c" / "centers.npy", clusters.centers + 1)
    with pytest.raises(ArtifactError, match=r"`like`: .*centers\.npy is missing or is not the file"):
        cluster(embeddings, tmp_path / "d", like=tmp_path / "c")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("like", [False, True])
def test_a_vector_that_is_not_finite_is_named_and_leaves_nothing(embeddings, tmp_path, like):
    vectors = planted(120, 6, 8)
    vectors[17, 3] = np.inf
    broken = save_embeddings(tmp_path / "broken", vectors)
    options = {"like": cluster(embeddings, tmp_path / "c")} if like else {"normalize": False}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ArtifactError, match=r"`embeddings` .*/broken: .*Row 17 is not"):
        cluster(broken, tmp_path / "d", **options)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 109}, "`num_clusters` must be between 1 and the 108"),
        ({"num_clusters": 0}, "`num_clusters` must be between 1 and the 108"),
        ({"backend": "faiss"}, "`backend` must be one of scann, cells, exact, single_pass. Received: faiss"),
        ({"max_passes": 0}, "`max_passes` must be at least 1. Received: 0"),
        ({"workers": 0}, "`workers` must be at least 1"),
        ({"tolerance": -1.0}, "`tolerance` must be at least 0"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"threshold": 0.1}, "`threshold` is for `backend` single_pass. Received: `backend` scann"),
        ({"spherical": True, "normalize": False}, "`spherical` is for embeddings of unit length"),
        ({"like": "nowhere"}, r"`like`: nowhere has no metadata\.json; models\.cluster makes it"),
        ({"like": "nowhere", "num_clusters": 3}, "`num_clusters` is of new centers; leave it out with `like`"),
        ({"embeddings": "nowhere"}, r"`embeddings`: nowhere has no metadata\.json; models\.embed makes it"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(embeddings, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        cluster(**{"embeddings": embeddings, "output": tmp_path / "c", **options})
    assert list(tmp_path.iterdir()) == [embeddings.path]


def test_a_run_goes_on_from_a_pass_over_a_sample(tmp_path):
    """Before a pass over all points, no distance is known."""
    embeddings = save_embeddings(tmp_path / "embeddings", planted(1000, 3, 4), np.ones(1000, bool))

    def interrupt(line):
        if line.startswith("pass 2: "):
            raise KeyboardInterrupt
        return line

    with pytest.raises(KeyboardInterrupt), shown_progress(interrupt):
        cluster(embeddings, tmp_path / "c", num_clusters=3)
    resumed, whole = (cluster(embeddings, tmp_path / name, num_clusters=3) for name in ("c", "whole"))
    np.testing.assert_array_equal(resumed.centers, whole.centers)
    np.testing.assert_array_equal(resumed.ids, whole.ids)


def test_a_killed_run_goes_on_and_ends_alike(tmp_path):
    has_image = np.arange(10_000) % 10 != 0
    embeddings = save_embeddings(tmp_path / "embeddings", planted(10_000, 30, 16, spread=0.7), has_image)
    # More passes than could ever be needed: there is always one left to be killed in.
    options = {"num_clusters": 600, "backend": "cells", "tolerance": 0.0, "max_passes": 60}
    cluster(embeddings, tmp_path / "whole", **options)
    command = [sys.executable, "-m", "models.cluster", "--embeddings", str(embeddings.path)]
    command += ["--output", str(tmp_path / "c"), "--num-clusters", "600", "--backend", "cells"]
    command += ["--tolerance", "0", "--max-passes", "60"]
    root, environment = Path(__file__).parents[3], dict(os.environ)
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "c.checkpoints").glob("step-*4.npz")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    first = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    assert "9000 pictures into 600 clusters (cells)\npass 1: " in first
    assert not (tmp_path / "c").exists()
    with pytest.raises(InputError, match=r"seed 0 there, 1 here.*restart"):
        cluster(embeddings, tmp_path / "c", **options, seed=1)
    finished = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "goes on after pass" in finished.stdout
    assert "pass 1:" not in finished.stdout
    for name in ("cluster_ids.npy", "centers.npy"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    metadata = [json.loads((tmp_path / name / "metadata.json").read_text()) for name in ("c", "whole")]
    assert metadata[0] == metadata[1]
    assert not (tmp_path / "c.checkpoints").exists()
