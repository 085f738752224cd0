import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.manifest import Window
from models.data.dataset import Dataset
from models.embeddings.embeddings import Embeddings, WhiteningMetadata
from tests.models.picture_dataset import write_picture_dataset
from tests.models.saved_embeddings import save_embeddings

HAS_IMAGE = np.arange(10) != 3


def random_vectors(dtype="float32"):
    return np.random.default_rng(0).normal(size=(10, 4)).astype(dtype)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Ten items with one picture; the same with another picture; three items."""
    root = tmp_path_factory.mktemp("datasets")
    black = np.zeros((8, 8, 3), np.uint8)
    page = {"item": [0, 1], "clicked": [1, 0], "click_item": [2], "timestamp": 1000}
    places = [(0, 0) if present else (-1, -1) for present in HAS_IMAGE]
    return (
        write_picture_dataset(root / "one", [[black]], places, [page]),
        write_picture_dataset(root / "pictures", [[black + 1]], places),
        write_picture_dataset(root / "items", [[black]], [(0, 0)] * 3),
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_was_saved_is_loaded(tmp_path, datasets, dtype):
    saved = save_embeddings(tmp_path / "made" / "here", random_vectors(dtype), HAS_IMAGE, datasets[0])
    loaded = Embeddings.load(str(tmp_path / "made" / "here"))
    assert loaded.metadata == saved.metadata
    assert (loaded.metadata.items, loaded.metadata.items_with_image, loaded.metadata.dtype) == (10, 9, dtype)
    assert loaded.dim == 4
    assert isinstance(loaded.vectors, np.memmap)
    np.testing.assert_array_equal(loaded.vectors, random_vectors(dtype) * HAS_IMAGE[:, None])
    np.testing.assert_array_equal(loaded.has_image, HAS_IMAGE)
    np.testing.assert_array_equal(loaded.picture_hashes, datasets[0].picture_hashes())
    assert "9 of 10 items, dim=4" in repr(loaded)
    assert "whitened" not in repr(loaded)


def test_a_file_of_vectors_is_moved(tmp_path):
    np.save(tmp_path / "scratch.npy", random_vectors())
    first = save_embeddings(tmp_path / "array", random_vectors())
    Embeddings.save(
        tmp_path / "file",
        tmp_path / "scratch.npy",
        first.has_image,
        encoder=first.metadata.encoder,
        item_ids_sha256="items",
        pictures_sha256="",
    )
    assert not (tmp_path / "scratch.npy").exists()
    assert Embeddings.load(tmp_path / "file").metadata == first.metadata


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": random_vectors("float64")}, r"`vectors` must be float32 or float16 .*Received: float64"),
        ({"vectors": random_vectors()[0]}, r"`vectors` must be .* of shape \(items, dim\)\. Received: .*\(4,\)"),
        ({"has_image": HAS_IMAGE[1:]}, r"`has_image` must be bool of shape \(10,\)\. Received: bool of shape \(9,\)"),
        ({"has_image": np.ones(10)}, r"`has_image` must be bool .*Received: float64"),
        ({"picture_hashes": np.zeros((10, 3), np.uint8)}, r"`picture_hashes` must have shape \(10, 32\)"),
    ],
)
def test_arrays_that_do_not_go_together_are_not_saved(tmp_path, changes, message):
    metadata = save_embeddings(tmp_path / "some", random_vectors()).metadata
    described = {"encoder": metadata.encoder, "item_ids_sha256": "items", "pictures_sha256": ""}
    arrays = {"vectors": random_vectors(), "has_image": HAS_IMAGE}
    with pytest.raises(ValueError, match=message):
        Embeddings.save(tmp_path / "out", **{**arrays, **described, **changes})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [1, 3, 10, 11])
def test_blocks_are_the_vectors(tmp_path, dtype, rows):
    embeddings = save_embeddings(tmp_path, random_vectors(dtype))
    blocks = list(embeddings.blocks(rows))
    assert [start for start, _ in blocks] == list(range(0, 10, rows))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), random_vectors(dtype))
    assert all(block.dtype == dtype for _, block in blocks)
    assert not any(isinstance(block, np.memmap) for _, block in blocks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "metadata.json").unlink(), r"has no metadata\.json; models\.embed makes it"),
        (lambda d: (d / "metadata.json").write_text("{}"), "does not describe a directory of kind `embeddings`"),
        (lambda d: np.save(d / "embeddings.npy", random_vectors() + 1), r"embeddings\.npy is missing or is not the"),
        (lambda d: (d / "embeddings.npy").unlink(), r"embeddings\.npy is missing or is not the file"),
        (lambda d: (d / "has_image.npy").unlink(), r"has_image\.npy is missing or is not the file"),
        (lambda d: np.save(d / "has_image.npy", np.zeros(10, bool)), r"has_image\.npy is missing or is not the"),
        (lambda d: np.save(d / "has_image.npy", np.append(HAS_IMAGE, False)), r"has_image\.npy is missing or is not"),
    ],
)
def test_damaged_directories_are_refused(tmp_path, change, message):
    save_embeddings(tmp_path, random_vectors(), HAS_IMAGE)
    change(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        Embeddings.load(tmp_path)


def test_hashes_of_pictures_are_verified_when_they_are_read(tmp_path, datasets):
    save_embeddings(tmp_path, random_vectors(), HAS_IMAGE, datasets[0])
    np.save(tmp_path / "picture_sha256.npy", datasets[1].picture_hashes())
    embeddings = Embeddings.load(tmp_path)
    with pytest.raises(ArtifactError, match=r"picture_sha256\.npy is missing or is not the file"):
        _ = embeddings.picture_hashes
    without = save_embeddings(tmp_path / "without", random_vectors())
    with pytest.raises(ArtifactError, match="has no hashes of its pictures"):
        _ = without.picture_hashes


def test_they_belong_to_one_dataset(tmp_path, datasets):
    embeddings = save_embeddings(tmp_path, random_vectors(), HAS_IMAGE, datasets[0])
    embeddings.check_matches(Dataset(datasets[0].path))
    with pytest.raises(ArtifactError, match=r"made from other pictures than those of .*/pictures; run models\.embed"):
        embeddings.check_matches(datasets[1])
    with pytest.raises(ArtifactError, match=r"made for the items of another dataset than .*/items; run models\.embed"):
        embeddings.check_matches(datasets[2])


def test_an_encoder_that_has_seen_the_pages_of_a_split_leaks(tmp_path, datasets):
    before = save_embeddings(tmp_path / "before", random_vectors(), window=Window(first=0, last=999))
    before.check_no_leakage(datasets[0], "pretrain")
    during = save_embeddings(tmp_path / "during", random_vectors(), window=Window(first=0, last=1000))
    with pytest.raises(ArtifactError, match=r"from 0 to 1000, which overlap the pretrain pages from 1000 to 1000"):
        during.check_no_leakage(datasets[0], "pretrain")


def test_versions_are_told_apart(tmp_path):
    plain = save_embeddings(tmp_path / "plain", random_vectors()).metadata
    other = save_embeddings(tmp_path / "other", random_vectors(), weights_sha256="other").metadata
    whitening = WhiteningMetadata(
        dim=2,
        encoder_dim=4,
        l2=False,
        fitted_items=9,
        whitening_sha256="a" * 64,
        dataset_digest="dataset",
        window=Window(first=0, last=1),
    )
    a = plain.model_copy(update={"whitening": whitening})
    b = plain.model_copy(update={"whitening": whitening.model_copy(update={"whitening_sha256": "b" * 64})})
    assert plain.space_difference(plain) is None
    assert a.space_difference(a.model_copy(update={"dtype": "float16", "items": 7})) is None
    assert plain.space_difference(other).startswith("their encoders differ: ")
    assert plain.space_difference(a) == f"their whitenings differ: none and {'a' * 12}"
    assert a.space_difference(b) == f"their whitenings differ: {'a' * 12} and {'b' * 12}"
    assert "whitened" in repr(Embeddings(tmp_path, a))
