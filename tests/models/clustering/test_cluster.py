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
from models.clustering.replacement import match_clusters
from models.embeddings.embeddings import Embeddings
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


def test_hash_values_are_ids_of_equal_pictures_alone(tmp_path):
    vectors = planted(3000, 6, 8)
    vectors[2001, 2] = 0.0
    vectors[9] = vectors[2001]
    vectors[9, 2] = -0.0
    has_image = np.arange(3000) % 10 != 0
    old = save_embeddings(tmp_path / "old", vectors[:2500], has_image[:2500])
    before = cluster(old, tmp_path / "c", num_clusters=4, backend="hash")
    assert (before.ids[~has_image[:2500]] == -1).all()
    # By chance: each ID as often, and none nearer to its own kind. Chi squared with 3 degrees of freedom.
    sizes = before.sizes
    assert ((sizes - sizes.mean()) ** 2 / sizes.mean()).sum() < 16
    unit = l2_normalize(vectors[:2500])[has_image[:2500]]
    means = [unit[before.ids[has_image[:2500]] == number].mean(axis=0) for number in range(4)]
    np.testing.assert_allclose(before.centers, means, atol=1e-6)
    assert before.metadata.mean_squared_distance == pytest.approx(
        np.square(unit - before.centers[before.ids[has_image[:2500]]]).sum(axis=1).mean(), rel=1e-5
    )
    assert before.metadata.mean_squared_distance > 0.9 * unit.var(axis=0).sum()
    wide = cluster(old, tmp_path / "wide", num_clusters=1000, backend="hash")
    assert wide.ids[9] == wide.ids[2001]
    other = cluster(old, tmp_path / "seed", num_clusters=1000, backend="hash", seed=1)
    assert (other.ids == wide.ids).mean() < 0.2
    # Items that come later move none that was there.
    after = cluster(save_embeddings(tmp_path / "new", vectors, has_image), tmp_path / "d", like=tmp_path / "wide")
    np.testing.assert_array_equal(after.ids[:2500], wide.ids)
    np.testing.assert_array_equal(after.centers, wide.centers)
    for options in ({"levels": 2}, {"spherical": True}):
        with pytest.raises(InputError, match="`backend` hash learns no centers; leave out `levels` and `spherical`"):
            cluster(old, tmp_path / "e", backend="hash", **options)


def of_levels(vectors, clusters, length=None):
    """The levels of every vector by their definition: the nearest center, and then that of what it leaves."""
    left, codes = l2_normalize(vectors), []
    for centers in clusters.level_centers[:length]:
        codes.append(np.square(left[:, None] - centers).sum(axis=2).argmin(axis=1))
        left = l2_normalize(left - centers[codes[-1]])
    return np.stack(codes, axis=1)


@pytest.mark.parametrize("backend", ["scann", "cells", "exact", "single_pass"])
def test_each_level_clusters_what_the_one_above_leaves(backend, tmp_path):
    vectors, has_image = planted(400, 6, 8, spread=0.6), np.arange(400) % 9 != 0
    old = save_embeddings(tmp_path / "old", vectors[:300], has_image[:300])
    before = cluster(old, tmp_path / "c", num_clusters=4, levels=3, backend=backend)
    pictures = has_image[:300]
    assert (before.codes[~pictures] == -1).all()
    np.testing.assert_array_equal(before.codes[:, 0], before.ids)
    np.testing.assert_array_equal(before.codes[pictures], of_levels(vectors[:300][pictures], before))
    # The centers of a level are the means of what its pictures have left.
    left = l2_normalize(vectors[:300][pictures])
    left = l2_normalize(left - before.centers[before.ids[pictures]])
    means = [left[before.codes[pictures, 1] == code].mean(axis=0) for code in range(4)]
    if backend != "single_pass":
        np.testing.assert_allclose(before.level_centers[1], means, atol=0.02)
    numbers, counts = np.unique(before.codes[pictures], axis=0, return_counts=True)
    deeper = before.metadata.deeper
    assert deeper.prefixes == (4, len(np.unique(before.codes[pictures, :2], axis=0)), len(numbers))
    assert deeper.sharing == counts[counts > 1].sum() > 0
    expected = before.codes.astype(np.int64) @ [16, 4, 1]
    np.testing.assert_array_equal(before.semantic_ids, np.where(pictures, expected, -1))
    assert "3 levels of 4 clusters of 266 pictures" in repr(before)
    # Items that come later move none that was there.
    new = save_embeddings(tmp_path / "new", vectors, has_image)
    after = cluster(new, tmp_path / "d", like=tmp_path / "c")
    np.testing.assert_array_equal(after.codes[:300], before.codes)
    np.testing.assert_array_equal(after.codes[has_image], of_levels(vectors[has_image], before))
    assert after.metadata.same_centers(before.metadata)
    assert after.metadata.levels == Clusters.load(tmp_path / "d").metadata.levels == 3
    other = cluster(old, tmp_path / "e", num_clusters=4, levels=2, backend=backend)
    assert (other.centers == before.centers).all()
    assert not other.metadata.same_centers(before.metadata)


def test_pictures_that_are_their_center_have_nothing_left(tmp_path):
    """What is left of them is rounding, which would be anywhere if it were scaled up."""
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32).repeat(3, axis=0)
    vectors *= np.tile(np.array([[1], [3], [7]], np.float32), (5, 1))  # whose directions differ by rounding
    clusters = cluster(save_embeddings(tmp_path / "e", vectors), tmp_path / "c", num_clusters=5, levels=2)
    assert not clusters.level_centers[1].any()
    assert clusters.metadata.deeper.mean_squared_distances == (0.0,)
    assert (clusters.metadata.deeper.prefixes, clusters.metadata.deeper.sharing) == ((5, 5), 15)


def test_damaged_levels_are_refused_and_one_level_has_the_digest_it_had(embeddings, tmp_path):
    one = cluster(embeddings, tmp_path / "one", num_clusters=3)
    assert "deeper" not in (tmp_path / "one" / "metadata.json").read_text()
    assert "deeper" not in one.metadata.model_dump()  # so neither in digests
    np.testing.assert_array_equal(one.semantic_ids, one.ids)
    assert one.level_centers.shape == (1, 3, 8)
    cluster(embeddings, tmp_path / "two", num_clusters=3, levels=2)
    np.save(tmp_path / "two" / "deeper_ids.npy", np.zeros((120, 1), np.int32))
    with pytest.raises(ArtifactError, match=r"deeper_ids\.npy is missing or is not the file"):
        Clusters.load(tmp_path / "two")


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
        ({"backend": "faiss"}, "`backend` must be one of scann, cells, exact, single_pass, hash. Received: faiss"),
        ({"levels": 0}, "`levels` must be at least 1. Received: 0"),
        ({"levels": 40, "num_clusters": 3}, "`num_clusters` to the power of `levels` must be below"),
        ({"like": "nowhere", "levels": 2}, "`levels` is of new centers; leave it out with `like`"),
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


@pytest.mark.parametrize("told", ["level 2", "level 3"])
def test_a_run_goes_on_at_the_level_where_it_was(tmp_path, told):
    embeddings = save_embeddings(tmp_path / "embeddings", planted(1000, 3, 4, spread=0.8), np.ones(1000, bool))
    options = {"num_clusters": 3, "levels": 3}
    said = []

    def interrupt(line):
        said.append(line)
        if line.startswith("pass 2: ") and told in said:
            raise KeyboardInterrupt
        return line

    with pytest.raises(KeyboardInterrupt), shown_progress(interrupt):
        cluster(embeddings, tmp_path / "c", **options)
    said.clear()
    with shown_progress(lambda line: said.append(line) or line):
        resumed = cluster(embeddings, tmp_path / "c", **options)
    assert said[2] == told
    assert said[3].startswith("pass 2: ")
    whole = cluster(embeddings, tmp_path / "whole", **options)
    np.testing.assert_array_equal(resumed.level_centers, whole.level_centers)
    np.testing.assert_array_equal(resumed.codes, whole.codes)
    assert resumed.metadata == whole.metadata


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


def test_new_clusters_take_the_place_of_old_ones(embeddings, tmp_path):
    old = cluster(embeddings, tmp_path / "old", num_clusters=6, seed=1)
    # Planted clusters are found again, by other numbers.
    new = cluster(embeddings, tmp_path / "new", replace=tmp_path / "old", seed=4)
    replaced = new.metadata.replaced
    assert (replaced.matched, replaced.num_clusters, replaced.pictures) == (6, 6, 108)
    assert replaced.centers_sha256 == old.metadata.centers_sha256
    np.testing.assert_array_equal(new.replaced[new.ids[HAS_IMAGE]], old.ids[HAS_IMAGE])
    assert Clusters.load(tmp_path / "new").metadata == new.metadata
    # What is assigned to them later takes the same place.
    assert cluster(embeddings, tmp_path / "assigned", like=new).metadata.replaced == replaced
    # Of more clusters, some are nobody's heirs.
    more = cluster(embeddings, tmp_path / "more", replace=old, num_clusters=9)
    assert more.metadata.replaced.matched == 6
    assert sorted(more.replaced) == [-1, -1, -1, *range(6)]
    (tmp_path / "new" / "replaced.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"replaced.npy is missing or is not the file"):
        Clusters.load(tmp_path / "new")


def test_other_items_are_those_of_the_nearest_old_centers(embeddings, tmp_path):
    vectors = planted(160, 6, 8)
    old = cluster(embeddings, tmp_path / "old", num_clusters=6)
    later = Embeddings.save(
        tmp_path / "later",
        vectors,
        np.arange(160) % 10 != 0,
        encoder=embeddings.metadata.encoder,
        item_ids_sha256="more items",
        pictures_sha256="",
    )
    new = cluster(later, tmp_path / "new", replace=old, seed=3)
    assigned = cluster(later, tmp_path / "assigned", like=old)
    np.testing.assert_array_equal(new.replaced, match_clusters(new.ids, assigned.ids, 6, 6))
    other = Embeddings.save(
        tmp_path / "other",
        vectors,
        np.ones(160, bool),
        encoder=embeddings.metadata.encoder.model_copy(update={"weights_sha256": "others"}),
        item_ids_sha256="more items",
        pictures_sha256="",
    )
    with pytest.raises(ArtifactError, match=r"`replace`: .*old is neither of the items of .* nor of the same encoder"):
        cluster(other, tmp_path / "c", replace=old)
    with pytest.raises(InputError, match="`replace` is of new centers; leave it out with `like`"):
        cluster(later, tmp_path / "c", like=old, replace=old)
