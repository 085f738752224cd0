import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from models.data.pages import items_on_pages
from models.embeddings.embeddings import Embeddings
from models.embeddings.whiten import whiten
from models.embeddings.whitening import Whitening
from tests.models.picture_dataset import write_picture_dataset
from tests.models.saved_embeddings import save_embeddings

ITEMS, DIM = 60, 5
ON_PAGES = [*range(40), 50]  # items of the pretrain pages; 50 only in a history
WITHOUT_PICTURE = [3, 45]
FITTED = [item for item in ON_PAGES if item not in WITHOUT_PICTURE]
HAS_IMAGE = ~np.isin(np.arange(ITEMS), WITHOUT_PICTURE)
BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pages = [
        {
            "item": list(range(first, first + 8)),
            "clicked": [1] + [0] * 7,
            "click_item": [0, 50],
            "timestamp": 1000 + first,
        }
        for first in range(0, 40, 8)
    ]
    places = [(0, 0) if present else (-1, -1) for present in HAS_IMAGE]
    return write_picture_dataset(tmp_path_factory.mktemp("whiten") / "data", [[BLACK]], places, pages)


def save(path, dataset, vectors=None, dtype="float32", **encoder):
    if vectors is None:
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(ITEMS, DIM)) @ rng.normal(size=(DIM, DIM)) + 3
    return save_embeddings(path, vectors.astype(dtype), HAS_IMAGE, dataset, **encoder)


@pytest.fixture
def embeddings(tmp_path, data):
    return save(tmp_path / "embeddings", data)


def test_training_items_are_those_of_candidates_and_histories(data):
    assert np.flatnonzero(items_on_pages(data, "pretrain")).tolist() == ON_PAGES


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_training_items_are_white_and_all_items_are_mapped_alike(data, tmp_path, dtype):
    embeddings = save(tmp_path / "embeddings", data, dtype=dtype)
    whitened = whiten(embeddings.path, tmp_path / "out", data=data.path)
    assert whitened.metadata == Embeddings.load(tmp_path / "out").metadata
    assert whitened.vectors.dtype == whitened.metadata.dtype == dtype
    tolerance = 1e-5 if dtype == "float32" else 3e-3
    fitted = whitened.vectors[FITTED].astype(np.float64)
    np.testing.assert_allclose(fitted.mean(axis=0), 0, atol=tolerance)
    np.testing.assert_allclose(np.cov(fitted.T), np.eye(5), atol=tolerance)
    expected = Whitening.fit([embeddings.vectors[FITTED]]).transform(embeddings.vectors) * HAS_IMAGE[:, None]
    np.testing.assert_allclose(whitened.vectors, expected.astype(dtype), rtol=1e-5, atol=1e-5)
    assert not whitened.vectors[WITHOUT_PICTURE].any()


def test_describes_the_whitening_and_keeps_the_rest(embeddings, data, tmp_path):
    whitened = whiten(embeddings, tmp_path / "out", data=data, dim=3, l2=True)
    before, after = embeddings.metadata, whitened.metadata
    changed = {name for name in type(after).model_fields if getattr(before, name) != getattr(after, name)}
    assert changed == {"dim", "embeddings_sha256", "whitening"}
    described = after.whitening
    assert (after.dim, described.dim, described.encoder_dim, described.l2) == (3, 3, 5, True)
    assert described.fitted_items == len(FITTED)
    assert described.window == data.split("pretrain").window
    assert described.dataset_digest == data.manifest.digest()
    np.testing.assert_array_equal(whitened.picture_hashes, embeddings.picture_hashes)
    np.testing.assert_allclose(np.linalg.norm(whitened.vectors[HAS_IMAGE], axis=1), 1, rtol=1e-6)


def test_other_items_do_not_change_the_whitening(embeddings, data, tmp_path):
    whitened = whiten(embeddings, tmp_path / "out", data=data)
    others = np.setdiff1d(np.arange(ITEMS), FITTED)
    vectors = embeddings.vectors.copy()
    vectors[others] *= -50
    changed = whiten(save(tmp_path / "changed", data, vectors), tmp_path / "changed_out", data=data)
    assert changed.metadata.whitening == whitened.metadata.whitening
    np.testing.assert_array_equal(changed.vectors[FITTED], whitened.vectors[FITTED])
    vectors = embeddings.vectors.copy()
    vectors[FITTED[0]] += 1
    changed = whiten(save(tmp_path / "trained", data, vectors), tmp_path / "trained_out", data=data)
    assert changed.metadata.whitening != whitened.metadata.whitening


def test_new_embeddings_keep_an_existing_whitening(embeddings, data, tmp_path):
    whitened = whiten(embeddings, tmp_path / "out", data=data, dim=4)
    new = save(tmp_path / "new", data, np.random.default_rng(7).normal(size=(ITEMS, DIM)))
    again = whiten(new, tmp_path / "new_out", like=tmp_path / "out")
    assert again.metadata.whitening == whitened.metadata.whitening
    assert again.metadata.space_difference(whitened.metadata) is None
    assert (tmp_path / "new_out" / "whitening.npz").read_bytes() == (tmp_path / "out" / "whitening.npz").read_bytes()
    expected = Whitening.load(tmp_path / "out" / "whitening.npz").transform(new.vectors)
    np.testing.assert_allclose(again.vectors[HAS_IMAGE], expected[HAS_IMAGE], rtol=1e-6)


def test_rank_deficient_embeddings(data, tmp_path):
    rng = np.random.default_rng(0)
    embeddings = save(tmp_path / "flat", data, rng.normal(size=(ITEMS, 2)) @ rng.normal(size=(2, DIM)))
    assert whiten(embeddings, tmp_path / "out", data=data).dim == 2
    with pytest.raises(ArtifactError, match=r"flat: of 40 items .* pages: `dim` must be at most 2: .*Received: 3"):
        whiten(embeddings, tmp_path / "more", data=data, dim=3)
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("item", [5, 55])
def test_vectors_that_are_not_finite_are_named(data, tmp_path, item):
    vectors = np.random.default_rng(0).normal(size=(ITEMS, DIM))
    vectors[item, 1] = np.nan
    embeddings = save(tmp_path / "embeddings", data, vectors)
    with pytest.raises(ArtifactError, match=f"^`embeddings` [^:]*: the vector of item row {item} is not finite$"):
        whiten(embeddings, tmp_path / "out", data=data)
    assert not (tmp_path / "out").exists()


def test_vectors_that_do_not_fit_the_stored_type_are_refused(data, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(ITEMS, DIM))
    vectors[55] *= 1e6  # finite as it is stored, but not when it is divided by the small deviation of the fitted items
    embeddings = save(tmp_path / "embeddings", data, vectors * 0.01, dtype="float16")
    with pytest.raises(ArtifactError, match=r"`embeddings` .*, whitened: the vector of item row 55 is not finite"):
        whiten(embeddings, tmp_path / "out", data=data)


def append(file):
    with open(file, "ab") as opened:
        opened.write(b"x")


def test_mistakes_are_refused_before_any_work(embeddings, data, tmp_path, capfd):
    white = whiten(embeddings, tmp_path / "white", data=data)
    fewer = write_picture_dataset(tmp_path / "fewer", [[BLACK]], [(0, 0)])
    others = write_picture_dataset(tmp_path / "others", [[BLACK + 1]], [(0, 0)] * ITEMS)
    later = save(tmp_path / "later", others)
    other = save(tmp_path / "other", data, weights_sha256="other")
    before = sorted(tmp_path.iterdir())
    capfd.readouterr()
    for source, options, error, message in [
        (embeddings, {"data": data, "dim": 0}, InputError, "`dim` must be at least 1. Received: 0"),
        (embeddings, {"data": data, "dim": 6}, InputError, "`dim` must be at most the 5 .*Received: 6"),
        (embeddings, {}, InputError, "`data` must be the dataset to fit on"),
        (white, {"data": data}, ArtifactError, "`embeddings`: .*white is whitened already"),
        (embeddings, {"data": fewer}, ArtifactError, "`embeddings`: made for the items of another"),
        (embeddings, {"data": others}, ArtifactError, "`embeddings`: made from other pictures"),
        (later, {"data": others}, InputError, "has no pages in split `pretrain`"),
        (embeddings, {"like": white.path, "l2": True}, InputError, "`like` applies a whitening as it is"),
        (embeddings, {"like": white.path, "dim": 2}, InputError, "`like` applies a whitening as it is"),
        (other, {"like": white.path}, ArtifactError, "`like`: .*white is of another version: their encoders"),
        (embeddings, {"like": other.path}, ArtifactError, "`like`: .*other is not whitened"),
    ]:
        with pytest.raises(error, match=message):
            whiten(source, tmp_path / "out", **options)
    with pytest.raises(ArtifactError, match="white exists; pass `overwrite=True`"):
        whiten(embeddings, tmp_path / "white", data=data)
    append(tmp_path / "white" / "whitening.npz")
    with pytest.raises(ArtifactError, match=r"`like`: .*whitening\.npz is missing or is not the file"):
        whiten(embeddings, tmp_path / "out", like=tmp_path / "white")
    append(embeddings.path / "embeddings.npy")
    with pytest.raises(ArtifactError, match=r"`embeddings`: .*embeddings\.npy is missing or is not the file"):
        whiten(embeddings.path, tmp_path / "out", data=data)
    assert sorted(tmp_path.iterdir()) == before
    assert capfd.readouterr() == ("", "")
