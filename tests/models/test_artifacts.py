import pytest

from beam_pipelines.shell.command import CommandError
from models.artifact import read_metadata
from models.clustering.clusters import ClustersMetadata
from models.embeddings.store import EmbeddingsMetadata
from tests.models.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), pages=12)


def test_round_trip_and_digest(tiny, tmp_path):
    metadata = read_metadata(EmbeddingsMetadata, tiny.embeddings, "models.embed")
    metadata.write(tmp_path)
    again = read_metadata(EmbeddingsMetadata, tmp_path, "models.embed")
    assert again == metadata
    assert again.digest() == metadata.digest()
    assert metadata.model_copy(update={"dim": 9}).digest() != metadata.digest()


def test_clusters_carry_where_they_come_from(tiny):
    clusters = read_metadata(ClustersMetadata, tiny.clusters, "models.cluster")
    assert clusters.embeddings == read_metadata(EmbeddingsMetadata, tiny.embeddings, "models.embed")


def test_errors_name_the_option_and_the_command(tiny, tmp_path):
    with pytest.raises(CommandError, match=r"--clusters: .* has no metadata.json; models.cluster makes it"):
        read_metadata(ClustersMetadata, tmp_path, "models.cluster")
    with pytest.raises(CommandError, match=r"--clusters: .* of kind `clusters`"):
        read_metadata(ClustersMetadata, tiny.embeddings, "models.cluster")
