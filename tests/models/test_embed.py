import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from beam_pipelines.shell.command import CommandError
from models.embed import main
from models.embeddings.embeddings import Embeddings
from tests.models.embeddings.encoder_run import random_pictures, save_encoder, write_dataset

PICTURES = 100
PLACES = [(0, picture) for picture in range(PICTURES)] * 2  # each belongs to two items, far apart in the file
OPTIONS = ["--batch-size", "2", "--checkpoint-minutes", "0"]
FILES = ("embeddings.npy", "has_image.npy", "picture_sha256.npy", "metadata.json")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two datasets, an encoder, and `whole`, embeddings of a run without interruption."""
    root = tmp_path_factory.mktemp("embed")
    write_dataset(root / "data", random_pictures(PICTURES), PLACES)
    write_dataset(root / "other", random_pictures(PICTURES, seed=1), PLACES)
    save_encoder(root / "encoder")
    run(root, root / "whole", *OPTIONS)
    return root


def arguments(root, output, *more, data="data"):
    return ["--data", str(root / data), "--encoder", str(root / "encoder"), "--output", str(output), *more]


def run(root, output, *more, data="data"):
    return main(arguments(root, output, *more, data=data))


def test_closing_lines(root, tmp_path, capsys):
    closing = run(root, tmp_path / "out", "--dtype", "float16")
    assert closing == f"wrote embeddings of 200 of 200 items (100 pictures) to {tmp_path / 'out'}"
    assert "encoding pictures" in capsys.readouterr().err  # a progress bar
    closing = run(root, tmp_path / "again", "--previous", str(root / "whole"))
    copied = f"100 pictures: 0 encoded, 100 copied from {root / 'whole'}"
    assert closing == f"wrote embeddings of 200 of 200 items ({copied}) to {tmp_path / 'again'}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1. Received: 0"),
        (["--checkpoint-minutes", "nan"], "--checkpoint-minutes must be at least 0. Received: nan"),
        (["--encoder", "nowhere"], r"--encoder: nowhere has no metadata\.json; models\.pretrain makes it"),
        (["--previous", "nowhere"], r"--previous: nowhere has no metadata\.json; models\.embed makes it"),
    ],
)
def test_mistakes_are_told_in_options(root, tmp_path, options, message):
    with pytest.raises(CommandError, match=f"^{message}"):
        run(root, tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())


def test_after_a_kill_the_same_command_goes_on_and_writes_the_same_file(root, tmp_path, capsys):
    output, partial = tmp_path / "out", tmp_path / "out.partial"
    command = [sys.executable, "-m", "models.embed", *arguments(root, output, *OPTIONS)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(int(path.stem.removeprefix("step-")) >= 10 for path in partial.glob("step-*.npz")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert "WARNING" not in errors  # the run directory of the encoder is all that a process of its own needs
    assert not output.exists()
    assert np.load(partial / "embeddings.npy").any(axis=1).sum() < 2 * PICTURES

    for changed, named in [
        (["--batch-size", "3"], "batch_size 2 there, 3 here"),
        (["--dtype", "float16"], "dtype float32 there, float16 here"),
        (["--precision", "mixed_bfloat16"], "precision float32 there, mixed_bfloat16 here"),
        (["--previous", str(root / "whole")], "previous None there, "),
    ]:
        with pytest.raises(CommandError, match=rf"out\.partial/step-.* is of another run .*{named}.*--restart"):
            run(root, output, *OPTIONS, *changed)
    with pytest.raises(CommandError, match=r"of another run \(dataset \w+ there, \w+ here\)"):
        run(root, output, *OPTIONS, data="other")

    # What is done is not done again, unless it is thrown away.
    shutil.copytree(partial, tmp_path / "marked.partial")
    np.load(tmp_path / "marked.partial" / "embeddings.npy", mmap_mode="r+")[:2] = 7
    shutil.copytree(tmp_path / "marked.partial", tmp_path / "restarted.partial")
    run(root, tmp_path / "marked", *OPTIONS)
    run(root, tmp_path / "restarted", *OPTIONS, "--restart")
    marked, whole = (Embeddings.load(path).vectors for path in (tmp_path / "marked", root / "whole"))
    assert (marked[:2] == 7).all()
    np.testing.assert_array_equal(marked[2:], whole[2:])
    assert (tmp_path / "restarted/embeddings.npy").read_bytes() == (root / "whole/embeddings.npy").read_bytes()
    shutil.copytree(partial, tmp_path / "lost.partial")
    (tmp_path / "lost.partial" / "embeddings.npy").unlink()
    with pytest.raises(CommandError, match=r"lost\.partial has lost its embeddings\.npy; pass --restart"):
        run(root, tmp_path / "lost", *OPTIONS)

    capsys.readouterr()
    last = run(root, output, *OPTIONS)
    first = capsys.readouterr().out.strip()
    resumed = int(first.removeprefix("goes on after ").removesuffix(f" of {PICTURES} pictures"))
    assert 10 <= resumed < PICTURES
    assert last.startswith("wrote embeddings of 200 of 200 items (100 pictures)")
    for name in FILES:
        assert (output / name).read_bytes() == (root / "whole" / name).read_bytes()
    assert not partial.exists()
