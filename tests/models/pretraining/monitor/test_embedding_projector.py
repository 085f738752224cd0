import json
import time
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard import default, program

from models.pretraining.monitor.embedding_projector import write_embedding_projector

COLUMNS = {"item_id": ["007", "b", "c", "d", "e"], "category": ["coat", "a\tb\nc", "", "hat", "hat"]}


def draw(seed=0):
    rng = np.random.default_rng(seed)
    pictures = [
        np.full((h, w, 3), rng.integers(0, 200, 3), np.uint8) for h, w in [(90, 60), (60, 90), (64, 64), (8, 8), (1, 2)]
    ]
    return rng.normal(size=(5, 3)).astype(np.float32), pictures


def test_files(tmp_path):
    embeddings, pictures = draw()
    write_embedding_projector(tmp_path / "logs", embeddings, iter(pictures), COLUMNS)
    rows = np.loadtxt(tmp_path / "logs/embeddings.tsv", delimiter="\t")
    np.testing.assert_allclose(rows, embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), rtol=1e-4)
    lines = (tmp_path / "logs/metadata.tsv").read_text().split("\n")
    assert lines == ["item_id\tcategory", "007\tcoat", "b\ta b c", "c\t-", "d\that", "e\that", ""]
    with Image.open(tmp_path / "logs/sprite.png") as sprite:
        pixels = np.asarray(sprite)
    assert pixels.shape == (192, 192, 3)
    for number, picture in enumerate(pictures):  # each in the middle of its square
        row, column = divmod(number, 3)
        assert (pixels[64 * row + 31, 64 * column + 31] == picture[0, 0]).all()
    assert (pixels[0, :10] == 255).all()  # portraits leave the sides free
    assert (pixels[64:, 64 * 2 :] != 255).sum() < 20  # only a picture of two pixels


def test_one_column_has_no_header(tmp_path):
    embeddings, pictures = draw()
    write_embedding_projector(tmp_path, embeddings, pictures, {"item_id": COLUMNS["item_id"]})
    assert (tmp_path / "metadata.tsv").read_text() == "007\nb\nc\nd\ne\n"


def test_many_pictures_fit_the_largest_sprite(tmp_path):
    write_embedding_projector(tmp_path, np.ones((129**2, 1)), [np.zeros((1, 1, 3), np.uint8)] * 129**2, {})
    with Image.open(tmp_path / "sprite.png") as sprite:
        assert sprite.size == (129 * 63, 129 * 63)


def test_lengths_that_differ_are_refused(tmp_path):
    embeddings, pictures = draw()
    with pytest.raises(ValueError, match=r"`columns` must have 5 words each\. Received: 1 of 'item_id'"):
        write_embedding_projector(tmp_path, embeddings, pictures, {"item_id": ["a"]})
    with pytest.raises(ValueError, match=r"`pictures` must be as many as the 5 embeddings\. Received: 4"):
        write_embedding_projector(tmp_path, embeddings, pictures[:4], COLUMNS)


def test_tensorboard_serves_them(tmp_path):
    embeddings, pictures = draw()
    run = tmp_path / "logs/validation"
    with tf.summary.create_file_writer(str(run)).as_default(0):
        tf.summary.scalar("loss", 1.0)
    write_embedding_projector(run, embeddings, pictures, COLUMNS)
    server = program.TensorBoard(default.get_plugins())
    server.configure(logdir=str(tmp_path / "logs"), port=0, load_fast="false", reload_interval=0)
    plugin = server.launch().rstrip("/") + "/data/plugin/projector/"  # in a thread, until the process ends

    def get(path):
        with urllib.request.urlopen(plugin + path, timeout=10) as response:
            return response.read()

    assert _wait(lambda: json.loads(get("runs"))) == ["validation"]
    (info,) = json.loads(get("info?run=validation"))["embeddings"]
    assert info["tensorShape"] == [5, 3]
    tensor = np.frombuffer(get(f"tensor?run=validation&name={info['tensorName']}"), np.float32).reshape(5, 3)
    np.testing.assert_allclose(tensor @ tensor.T, _cosines(embeddings), atol=1e-4)
    metadata = get(f"metadata?run=validation&name={info['tensorName']}").decode()
    assert metadata.startswith("item_id\tcategory\n007\tcoat\n")
    sprite = get(f"sprite_image?run=validation&name={info['tensorName']}")
    assert sprite == (run / "sprite.png").read_bytes()


def _cosines(embeddings):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ unit.T


def _wait(look, seconds=180):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise TimeoutError("TensorBoard did not answer")
