import hashlib

import keras
import numpy as np
import pytest

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.manifest import Window
from models.embeddings.embed import count_pictures, embed
from models.embeddings.embeddings import Embeddings, WhiteningMetadata
from tests.models.embeddings.encoder_run import random_pictures, save_encoder, write_dataset
from tests.models.picture_dataset import encode_picture, write_picture_dataset

PLACES = [(0, 1), (1, 0), (-1, -1), (0, 0), (0, 1)]  # items 0 and 4 share a picture
HAS_IMAGE = np.array([True, True, False, True, True])
PICTURES = random_pictures(3)
WHITENING = WhiteningMetadata(
    dim=5,
    encoder_dim=5,
    l2=False,
    fitted_items=4,
    whitening_sha256="whitening",
    dataset_digest="dataset",
    window=Window(first=0, last=1),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("embed")


@pytest.fixture(scope="module")
def dataset(root):
    return write_picture_dataset(root / "data", [PICTURES[:2], PICTURES[2:]], PLACES, image_format="webp")


@pytest.fixture(scope="module")
def encoder(root):
    return save_encoder(root / "encoder")


@pytest.fixture(scope="module")
def embeddings(dataset, encoder, root):
    return embed(dataset, encoder, root / "embeddings", batch_size=2)


def test_every_item_gets_the_embedding_of_its_picture(embeddings, encoder, root):
    metadata = embeddings.metadata
    assert metadata == Embeddings.load(root / "embeddings").metadata
    assert (metadata.items, metadata.items_with_image, metadata.dim, metadata.dtype) == (5, 4, 5, "float32")
    assert metadata.encoder == encoder.metadata
    assert embeddings.has_image.tolist() == HAS_IMAGE.tolist()
    expected = keras.ops.convert_to_numpy(encoder.encoder()(PICTURES[[1, 2, 0, 0, 1]])) * HAS_IMAGE[:, None]
    np.testing.assert_allclose(embeddings.vectors, expected, atol=1e-5)
    assert embeddings.vectors.dtype == np.float32
    assert embeddings.picture_hashes[2].tolist() == [0] * 32
    for item, picture in [(0, 1), (1, 2), (3, 0), (4, 1)]:
        digest = hashlib.sha256(encode_picture(PICTURES[picture], "webp")).digest()
        assert embeddings.picture_hashes[item].tobytes() == digest
    assert count_pictures(embeddings) == (3, 0)
    assert {"data", "encoder", "embeddings"} >= {path.name for path in root.iterdir()}  # nothing is left behind


def test_half_precision_files_hold_the_rounded_vectors(dataset, embeddings, root, tmp_path):
    half = embed(dataset.path, str(root / "encoder"), str(tmp_path / "float16"), batch_size=2, dtype="float16")
    assert (half.metadata.dtype, half.vectors.dtype) == ("float16", np.float16)
    np.testing.assert_array_equal(half.vectors, embeddings.vectors.astype(np.float16))


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_changes_the_computation_and_hardly_the_vectors(dataset, embeddings, root, tmp_path, precision):
    mixed = embed(dataset, root / "encoder", tmp_path / "mixed", precision=precision)
    assert (mixed.metadata.precision, mixed.vectors.dtype) == (precision, np.float32)
    assert np.abs(mixed.vectors - embeddings.vectors).max() > 0
    one, other = mixed.vectors[HAS_IMAGE], embeddings.vectors[HAS_IMAGE]
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    assert (np.einsum("ij,ij->i", one, other) > 0.999 * lengths).all()


def test_vectors_that_do_not_fit_the_stored_type_are_refused(dataset, tmp_path):
    encoder = save_encoder(tmp_path / "encoder", scale=1e7)
    with pytest.raises(ArtifactError, match="`encoder`, as float16: the vector of item row 3 is not finite"):
        embed(dataset, encoder, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1. Received: 0"),
        ({"checkpoint_minutes": float("nan")}, "`checkpoint_minutes` must be at least 0. Received: nan"),
        ({"dtype": "int8"}, "`dtype` must be one of float32, float16. Received: int8"),
        ({"precision": "float16"}, "`precision` must be one of float32, mixed_float16, mixed_bfloat16"),
        ({"encoder": "nowhere"}, r"`encoder`: nowhere has no metadata\.json; models\.pretrain makes it"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(dataset, root, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        embed(**{"data": dataset, "encoder": root / "encoder", "output": tmp_path / "out", **options})
    assert not list(tmp_path.iterdir())


def test_a_damaged_encoder_is_refused(dataset, tmp_path):
    save_encoder(tmp_path / "encoder")
    with open(tmp_path / "encoder" / "encoder.keras", "ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"`encoder`: .*encoder\.keras is missing or is not the file"):
        embed(dataset, tmp_path / "encoder", tmp_path / "out")


def test_only_new_and_changed_pictures_are_encoded(root, encoder, tmp_path):
    pictures = random_pictures(9)
    places = [(0, 0), (0, 1), (-1, -1), (0, 2), (0, 3), (0, 4), (0, 5)]
    before = write_dataset(tmp_path / "before", pictures[:6], places)
    first = embed(before, root / "encoder", tmp_path / "first")
    # The copies can be told from what would be computed.
    np.save(tmp_path / "first" / "embeddings.npy", first.vectors + 1000)
    digest = file_sha256(tmp_path / "first" / "embeddings.npy")
    first.metadata.model_copy(update={"embeddings_sha256": digest}).write(tmp_path / "first")
    first = Embeddings.load(tmp_path / "first")

    # Item 0 keeps its picture under another number, item 1's is a new one, item 2 gets that of item 3, item 3 loses
    # its own, items 7 and 8 are new and share the one that was item 5's.
    later = np.stack([pictures[n] for n in (6, 7, 8, 0, 2, 3, 4)])
    places = [(0, 3), (0, 0), (0, 4), (-1, -1), (0, 5), (0, 1), (0, 2), (0, 6), (0, 6)]
    after = write_dataset(tmp_path / "after", later, places)
    second = embed(after, root / "encoder", tmp_path / "second", previous=tmp_path / "first")
    assert count_pictures(second, first) == (7, 4)
    fresh = embed(after, root / "encoder", tmp_path / "fresh")
    for item, earlier in {0: 0, 2: 3, 4: 4, 7: 5, 8: 5}.items():
        np.testing.assert_array_equal(second.vectors[item], first.vectors[earlier])
        np.testing.assert_allclose(second.vectors[item] - 1000, fresh.vectors[item], atol=1e-3)
    np.testing.assert_allclose(second.vectors[[1, 5, 6]], fresh.vectors[[1, 5, 6]], rtol=1e-4, atol=1e-5)
    assert not second.vectors[~second.has_image].any()


def test_nothing_new_is_a_copy(dataset, embeddings, root, tmp_path):
    again = embed(dataset, root / "encoder", tmp_path / "again", previous=embeddings.path)
    assert count_pictures(again, embeddings) == (3, 3)
    for name in ("embeddings.npy", "metadata.json"):
        assert (tmp_path / "again" / name).read_bytes() == (embeddings.path / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"dtype": "float16"}, r"another dtype \(float32, here float16\)"),
        ({}, {"precision": "mixed_bfloat16"}, r"another precision \(float32, here mixed_bfloat16\)"),
        ({"picture_form": "jpeg of side 64"}, {}, r"another picture form \(jpeg of side 64, here webp of side 256\)"),
        ({"picture_hashes_sha256": ""}, {}, "has no hashes of its pictures"),
        ({"picture_hashes_sha256": "other"}, {}, r"picture_sha256\.npy is missing or is not the file"),
        ({"embeddings_sha256": "other"}, {}, r"embeddings\.npy is missing or is not the file"),
        ({"encoder": {"method": "another"}}, {}, r"was made by another encoder \(\w+, `encoder` is \w+\)"),
        ({"whitening": WHITENING}, {}, r"first is whitened; give what models\.embed wrote"),
    ],
)
def test_previous_embeddings_that_do_not_fit_are_refused(
    dataset, embeddings, root, tmp_path, changes, options, message
):
    first = Embeddings.save(
        tmp_path / "first",
        np.array(embeddings.vectors),
        embeddings.has_image,
        encoder=embeddings.metadata.encoder,
        item_ids_sha256=embeddings.metadata.item_ids_sha256,
        pictures_sha256=embeddings.metadata.pictures_sha256,
        picture_hashes=embeddings.picture_hashes,
        picture_form=embeddings.metadata.picture_form,
    )
    assert first.metadata == embeddings.metadata
    if "encoder" in changes:
        changes = {"encoder": first.metadata.encoder.model_copy(update=changes["encoder"])}
    first.metadata.model_copy(update=changes).write(tmp_path / "first")
    with pytest.raises(ArtifactError, match=f"^`previous`: .*{message}"):
        embed(dataset, root / "encoder", tmp_path / "out", previous=tmp_path / "first", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
