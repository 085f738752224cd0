import numpy as np
import pytest

from beam_pipelines.shell.command import CommandError
from models.cluster import main
from models.clustering.clusters import Clusters
from tests.models.planted import planted
from tests.models.saved_embeddings import save_embeddings


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    """Embeddings of 120 items, every tenth without a picture."""
    directory = tmp_path_factory.mktemp("cluster") / "embeddings"
    return save_embeddings(directory, planted(120, 6, 8), np.arange(120) % 10 != 0).path


def run(embeddings, output, *more):
    return main(["--embeddings", str(embeddings), "--output", str(output), *more])


def test_a_line_per_pass_and_a_closing_line(embeddings, tmp_path, capsys):
    closing = run(embeddings, tmp_path / "c", "--num-clusters", "6", "--no-normalize")
    clusters = Clusters.load(tmp_path / "c")
    distance = clusters.metadata.mean_squared_distance
    assert closing == f"wrote 6 clusters of 108 pictures to {tmp_path / 'c'} (mean squared distance {distance:.4f})"
    assert not clusters.metadata.normalize
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "108 pictures into 6 clusters (scann)"
    assert second.startswith("pass 1: 108 pictures, mean squared distance 0.")
    assert "% moved, 0 empty split, imbalance 1." in second
    closing = run(embeddings, tmp_path / "d", "--like", str(tmp_path / "c"))
    assert closing == (
        f"wrote the 6 clusters of {tmp_path / 'c'} with 108 pictures to {tmp_path / 'd'} "
        f"(mean squared distance {distance:.4f})"
    )


def test_collisions_of_semantic_ids_are_counted(embeddings, tmp_path, capsys):
    closing = run(embeddings, tmp_path / "c", "--num-clusters", "6", "--levels", "2")
    clusters = Clusters.load(tmp_path / "c")
    shared = f"at 2 levels ({clusters.metadata.deeper.sharing} pictures share their semantic ID)"
    assert closing.startswith(f"wrote 6 clusters of 108 pictures {shared} to {tmp_path / 'c'} (mean")
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert (first, second) == ("108 pictures into 6 clusters (scann, 2 levels)", "level 1")
    assert shared in run(embeddings, tmp_path / "d", "--like", str(tmp_path / "c"))


def test_empty_clusters_are_counted(tmp_path):
    embeddings = save_embeddings(tmp_path / "embeddings", np.ones((40, 3), np.float32))
    assert "wrote 2 clusters, 1 of them empty of 40 pictures" in run(embeddings.path, tmp_path / "c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-clusters", "109"], "--num-clusters must be between 1 and the 108 items with a picture. Received: 109"),
        (["--max-passes", "0"], "--max-passes must be at least 1. Received: 0"),
        (["--threshold", "0.1"], "--threshold is for --backend single_pass. Received: --backend scann"),
        (["--spherical", "--no-normalize"], "--spherical is for embeddings of unit length; leave out --no-normalize"),
        (["--like", "nowhere"], r"--like: nowhere has no metadata\.json; models\.cluster makes it"),
        (["--like", "nowhere", "--spherical"], "--spherical is of new centers; leave it out with --like"),
        (["--embeddings", "nowhere"], r"--embeddings: nowhere has no metadata\.json; models\.embed makes it"),
    ],
)
def test_mistakes_are_told_in_options(embeddings, tmp_path, options, message):
    with pytest.raises(CommandError, match=f"^{message}"):
        run(embeddings, tmp_path / "c", *options)
    assert not list(tmp_path.iterdir())
