import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError
from export.viewer.likeness import Likeness, PictureTables
from models.data.dataset import Dataset
from tests.models.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def vectors():
    vectors = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    vectors[[3, 8]] = 0
    return vectors


def cosine(first, second):
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


def test_cosines_and_neighbours_are_those_of_the_definition(vectors):
    likeness = Likeness(PictureTables(vectors))
    rows, others = np.array([0, 3, 7]), np.array([1, 8, 7, 0])
    found = likeness.cosines(rows, others)
    for n, m in np.ndindex(found.shape):
        row, other = rows[n], others[m]
        if {row, other} & {3, 8}:
            assert np.isnan(found[n, m])
        else:
            assert found[n, m] == pytest.approx(cosine(vectors[row], vectors[other]), abs=1e-6)
    expected = sorted(((cosine(vectors[5], vectors[n]), n) for n in range(30) if n not in (3, 5, 8)), reverse=True)
    neighbours = likeness.neighbours(5, 4)
    assert [row for row, _ in neighbours] == [n for _, n in expected[:4]]
    assert [value for _, value in neighbours] == pytest.approx([value for value, _ in expected[:4]], abs=1e-6)
    assert likeness.neighbours(3, 4) == []
    assert len(likeness.neighbours(5, 99)) == 27


def test_items_without_a_cluster_share_none():
    likeness = Likeness(PictureTables(None, np.array([4, 4, -1, -1, 2])))
    everyone = np.arange(5)
    same = likeness.same_cluster(everyone, everyone)
    assert np.argwhere(same).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [4, 4]]
    assert likeness.cluster(0) == (4, 2, [0, 1])
    assert likeness.cluster(2) is None
    assert likeness.cosines(everyone, everyone) is None
    assert not likeness.has_vectors
    assert not likeness.has_neighbours


def test_what_is_not_known_is_taken_from_elsewhere(vectors):
    clusters = np.zeros(30, int)
    centers = PictureTables(vectors[:, :2], clusters, "the centers of clusters", have_neighbours=False)
    assert PictureTables().or_else(centers) == centers
    both = PictureTables(vectors).or_else(centers)
    assert both.vectors is vectors
    assert both.clusters is clusters
    assert both.vectors_are == "embeddings"
    assert not Likeness(centers).has_neighbours
    assert PictureTables(None, clusters + 1).or_else(centers).clusters[0] == 1


def test_embeddings_and_clusters_must_be_of_the_items(tmp_path):
    tiny = write_tiny_dataset(tmp_path / "a", items=20, users=5, pages=12)
    other = write_tiny_dataset(tmp_path / "b", items=21, users=5, pages=12)
    tables = PictureTables.of(Dataset(tiny.data), tiny.embeddings, tiny.clusters)
    assert len(tables.vectors) == len(tables.clusters) == 20
    with pytest.raises(ArtifactError, match="`embeddings`: made for the items of another dataset"):
        PictureTables.of(Dataset(tiny.data), other.embeddings, None)
    with pytest.raises(ArtifactError, match="`clusters`: made for the items of another dataset"):
        PictureTables.of(Dataset(tiny.data), None, other.clusters)
