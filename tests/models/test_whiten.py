import numpy as np
import pytest

from beam_pipelines.format.manifest import Window, file_sha256
from beam_pipelines.shell.command import CommandError
from models import whiten
from models.artifact import read_metadata
from models.data.dataset import Dataset
from models.data.pages import items_on_pages
from models.embeddings.store import EmbeddingsMetadata, load_embeddings, load_picture_hashes, space_difference
from models.embeddings.whitening import Whitening
from models.vision.encoder_run import EncoderMetadata
from tests.models.picture_dataset import write_picture_dataset

ITEMS, DIM = 60, 5
ON_PAGES = [*range(40), 50]  # items of the pretrain pages; 50 only in a history
WITHOUT_PICTURE = [3, 45]
FITTED = [item for item in ON_PAGES if item not in WITHOUT_PICTURE]


@pytest.fixture
def data(tmp_path):
    pages = [
        {
            "item": list(range(first, first + 8)),
            "clicked": [1] + [0] * 7,
            "click_item": [0, 50],
            "timestamp": 1000 + first,
        }
        for first in range(0, 40, 8)
    ]
    black = np.zeros((8, 8, 3), np.uint8)
    places = [(-1, -1) if item in WITHOUT_PICTURE else (0, 0) for item in range(ITEMS)]
    write_picture_dataset(tmp_path / "data", [[black]], places, pages)
    return tmp_path / "data"


def write_embeddings(directory, data, vectors=None, *, weights="weights", dtype="float32"):
    manifest = Dataset(data).manifest
    if vectors is None:
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(ITEMS, DIM)) @ rng.normal(size=(DIM, DIM)) + 3
    has_image = ~np.isin(np.arange(ITEMS), WITHOUT_PICTURE)
    vectors = np.where(has_image[:, None], vectors, 0).astype(dtype)
    directory.mkdir()
    np.save(directory / "embeddings.npy", vectors)
    np.save(directory / "has_image.npy", has_image)
    np.save(directory / "picture_sha256.npy", Dataset(data).picture_hashes())
    EmbeddingsMetadata(
        items=ITEMS,
        items_with_image=int(has_image.sum()),
        dim=vectors.shape[1],
        dtype=dtype,
        embeddings_sha256=file_sha256(directory / "embeddings.npy"),
        item_ids_sha256=manifest.items.ids_sha256,
        pictures_sha256=manifest.pictures_sha256,
        picture_hashes_sha256=file_sha256(directory / "picture_sha256.npy"),
        encoder=EncoderMetadata(
            method="courier",
            image_size=(8, 8),
            embedding_dim=vectors.shape[1],
            weights_sha256=weights,
            dataset_digest="dataset",
            window=Window(first=0, last=1),
            notice="",
        ),
    ).write(directory)
    return directory


@pytest.fixture
def embeddings(tmp_path, data):
    return write_embeddings(tmp_path / "embeddings", data)


def arguments(embeddings, data, output, *more):
    return ["--embeddings", str(embeddings), "--data", str(data), "--output", str(output), *more]


def metadata_of(directory):
    return read_metadata(EmbeddingsMetadata, directory, "models.whiten")


def test_training_items_are_those_of_candidates_and_histories(data):
    assert np.flatnonzero(items_on_pages(Dataset(data), "pretrain")).tolist() == ON_PAGES


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_training_items_are_white_and_all_items_are_mapped_alike(data, tmp_path, dtype):
    embeddings = write_embeddings(tmp_path / "embeddings", data, dtype=dtype)
    closing = whiten.main(arguments(embeddings, data, tmp_path / "out"))
    assert (
        f"58 of 60 items to {tmp_path / 'out'} (5 of 5 components, fitted on {len(FITTED)} pretrain items)" in closing
    )
    metadata, whitened, has_image = load_embeddings(tmp_path / "out")
    assert whitened.dtype == metadata.dtype == dtype
    tolerance = 1e-5 if dtype == "float32" else 3e-3
    fitted = whitened[FITTED].astype(np.float64)
    np.testing.assert_allclose(fitted.mean(axis=0), 0, atol=tolerance)
    np.testing.assert_allclose(np.cov(fitted.T), np.eye(5), atol=tolerance)
    _, vectors, _ = load_embeddings(embeddings)
    expected = Whitening.fit([vectors[FITTED]]).transform(vectors) * has_image[:, None]
    np.testing.assert_allclose(whitened, expected.astype(dtype), rtol=1e-5, atol=1e-5)
    assert not whitened[WITHOUT_PICTURE].any()


def test_says_what_was_done_and_keeps_what_was_known(embeddings, data, tmp_path):
    whiten.main(arguments(embeddings, data, tmp_path / "out", "--dim", "3", "--l2"))
    before, after = metadata_of(embeddings), metadata_of(tmp_path / "out")
    changed = {name for name in type(after).model_fields if getattr(before, name) != getattr(after, name)}
    assert changed == {"dim", "embeddings_sha256", "whitening"}
    described = after.whitening
    assert (after.dim, described.dim, described.encoder_dim, described.l2) == (3, 3, 5, True)
    assert described.fitted_items == len(FITTED)
    assert described.window == Dataset(data).split("pretrain").window
    assert described.dataset_digest == Dataset(data).manifest.digest()
    np.testing.assert_array_equal(load_picture_hashes(tmp_path / "out", after), load_picture_hashes(embeddings, before))
    _, unit, has_image = load_embeddings(tmp_path / "out")
    np.testing.assert_allclose(np.linalg.norm(unit[has_image], axis=1), 1, rtol=1e-6)


def test_other_items_do_not_change_the_whitening(embeddings, data, tmp_path):
    whiten.main(arguments(embeddings, data, tmp_path / "out"))
    _, vectors, _ = load_embeddings(embeddings)
    others = np.setdiff1d(np.arange(ITEMS), FITTED)
    changed = vectors.copy()
    changed[others] *= -50
    write_embeddings(tmp_path / "changed", data, changed)
    whiten.main(arguments(tmp_path / "changed", data, tmp_path / "changed_out"))
    assert metadata_of(tmp_path / "changed_out").whitening == metadata_of(tmp_path / "out").whitening
    np.testing.assert_array_equal(
        load_embeddings(tmp_path / "changed_out")[1][FITTED], load_embeddings(tmp_path / "out")[1][FITTED]
    )
    changed = vectors.copy()
    changed[FITTED[0]] += 1
    write_embeddings(tmp_path / "trained", data, changed)
    whiten.main(arguments(tmp_path / "trained", data, tmp_path / "trained_out"))
    assert metadata_of(tmp_path / "trained_out").whitening != metadata_of(tmp_path / "out").whitening


def test_new_embeddings_keep_an_existing_whitening(embeddings, data, tmp_path):
    whiten.main(arguments(embeddings, data, tmp_path / "out", "--dim", "4"))
    vectors = np.random.default_rng(7).normal(size=(ITEMS, DIM))
    new = write_embeddings(tmp_path / "new", data, vectors)
    # No dataset is needed.
    like = ["--like", str(tmp_path / "out")]
    closing = whiten.main(arguments(new, tmp_path / "nowhere", tmp_path / "new_out", *like))
    assert f"(4 of 5 components, as {tmp_path / 'out'})" in closing
    first, second = metadata_of(tmp_path / "out"), metadata_of(tmp_path / "new_out")
    assert second.whitening == first.whitening
    assert space_difference(first, second) is None
    assert (tmp_path / "new_out" / "whitening.npz").read_bytes() == (tmp_path / "out" / "whitening.npz").read_bytes()
    _, whitened, has_image = load_embeddings(tmp_path / "new_out")
    expected = Whitening.load(tmp_path / "out" / "whitening.npz").transform(load_embeddings(new)[1])
    np.testing.assert_allclose(whitened[has_image], expected[has_image], rtol=1e-6)


def test_embeddings_of_two_versions_are_told_apart(embeddings, data, tmp_path):
    other = metadata_of(write_embeddings(tmp_path / "other", data, weights="other"))
    whiten.main(arguments(embeddings, data, tmp_path / "a"))
    whiten.main(arguments(embeddings, data, tmp_path / "b", "--dim", "2"))
    plain, a, b = (metadata_of(directory) for directory in (embeddings, tmp_path / "a", tmp_path / "b"))
    assert space_difference(plain, plain) is None
    assert space_difference(a, a.model_copy(update={"dtype": "float16", "items": 7})) is None
    assert space_difference(plain, other).startswith("their encoders differ: ")
    assert space_difference(plain, a) == f"their whitenings differ: none and {a.whitening.whitening_sha256[:12]}"
    assert space_difference(a, b).startswith("their whitenings differ: ")


def test_rank_deficient_embeddings(data, tmp_path):
    rng = np.random.default_rng(0)
    embeddings = write_embeddings(tmp_path / "flat", data, rng.normal(size=(ITEMS, 2)) @ rng.normal(size=(2, DIM)))
    assert "(2 of 5 components" in whiten.main(arguments(embeddings, data, tmp_path / "out"))
    with pytest.raises(CommandError, match=r"`dim` must be at most 2: .*Received: 3"):
        whiten.main(arguments(embeddings, data, tmp_path / "more", "--dim", "3"))
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("item", [5, 55])
def test_vectors_that_are_not_finite_are_named(data, tmp_path, item):
    vectors = np.random.default_rng(0).normal(size=(ITEMS, DIM))
    vectors[item, 1] = np.nan
    embeddings = write_embeddings(tmp_path / "embeddings", data, vectors)
    with pytest.raises(CommandError, match=f"--embeddings .*: the vector of item row {item} is not finite"):
        whiten.main(arguments(embeddings, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def damaged(directory, name):
    with open(directory / name, "ab") as file:
        file.write(b"x")


def test_mistakes_are_refused_before_any_work(embeddings, data, tmp_path, capfd):
    whiten.main(arguments(embeddings, data, tmp_path / "white"))
    black = np.zeros((8, 8, 3), np.uint8)
    write_picture_dataset(tmp_path / "fewer", [[black]], [(0, 0)])
    write_picture_dataset(tmp_path / "others", [[black + 1]], [(0, 0)] * ITEMS)
    write_embeddings(tmp_path / "later", tmp_path / "others")
    other = write_embeddings(tmp_path / "other", data, weights="other")
    before = sorted(tmp_path.iterdir())
    like = ["--like", str(tmp_path / "white")]
    capfd.readouterr()
    for options, message in [
        (arguments(embeddings, data, tmp_path / "out", "--dim", "0"), "--dim must be at least 1. Received: 0"),
        (arguments(embeddings, data, tmp_path / "out", "--dim", "6"), "--dim must be at most the 5 .*Received: 6"),
        (arguments(tmp_path / "white", data, tmp_path / "out"), "--embeddings: .*white is whitened already"),
        (arguments(embeddings, tmp_path / "fewer", tmp_path / "out"), "--embeddings: made for the items of another"),
        (arguments(embeddings, tmp_path / "others", tmp_path / "out"), "--embeddings: made from other pictures"),
        (arguments(tmp_path / "later", tmp_path / "others", tmp_path / "out"), "has no pages in split `pretrain`"),
        (arguments(embeddings, data, tmp_path / "out", *like, "--l2"), "--like applies a whitening as it is"),
        (arguments(embeddings, data, tmp_path / "out", *like, "--dim", "2"), "--like applies a whitening as it is"),
        (arguments(other, data, tmp_path / "out", *like), "--like: .*white is of another version: their encoders"),
        (arguments(embeddings, data, tmp_path / "out", "--like", str(other)), "--like: .*other is not whitened"),
        (arguments(embeddings, data, tmp_path / "white"), "white exists; pass --overwrite"),
    ]:
        with pytest.raises(CommandError, match=message):
            whiten.main(options)
    damaged(tmp_path / "white", "whitening.npz")
    with pytest.raises(CommandError, match=r"--like: .*whitening\.npz is missing or is not the file"):
        whiten.main(arguments(embeddings, data, tmp_path / "out", *like))
    damaged(embeddings, "embeddings.npy")
    with pytest.raises(CommandError, match=r"--embeddings: .*embeddings\.npy is missing or is not the file"):
        whiten.main(arguments(embeddings, data, tmp_path / "out"))
    assert sorted(tmp_path.iterdir()) == before
    assert capfd.readouterr() == ("", "")  # no progress bar was ever shown
