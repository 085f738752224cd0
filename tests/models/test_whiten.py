import numpy as np
import pytest

from beam_pipelines.shell.command import CommandError
from models.embeddings.embeddings import Embeddings
from models.whiten import main
from tests.models.picture_dataset import write_picture_dataset
from tests.models.saved_embeddings import save_embeddings


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Embeddings of 30 items of a dataset, of which 20 are on pages."""
    root = tmp_path_factory.mktemp("whiten")
    pages = [{"item": list(range(20)), "clicked": [1] + [0] * 19, "click_item": [], "timestamp": 1000}]
    data = write_picture_dataset(root / "data", [[np.zeros((8, 8, 3), np.uint8)]], [(0, 0)] * 30, pages)
    save_embeddings(root / "embeddings", np.random.default_rng(0).normal(size=(30, 4)).astype("float32"), None, data)
    return root


def run(root, output, *more, data="data"):
    return main(["--embeddings", str(root / "embeddings"), "--data", str(root / data), "--output", str(output), *more])


def test_closing_lines_and_outputs(root, tmp_path, capsys):
    closing = run(root, tmp_path / "out", "--dim", "3", "--l2")
    assert closing == (
        f"wrote whitened embeddings of 30 of 30 items to {tmp_path / 'out'} "
        "(3 of 4 components, fitted on 20 pretrain items)"
    )
    assert "whitening" in capsys.readouterr().err  # a progress bar
    whitened = Embeddings.load(tmp_path / "out")
    assert (whitened.dim, whitened.metadata.whitening.l2) == (3, True)
    closing = run(root, tmp_path / "again", "--like", str(tmp_path / "out"), data="nowhere")  # no dataset is needed
    assert closing.endswith(f"(3 of 4 components, as {tmp_path / 'out'})")
    np.testing.assert_array_equal(Embeddings.load(tmp_path / "again").vectors, whitened.vectors)
    with pytest.raises(CommandError, match="out exists; pass --overwrite to replace it"):
        run(root, tmp_path / "out")
    run(root, tmp_path / "out", "--overwrite")
    assert Embeddings.load(tmp_path / "out").dim == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dim", "0"], "--dim must be at least 1. Received: 0"),
        (["--dim", "2", "--like", "white"], "--like applies a whitening as it is; leave out --dim and --l2"),
        (["--embeddings", "nowhere"], r"--embeddings: nowhere has no metadata\.json; models\.embed makes it"),
        (["--like", "nowhere"], r"--like: nowhere has no metadata\.json; models\.whiten makes it"),
    ],
)
def test_mistakes_are_told_in_options(root, tmp_path, options, message):
    with pytest.raises(CommandError, match=f"^{message}"):
        run(root, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
