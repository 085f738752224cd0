import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError, ConfigurationError
from beam_pipelines.format.manifest import Window
from models.vision.encoder import ImageEncoder
from models.vision.encoder_run import EncoderRun

PRESET = """
encoder:
  embedding_dim: 4
  backbone: {name: convnet, widths: [4], depths: [1], kernel: 3, grid: [2, 2]}
epochs: 3
"""
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 16, 12, 3), np.uint8)


@pytest.fixture
def encoder(tmp_path):
    (tmp_path / "small.yaml").write_text(PRESET)
    return ImageEncoder.from_preset(tmp_path / "small.yaml")


@pytest.fixture
def run(tmp_path, encoder):
    described = {"method": "courier", "image_size": (16, 12), "dataset_digest": "d", "notice": ""}
    EncoderRun.save(tmp_path / "run", encoder, window=Window(first=1, last=2), history={"loss": [2.0]}, **described)
    return EncoderRun.load(tmp_path / "run")


def test_an_encoder_comes_back_as_it_was_saved(run, encoder):
    assert (run.metadata.embedding_dim, run.metadata.image_size, run.history) == (4, (16, 12), {"loss": [2.0]})
    np.testing.assert_array_equal(run.encoder()(PICTURES), encoder(PICTURES))
    mixed = run.encoder("mixed_bfloat16")
    assert mixed.dtype_policy.name == "mixed_bfloat16"
    np.testing.assert_allclose(mixed(PICTURES), encoder(PICTURES), atol=0.1)


def test_another_file_under_the_same_description_is_refused(run):
    with open(run.path / "encoder.keras", "ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"encoder\.keras is missing or is not the file its metadata describes"):
        EncoderRun.load(run.path)
    with pytest.raises(ArtifactError, match=r"models\.pretrain makes it"):
        EncoderRun.load(run.path.parent)


def test_presets_describe_encoders(tmp_path):
    encoder = ImageEncoder.from_preset("courier_cpu", dtype="mixed_bfloat16")
    assert (encoder.embedding_dim, encoder.backbone.widths) == (256, (48, 96, 192))
    assert encoder.dtype_policy.name == "mixed_bfloat16"
    with pytest.raises(ConfigurationError, match=r"no file courier_gpu and no preset .*courier_cpu"):
        ImageEncoder.from_preset("courier_gpu")
    (tmp_path / "wrong.yaml").write_text("encoder: {embedding_dim: 0}")
    with pytest.raises(ConfigurationError, match=r"encoder\.embedding_dim"):
        ImageEncoder.from_preset(tmp_path / "wrong.yaml")
