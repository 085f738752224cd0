import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from beam_pipelines.format.manifest import Window, file_sha256
from beam_pipelines.shell.command import CommandError
from models import embed
from models.artifact import read_metadata
from models.embeddings.store import EmbeddingsMetadata, WhiteningMetadata, load_embeddings, load_picture_hashes
from models.vision.encoder import ImageEncoder
from models.vision.encoder_run import EncoderMetadata
from models.vision.swin import Swin
from tests.models.picture_dataset import encode_picture, write_picture_dataset

PLACES = [(0, 1), (1, 0), (-1, -1), (0, 0), (0, 1)]  # items 0 and 4 share a picture
WHITENING = WhiteningMetadata(
    dim=5,
    encoder_dim=5,
    l2=False,
    fitted_items=4,
    whitening_sha256="whitening",
    dataset_digest="dataset",
    window=Window(first=0, last=1),
)


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
    hashes = load_picture_hashes(tmp_path / "out", metadata)
    assert hashes[2].tolist() == [0] * 32
    for item, picture in [(0, 1), (1, 2), (3, 0), (4, 1)]:
        assert hashes[item].tobytes() == hashlib.sha256(encode_picture(pictures[picture], "webp")).digest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "encoder", "out"]


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
    with pytest.raises(CommandError, match="--checkpoint-minutes"):
        embed.main(arguments(data, directory, output, "--checkpoint-minutes", "nan"))
    with pytest.raises(CommandError, match=r"--encoder: .*models\.pretrain makes it"):
        embed.main(arguments(data, tmp_path / "nowhere", output))
    with open(directory / "encoder.keras", "ab") as file:
        file.write(b"x")
    with pytest.raises(CommandError, match=r"encoder\.keras is missing or is not the file"):
        embed.main(arguments(data, directory, output))
    assert not output.exists()


def pictured(root, pictures, places=None):
    """A dataset of these pictures in one shard, one item each unless `places` are given."""
    write_picture_dataset(root, [pictures], places or [(0, i) for i in range(len(pictures))], image_format="webp")
    return root


def random_pictures(number, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, 16, 16, 3), np.uint8)


def file(directory, name="embeddings.npy"):
    return (directory / name).read_bytes()


def test_half_precision_files_hold_the_rounded_vectors(dataset, run, tmp_path):
    for dtype in ("float32", "float16"):
        embed.main(arguments(dataset[0], run[0], tmp_path / dtype, "--dtype", dtype))
    _, single, _ = load_embeddings(tmp_path / "float32")
    metadata, half, _ = load_embeddings(tmp_path / "float16")
    assert (metadata.dtype, half.dtype) == ("float16", np.float16)
    np.testing.assert_array_equal(half, single.astype(np.float16))


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_changes_the_computation_and_hardly_the_vectors(dataset, run, tmp_path, precision):
    embed.main(arguments(dataset[0], run[0], tmp_path / "float32"))
    embed.main(arguments(dataset[0], run[0], tmp_path / "mixed", "--precision", precision))
    _, exact, has_image = load_embeddings(tmp_path / "float32")
    metadata, mixed, _ = load_embeddings(tmp_path / "mixed")
    assert (metadata.precision, mixed.dtype) == (precision, np.float32)
    assert np.abs(mixed - exact).max() > 0
    lengths = [np.linalg.norm(vectors[has_image], axis=1) for vectors in (mixed, exact)]
    assert (np.einsum("ij,ij->i", mixed[has_image], exact[has_image]) > 0.999 * lengths[0] * lengths[1]).all()


def test_vectors_that_do_not_fit_the_stored_type_are_refused(dataset, run, tmp_path):
    directory, encoder = run
    encoder.projection.kernel.assign(encoder.projection.kernel * 1e7)
    encoder.save(directory / "encoder.keras")
    metadata = read_metadata(EncoderMetadata, directory, "models.pretrain")
    metadata.model_copy(update={"weights_sha256": file_sha256(directory / "encoder.keras")}).write(directory)
    with pytest.raises(CommandError, match=r"--encoder, as float16: the vector of item row 3 is not finite"):
        embed.main(arguments(dataset[0], directory, tmp_path / "out", "--dtype", "float16"))
    assert not (tmp_path / "out").exists()


def test_after_a_kill_the_same_command_goes_on_and_writes_the_same_file(run, tmp_path):
    # Every picture belongs to two items, far apart in the file.
    data = pictured(tmp_path / "data", random_pictures(300), [(0, i) for i in range(300)] * 2)
    options = ["--batch-size", "2", "--checkpoint-minutes", "0"]
    closing = embed.main(arguments(data, run[0], tmp_path / "whole", *options))
    assert "600 of 600 items (300 pictures)" in closing

    output, partial = tmp_path / "out", tmp_path / "out.partial"
    command = [sys.executable, "-m", "models.embed", *arguments(data, run[0], output, *options)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(int(path.stem.removeprefix("step-")) >= 20 for path in partial.glob("step-*.npz")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    assert np.load(partial / "embeddings.npy").any(axis=1).sum() < 600

    for changed, named in [
        (["--batch-size", "3"], "batch_size 2 there, 3 here"),
        (["--dtype", "float16"], "dtype float32 there, float16 here"),
        (["--precision", "mixed_bfloat16"], "precision float32 there, mixed_bfloat16 here"),
        (["--previous", str(tmp_path / "whole")], "previous None there, "),
    ]:
        with pytest.raises(CommandError, match=f"out.partial/step-.* is of another run .*{named}.*--restart"):
            embed.main(arguments(data, run[0], output, *options, *changed))
    other = pictured(tmp_path / "other", random_pictures(300, seed=1), [(0, i) for i in range(300)] * 2)
    with pytest.raises(CommandError, match=r"of another run \(dataset \w+ there, \w+ here\)"):
        embed.main(arguments(other, run[0], output, *options))

    # What is done is not done again, unless it is thrown away.
    shutil.copytree(partial, tmp_path / "marked.partial")
    np.load(tmp_path / "marked.partial" / "embeddings.npy", mmap_mode="r+")[:2] = 7
    shutil.copytree(tmp_path / "marked.partial", tmp_path / "restarted.partial")
    embed.main(arguments(data, run[0], tmp_path / "marked", *options))
    embed.main(arguments(data, run[0], tmp_path / "restarted", *options, "--restart"))
    _, whole, _ = load_embeddings(tmp_path / "whole")
    _, marked, _ = load_embeddings(tmp_path / "marked")
    assert (marked[:2] == 7).all()
    np.testing.assert_array_equal(marked[2:], whole[2:])
    assert file(tmp_path / "restarted") == file(tmp_path / "whole")
    shutil.copytree(partial, tmp_path / "lost.partial")
    (tmp_path / "lost.partial" / "embeddings.npy").unlink()
    with pytest.raises(CommandError, match=r"lost\.partial has lost its embeddings\.npy; pass --restart"):
        embed.main(arguments(data, run[0], tmp_path / "lost", *options))

    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    first, last = done.stdout.splitlines()
    resumed = int(first.removeprefix("goes on after ").removesuffix(" of 300 pictures"))
    assert 20 <= resumed < 300
    assert last.startswith("wrote embeddings of 600 of 600 items (300 pictures)")
    for name in ("embeddings.npy", "has_image.npy", "picture_sha256.npy", "metadata.json"):
        assert file(output, name) == file(tmp_path / "whole", name)
    assert not partial.exists()


def test_only_new_and_changed_pictures_are_encoded(run, tmp_path):
    pictures = random_pictures(9)
    before = pictured(tmp_path / "before", pictures[:6], [(0, 0), (0, 1), (-1, -1), (0, 2), (0, 3), (0, 4), (0, 5)])
    embed.main(arguments(before, run[0], tmp_path / "first"))
    # The copies can be told from what would be computed.
    metadata, vectors, _ = load_embeddings(tmp_path / "first")
    np.save(tmp_path / "first" / "embeddings.npy", vectors + 1000)
    digest = file_sha256(tmp_path / "first" / "embeddings.npy")
    metadata.model_copy(update={"embeddings_sha256": digest}).write(tmp_path / "first")
    _, copied_from, _ = load_embeddings(tmp_path / "first")

    # Item 0 keeps its picture under another number, item 1's is a new one, item 2 gets that of item 3, item 3 loses
    # its own, items 7 and 8 are new and share the one that was item 5's.
    later = [pictures[6], pictures[7], pictures[8], pictures[0], pictures[2], pictures[3], pictures[4]]
    places = [(0, 3), (0, 0), (0, 4), (-1, -1), (0, 5), (0, 1), (0, 2), (0, 6), (0, 6)]
    after = pictured(tmp_path / "after", later, places)
    previous = ["--previous", str(tmp_path / "first")]
    closing = embed.main(arguments(after, run[0], tmp_path / "second", *previous))
    assert f"8 of 9 items (7 pictures: 3 encoded, 4 copied from {tmp_path / 'first'})" in closing
    embed.main(arguments(after, run[0], tmp_path / "fresh"))
    _, vectors, has_image = load_embeddings(tmp_path / "second")
    _, fresh, _ = load_embeddings(tmp_path / "fresh")
    for item, earlier in {0: 0, 2: 3, 4: 4, 7: 5, 8: 5}.items():
        np.testing.assert_array_equal(vectors[item], copied_from[earlier])
        np.testing.assert_allclose(vectors[item] - 1000, fresh[item], atol=1e-3)
    np.testing.assert_allclose(vectors[[1, 5, 6]], fresh[[1, 5, 6]], rtol=1e-4, atol=1e-5)
    assert not vectors[~has_image].any()


def test_nothing_new_is_a_copy(run, tmp_path):
    data = pictured(tmp_path / "data", random_pictures(4))
    embed.main(arguments(data, run[0], tmp_path / "first"))
    closing = embed.main(arguments(data, run[0], tmp_path / "second", "--previous", str(tmp_path / "first")))
    assert "4 pictures: 0 encoded, 4 copied" in closing
    for name in ("embeddings.npy", "metadata.json"):
        assert file(tmp_path / "second", name) == file(tmp_path / "first", name)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ["--dtype", "float16"], r"another dtype \(float32, here float16\)"),
        ({}, ["--precision", "mixed_bfloat16"], r"another precision \(float32, here mixed_bfloat16\)"),
        ({"picture_form": "jpeg of side 64"}, [], r"another picture form \(jpeg of side 64, here webp of side 256\)"),
        ({"picture_hashes_sha256": ""}, [], "has no hashes of its pictures"),
        ({"picture_hashes_sha256": "other"}, [], r"picture_sha256\.npy is missing or is not the file"),
        ({"embeddings_sha256": "other"}, [], r"embeddings\.npy is missing or is not the file"),
        ({"encoder": {"method": "another"}}, [], "was made by another encoder"),
        ({"whitening": WHITENING}, [], r"first is whitened; give what models\.embed wrote"),
    ],
)
def test_previous_embeddings_that_do_not_fit_are_refused(dataset, run, tmp_path, changes, options, message):
    embed.main(arguments(dataset[0], run[0], tmp_path / "first"))
    metadata = read_metadata(EmbeddingsMetadata, tmp_path / "first", "models.embed")
    if "encoder" in changes:
        changes = {"encoder": metadata.encoder.model_copy(update=changes["encoder"])}
    metadata.model_copy(update=changes).write(tmp_path / "first")
    with pytest.raises(CommandError, match=f"--previous: .*{message}"):
        embed.main(arguments(dataset[0], run[0], tmp_path / "out", "--previous", str(tmp_path / "first"), *options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "encoder", "first"]
