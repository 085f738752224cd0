import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError
from models.artifact import check_digest, read_metadata
from models.clustering.clusters import ClustersMetadata
from models.embeddings.embeddings import EmbeddingsMetadata
from tests.models.saved_embeddings import save_embeddings


@pytest.fixture
def embeddings(tmp_path):
    return save_embeddings(tmp_path / "embeddings", np.ones((3, 2), np.float32))


def test_round_trip_and_digest(embeddings, tmp_path):
    metadata = read_metadata(EmbeddingsMetadata, embeddings.path, "models.embed")
    assert metadata == embeddings.metadata
    metadata.write(tmp_path)
    again = read_metadata(EmbeddingsMetadata, tmp_path, "models.embed")
    assert again == metadata
    assert again.digest() == metadata.digest()
    assert metadata.model_copy(update={"dim": 9}).digest() != metadata.digest()


def test_errors_name_the_directory_and_the_command(embeddings, tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere has no metadata\.json; models\.cluster makes it"):
        read_metadata(ClustersMetadata, tmp_path / "nowhere", "models.cluster")
    with pytest.raises(ArtifactError, match=r"metadata\.json does not describe a directory of kind `clusters`"):
        read_metadata(ClustersMetadata, embeddings.path, "models.cluster")


def test_files_are_those_described(embeddings):
    file = embeddings.path / "embeddings.npy"
    check_digest(file, embeddings.metadata.embeddings_sha256)
    with pytest.raises(ArtifactError, match=r"embeddings\.npy is missing or is not the file its metadata describes"):
        check_digest(file, embeddings.metadata.item_ids_sha256)
    file.unlink()
    with pytest.raises(ArtifactError, match=r"embeddings\.npy is missing or is not the file its metadata describes"):
        check_digest(file, embeddings.metadata.embeddings_sha256)
