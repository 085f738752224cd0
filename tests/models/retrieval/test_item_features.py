import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.manifest import Window
from models.data.dataset import Dataset
from models.retrieval.interactions import Interactions, Pairs
from models.retrieval.item_features import read_item_features
from tests.models.retrieval.drawn_interactions import draw_features
from tests.models.saved_embeddings import save_embeddings
from tests.models.tiny_dataset import write_tiny_dataset

ONE = Pairs(np.int32([0]), np.int32([0]))


def standardized(vectors, path):
    """What is read of a file."""
    np.save(path / "vectors.npy", vectors)
    rows = [str(row) for row in range(len(vectors))]
    return read_item_features([path / "vectors.npy"], Interactions.of(["u"], rows, ONE, ONE, ONE)).vectors


def test_vectors_are_centred_and_scaled_and_zeros_stay(tmp_path):
    vectors = draw_features() * 7 + 3
    vectors[4] = 0
    made = standardized(vectors, tmp_path)
    there = np.arange(len(vectors)) != 4
    centred = vectors[there] - vectors[there].mean(axis=0)
    np.testing.assert_allclose(made[there], centred / np.sqrt((centred**2).sum(axis=1).mean()), rtol=1e-4, atol=1e-6)
    assert not made[4].any()
    np.testing.assert_allclose(standardized(vectors * 10, tmp_path), made, atol=1e-5)
    assert not standardized(np.ones((3, 2), np.float32), tmp_path).any()
    assert not standardized(np.zeros((3, 2), np.float32), tmp_path).any()


def test_rows_of_files_are_found_by_number_and_sources_put_one_behind_the_other(tmp_path):
    interactions = Interactions.of(["u"], ["3", "0"], ONE, ONE, ONE)
    first, second = draw_features(6, 3), draw_features(4, 2, seed=1)
    np.save(tmp_path / "first.npy", first.astype(np.float16))
    np.save(tmp_path / "second.npy", second)
    features = read_item_features([tmp_path / "first.npy", tmp_path / "second.npy"], interactions)
    np.testing.assert_allclose(features.vectors[:, :3], standardized(first[[3, 0]], tmp_path), atol=1e-2)
    np.testing.assert_allclose(features.vectors[:, 3:], standardized(second[[3, 0]], tmp_path), atol=1e-6)
    assert [(source.name, source.dim) for source in features.sources] == [("first.npy", 3), ("second.npy", 2)]

    for wrong, message in (
        (np.ones((3, 2)), "must have a vector for each item row, of which the last one is 3. Received: 3"),
        (np.ones(4), "must hold numbers of shape"),
        (np.full((4, 1), np.nan), "the vector of item row 3 is not finite"),
    ):
        np.save(tmp_path / "wrong.npy", wrong)
        with pytest.raises(InputError, match=message):
            read_item_features([tmp_path / "wrong.npy"], interactions)
    with pytest.raises(ArtifactError, match=r"neither a directory of embeddings nor a \.npy file"):
        read_item_features([tmp_path / "nothing.npy"], interactions)
    with pytest.raises(InputError, match="item IDs must be numbers of rows"):
        read_item_features([tmp_path / "first.npy"], Interactions.of(["u"], ["shoe"], ONE, ONE, ONE))


def test_embeddings_belong_to_the_dataset_and_have_not_seen_its_pages(tmp_path):
    tiny = write_tiny_dataset(tmp_path / "tiny", items=30, pages=60)
    dataset = Dataset(tiny.data)
    interactions = Interactions.from_pages(dataset)
    features = read_item_features([tiny.embeddings], interactions, dataset)
    assert features.vectors.shape[0] == 30
    assert features.sources[0].embeddings.items == 30
    with pytest.raises(InputError, match="need that dataset as `data`"):
        read_item_features([tiny.embeddings], interactions)
    with pytest.raises(ArtifactError, match="made for the items of another dataset"):
        read_item_features([save_embeddings(tmp_path / "other", draw_features(30)).path], interactions, dataset)
    window = Window(first=dataset.split("train").window.last, last=dataset.split("train").window.last)
    save_embeddings(tmp_path / "seen", draw_features(30), dataset=dataset, window=window)
    with pytest.raises(ArtifactError, match="which overlap the train pages"):
        read_item_features([tmp_path / "seen"], interactions, dataset)
    allowed = read_item_features([tmp_path / "seen"], interactions, dataset, allow_window_overlap=True)
    assert allowed.vectors.shape == (30, 5)
