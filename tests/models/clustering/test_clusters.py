import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError
from models.clustering.clusters import Clusters
from models.embeddings.embeddings import Embeddings
from tests.models.picture_dataset import write_picture_dataset
from tests.models.saved_embeddings import save_embeddings

IDS = np.array([0, 2, 2, -1, 0, 2], np.int32)
CENTERS = np.eye(3, 4, dtype=np.float32)


def save(path, embeddings: Embeddings, ids=IDS, centers=CENTERS):
    return Clusters.save(
        path,
        ids,
        centers,
        embeddings=embeddings.metadata,
        backend="exact",
        normalize=True,
        spherical=False,
        mean_squared_distance=0.25,
        seed=3,
    )


@pytest.fixture
def embeddings(tmp_path):
    return save_embeddings(tmp_path / "embeddings", np.ones((6, 4), np.float32), IDS >= 0)


def test_what_was_saved_is_loaded(tmp_path, embeddings):
    saved = save(tmp_path / "made" / "here", embeddings)
    loaded = Clusters.load(str(tmp_path / "made" / "here"))
    assert loaded.metadata == saved.metadata
    assert loaded.metadata.embeddings == embeddings.metadata
    assert (loaded.metadata.num_clusters, loaded.metadata.mean_squared_distance, loaded.dim) == (3, 0.25, 4)
    np.testing.assert_array_equal(loaded.ids, IDS)
    np.testing.assert_array_equal(loaded.centers, CENTERS)
    assert loaded.sizes.tolist() == [2, 0, 3]
    assert "3 clusters of 5 pictures, dim=4, exact" in repr(loaded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "metadata.json").unlink(), r"has no metadata\.json; models\.cluster makes it"),
        (lambda d: np.save(d / "centers.npy", CENTERS + 1), r"centers\.npy is missing or is not the file"),
        (lambda d: (d / "cluster_ids.npy").unlink(), r"cluster_ids\.npy is missing or is not the file"),
    ],
)
def test_damaged_directories_are_refused(tmp_path, embeddings, change, message):
    save(tmp_path / "clusters", embeddings)
    change(tmp_path / "clusters")
    with pytest.raises(ArtifactError, match=message):
        Clusters.load(tmp_path / "clusters")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": IDS[1:]}, r"`ids` must have shape \(6,\), an ID per item\. Received: \(5,\)"),
        ({"ids": IDS + 1}, r"`ids` must be below the number of centers, 3\. Received: 3"),
        ({"centers": CENTERS[:, 1:]}, r"`centers` must have shape \(clusters, 4\)\. Received: \(3, 3\)"),
    ],
)
def test_arrays_that_do_not_go_together_are_not_saved(tmp_path, embeddings, arrays, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "clusters", embeddings, **arrays)
    assert not (tmp_path / "clusters").exists()


def test_embeddings_are_no_clusters(embeddings):
    with pytest.raises(ArtifactError, match=r"of kind `clusters`; models\.cluster makes it"):
        Clusters.load(embeddings.path)


def test_they_belong_to_the_dataset_of_their_embeddings(tmp_path):
    black = np.zeros((8, 8, 3), np.uint8)
    places = [(0, 0) if cluster >= 0 else (-1, -1) for cluster in IDS]
    dataset = write_picture_dataset(tmp_path / "data", [[black]], places)
    other = write_picture_dataset(tmp_path / "other", [[black]], places[:3])
    embeddings = save_embeddings(tmp_path / "embeddings", np.ones((6, 4), np.float32), IDS >= 0, dataset)
    clusters = save(tmp_path / "clusters", embeddings)
    clusters.check_matches(dataset)
    with pytest.raises(ArtifactError, match="made for the items of another dataset than"):
        clusters.check_matches(other)


def test_the_encoder_of_their_embeddings_must_not_have_seen_the_pages(tmp_path, embeddings):
    page = {"item": [0, 1], "clicked": [1, 0], "click_item": [2], "timestamp": 1}
    black = np.zeros((8, 8, 3), np.uint8)
    dataset = write_picture_dataset(tmp_path / "data", [[black]], [(0, 0)] * 6, [page])
    with pytest.raises(ArtifactError, match="which overlap the pretrain pages from 1 to 1"):
        save(tmp_path / "clusters", embeddings).check_no_leakage(dataset, "pretrain")
