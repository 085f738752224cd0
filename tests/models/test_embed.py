import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from beam_pipelines.command import CommandError
from beam_pipelines.manifest import Window, file_sha256
from models import embed
from models.artifacts import EncoderMetadata
from models.embeddings.store import load_embeddings
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from tests.models.picture_dataset import write_picture_dataset

PLACES = [(0, 1), (1, 0), (-1, -1), (0, 0), (0, 1)]  # items 0 and 4 share a picture


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    write_picture_dataset(tmp_path / "data", [pictures[:2], pictures[2:]], PLACES, image_format="webp")
    return tmp_path / "data", pictures


@pytest.fixture
def run(tmp_path):
    keras.utils.set_random_seed(0)
    encoder = ImageEncoder(Swin(4, 8, (1,), (2,), 4), 5)
    (tmp_path / "encoder").mkdir()
    encoder.save(tmp_path / "encoder" / "encoder.keras")
    EncoderMetadata(
        method="courier",
        image_size=(16, 16),
        embedding_dim=5,
        weights_sha256=file_sha256(tmp_path / "encoder" / "encoder.keras"),
        dataset_digest="other",
        window=Window(first=0, last=1),
        notice="",
    ).write(tmp_path / "encoder")
    return tmp_path / "encoder", encoder


def arguments(data, encoder, output, *more):
    return ["--data", str(data), "--encoder", str(encoder), "--output", str(output), *more]


def test_every_item_gets_the_embedding_of_its_picture(dataset, run, tmp_path):
    (data, pictures), (directory, encoder) = dataset, run
    closing = embed.main(arguments(data, directory, tmp_path / "out", "--batch-size", "2"))
    metadata, embeddings, has_image = load_embeddings(tmp_path / "out")
    assert has_image.tolist() == [True, True, False, True, True]
    expected = keras.ops.convert_to_numpy(encoder(pictures[[1, 2, 0, 0, 1]])) * has_image[:, None]
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert embeddings.dtype == np.float32
    assert (metadata.items, metadata.items_with_image, metadata.dim) == (5, 4, 5)
    assert metadata.encoder.method == "courier"
    assert "4 of 5 items (3 pictures)" in closing


def test_needs_nothing_but_the_run_directory(dataset, run, tmp_path):
    command = [sys.executable, "-m", "models.embed", *arguments(dataset[0], run[0], tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote embeddings of 4 of 5 items")
    assert "Traceback" not in done.stderr
    assert "WARNING" not in done.stderr


def test_mistakes_are_one_clear_line_and_leave_nothing_behind(dataset, run, tmp_path):
    (data, _), (directory, _) = dataset, run
    output = tmp_path / "out"
    with pytest.raises(CommandError, match="--batch-size"):
        embed.main(arguments(data, directory, output, "--batch-size", "0"))
    with pytest.raises(CommandError, match=r"--encoder: .*models\.pretrain makes it"):
        embed.main(arguments(data, tmp_path / "nowhere", output))
    with open(directory / "encoder.keras", "ab") as file:
        file.write(b"x")
    with pytest.raises(CommandError, match=r"encoder\.keras is missing or is not the file"):
        embed.main(arguments(data, directory, output))
    assert not output.exists()
