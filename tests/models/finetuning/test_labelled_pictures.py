import csv
import gzip
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from beam_pipelines.format.errors import ArtifactError, InputError
from models.finetuning.labelled_pictures import LabelledPictures
from tests.models.picture_dataset import write_picture_dataset

TABLE = [("train", "hat", "a.jpg"), ("train", "shoes", "b.jpg"), ("validation", "hat", "a.jpg")]


def flat(value):
    return np.full((16, 12, 3), value, np.uint8)


def write_archive(directory, table=TABLE):
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(directory / "images.zip", "w") as archive:
        for n, place in enumerate(TABLE):
            content = io.BytesIO()
            Image.fromarray(flat(50 * n)).save(content, "jpeg", quality=95)
            archive.writestr("/".join(place), content.getvalue())
    text = io.StringIO()
    csv.writer(text).writerows([("split", "label", "file"), *table])
    (directory / "labels.csv.gz").write_bytes(gzip.compress(text.getvalue().encode()))
    return directory


def test_an_archive_says_what_is_held_out(tmp_path):
    known = LabelledPictures.of_archive(write_archive(tmp_path), (8, 6))
    assert known.pictures.shape == (3, 8, 6, 3)
    np.testing.assert_allclose(known.pictures.mean(axis=(1, 2, 3)), [0, 50, 100], atol=2)
    assert known.names == ["hat", "shoes"]
    assert known.labels.tolist() == [0, 1, 0]
    assert known.held_out.tolist() == [False, False, True]
    assert len(set(known.products.tolist())) == 3


def test_a_damaged_archive_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"must have images\.zip and labels\.csv or labels\.csv\.gz"):
        LabelledPictures.of_archive(tmp_path, (8, 6))
    directory = write_archive(tmp_path / "a", [*TABLE, ("train", "hat", "missing.jpg")])
    with pytest.raises(ArtifactError, match=r"train/hat/missing\.jpg"):
        LabelledPictures.of_archive(directory, (8, 6))
    table = directory / "labels.csv.gz"
    table.write_bytes(gzip.compress(b"split,file\ntrain,a.jpg\n"))
    with pytest.raises(ArtifactError, match="must have the columns split, label, file"):
        LabelledPictures.of_archive(directory, (8, 6))
    table.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="cannot be read"):
        LabelledPictures.of_archive(directory, (8, 6))


def test_a_dataset_gives_each_picture_once_with_its_first_item(tmp_path):
    shards = [[flat(0), flat(40)], [flat(80), flat(120)]]
    places = [(1, 0), (-1, -1), (0, 0), (1, 0), (0, 1), (1, 1)]
    label = ["red", "blue", None, "green", "blue", ""]
    dataset = write_picture_dataset(
        tmp_path / "data", shards, places, columns={"label_colour": label, "category": ["a"] * 6}
    )
    known = LabelledPictures.of_dataset(dataset, (8, 6), "label_colour")
    np.testing.assert_allclose(known.pictures.mean(axis=(1, 2, 3)), [0, 40, 80, 120], atol=2)
    assert known.names == ["blue", "red"]  # green's picture is that of an item before it
    assert known.labels.tolist() == [-1, 0, 1, -1]
    assert len(set(known.products.tolist())) == 4
    assert known.held_out is None
    of_letter = LabelledPictures.of_dataset(dataset, (8, 6), "label_colour", product_digits=1)
    assert set(of_letter.products.tolist()) == {0}  # i0, i2, ...
    by_label = LabelledPictures.of_dataset(dataset, (8, 6), "category", product="label_colour")
    assert len(set(by_label.products.tolist())) == 4  # missing ones are not the same
    with pytest.raises(InputError, match="`label` must be a column of the items"):
        LabelledPictures.of_dataset(dataset, (8, 6), "label_size")
