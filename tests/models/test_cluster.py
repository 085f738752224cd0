import hashlib
import itertools

import numpy as np
import pytest

from beam_pipelines.command import CommandError
from beam_pipelines.manifest import Window
from models import cluster
from models.artifacts import EmbeddingsMetadata, EncoderMetadata
from models.embeddings.assignment import ExactAssigner, ScannAssigner
from models.embeddings.kmeans import KMeans
from models.embeddings.store import l2_normalize, load_cluster_ids


def planted(n, clusters, dim, seed=0, spread=0.05):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(clusters, dim)).astype(np.float32)
    return (centers[rng.integers(clusters, size=n)] + spread * rng.normal(size=(n, dim))).astype(np.float32)


def nearest_by_loop(points, centers):
    return [min(range(len(centers)), key=lambda c: float(((p - centers[c]) ** 2).sum())) for p in points]


@pytest.mark.parametrize("assigner", [ExactAssigner, ScannAssigner])
@pytest.mark.parametrize(("n", "clusters", "dim"), [(1, 1, 2), (50, 7, 3), (200, 40, 16)])
def test_assigns_to_the_nearest_center(assigner, n, clusters, dim):
    rng = np.random.default_rng(n)
    points = rng.normal(size=(n, dim)).astype(np.float32)
    centers = rng.normal(size=(clusters, dim)).astype(np.float32)
    assert assigner(centers).assign(points).tolist() == nearest_by_loop(points, centers)


def test_tiles_do_not_change_the_exact_assignment(monkeypatch):
    points, centers = planted(500, 30, 8), planted(30, 30, 8, seed=1)
    whole = ExactAssigner(centers).assign(points)
    monkeypatch.setattr(ExactAssigner, "_TILE_ELEMENTS", 100)
    np.testing.assert_array_equal(ExactAssigner(centers).assign(points), whole)


def test_partitioned_scann_index_is_close_to_exact():
    sample = planted(12_000, 300, 16, spread=0.2)
    points, centers = sample[:2000], sample[2000:]
    exact, scann = (a(centers).assign(points) for a in (ExactAssigner, ScannAssigner))
    assert np.mean(exact == scann) > 0.99
    distances = [np.square(points - centers[ids]).sum() for ids in (exact, scann)]
    assert distances[1] <= 1.001 * distances[0]


def test_distance_never_rises_and_planted_clusters_are_found():
    points = planted(2000, 10, 6)
    seen = []
    result = KMeans(10, backend="exact", seed=3).fit(points, on_pass=lambda _, d, *rest: seen.append((d, *rest)))
    distances = [d for d, _, empty in seen]
    assert all(after <= before * (1 + 1e-7) for before, after in itertools.pairwise(distances))
    assert result.mean_squared_distance == distances[-1]
    assert seen[0][1] == 1.0


def test_centers_are_means_and_preserve_the_overall_mean():
    points = planted(700, 5, 4)
    result = KMeans(5, backend="exact", tolerance=0.0, max_passes=200).fit(points)
    counts = np.bincount(result.ids, minlength=5)
    assert counts.sum() == len(points)
    for c in range(5):
        np.testing.assert_allclose(result.centers[c], points[result.ids == c].mean(0), atol=1e-5)
    np.testing.assert_allclose(counts @ result.centers / len(points), points.mean(0), atol=1e-5)


def test_one_cluster_is_the_mean():
    points = planted(100, 3, 4)
    result = KMeans(1, backend="exact").fit(points)
    np.testing.assert_allclose(result.centers[0], points.mean(0), atol=1e-6)
    np.testing.assert_allclose(result.mean_squared_distance, points.var(0).sum(), rtol=1e-5)


def test_scann_gives_the_exact_result():
    points = planted(3000, 20, 8)
    exact, scann = (KMeans(20, backend=b, seed=1).fit(points) for b in ("exact", "scann"))
    np.testing.assert_array_equal(exact.ids, scann.ids)
    np.testing.assert_array_equal(exact.centers, scann.centers)


def test_block_size_and_reruns_do_not_change_the_result():
    points = planted(1000, 8, 5)
    results = [KMeans(8, backend="exact", seed=2, block_rows=rows).fit(points) for rows in (64, 1000, 1000)]
    for other in results[1:]:
        np.testing.assert_array_equal(other.ids, results[0].ids)
        np.testing.assert_allclose(other.centers, results[0].centers, atol=1e-6)


def test_clusters_emptied_by_equal_points_are_split():
    # 90 copies of one point: of the random start, most centers coincide and all but one of those lose every point.
    points = np.concatenate([np.zeros((90, 2)), planted(60, 6, 2, spread=0.2)]).astype(np.float32)
    empty = []
    result = KMeans(12, backend="exact", tolerance=0.0, max_passes=100, seed=0).fit(
        points, on_pass=lambda *numbers: empty.append(numbers[3])
    )
    assert empty[0] > 0
    assert empty[-1] < empty[0]
    assert np.isfinite(result.centers).all()


@pytest.mark.parametrize(
    ("points", "clusters", "message"),
    [
        (np.zeros((3, 2), np.float32), 4, "only 3 points"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]], np.float32), 1, "Row 1 is not"),
    ],
)
def test_bad_points_are_refused(points, clusters, message):
    with pytest.raises(ValueError, match=message):
        KMeans(clusters, backend="exact").fit(points)


def test_normalising_keeps_zero_rows():
    unit = l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


@pytest.fixture
def embeddings(tmp_path):
    """Embeddings of 120 items, every tenth without a picture."""
    directory = tmp_path / "embeddings"
    directory.mkdir()
    vectors = planted(120, 6, 8)
    has_image = np.arange(120) % 10 != 0
    vectors[~has_image] = 0
    np.save(directory / "embeddings.npy", vectors)
    np.save(directory / "has_image.npy", has_image)
    EmbeddingsMetadata(
        items=120,
        items_with_image=int(has_image.sum()),
        dim=8,
        embeddings_sha256=hashlib.sha256((directory / "embeddings.npy").read_bytes()).hexdigest(),
        item_ids_sha256="items",
        pictures_sha256="",
        encoder=EncoderMetadata(
            method="courier",
            image_size=(32, 32),
            embedding_dim=8,
            weights_sha256="weights",
            dataset_digest="dataset",
            window=Window(first=0, last=1),
            notice="",
        ),
    ).write(directory)
    return directory


def test_command_writes_ids_centers_and_their_origin(embeddings, tmp_path):
    line = cluster.main(["--embeddings", str(embeddings), "--output", str(tmp_path / "c"), "--num-clusters", "6"])
    assert "6 clusters of 108 pictures" in line
    metadata, ids = load_cluster_ids(tmp_path / "c")
    assert (ids[::10] == -1).all()
    assert set(ids[ids >= 0]) == set(range(6))
    assert metadata.embeddings.encoder.weights_sha256 == "weights"
    # An item keeps its ID when it is assigned again: what a new item with the same picture would get.
    vectors = l2_normalize(np.load(embeddings / "embeddings.npy"))
    again = ScannAssigner(np.load(tmp_path / "c" / "centers.npy")).assign(vectors[ids >= 0])
    np.testing.assert_array_equal(again, ids[ids >= 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "metadata.json").unlink(), "models.embed makes it"),
        (lambda d: (d / "embeddings.npy").write_bytes(b"other"), "is not the file its metadata describes"),
        (lambda d: (d / "metadata.json").write_text("{}"), "does not describe"),
    ],
)
def test_command_refuses_damaged_embeddings(embeddings, tmp_path, change, message):
    change(embeddings)
    with pytest.raises(CommandError, match=message):
        cluster.main(["--embeddings", str(embeddings), "--output", str(tmp_path / "c")])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("number", ["109", "-1"])
def test_command_refuses_an_impossible_number_of_clusters(embeddings, tmp_path, number):
    with pytest.raises(CommandError, match="--num-clusters"):
        cluster.main(["--embeddings", str(embeddings), "--output", str(tmp_path / "c"), "--num-clusters", number])
    assert list(tmp_path.iterdir()) == [embeddings]
