import json
import struct
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from beam_pipelines.format.errors import InputError
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from models.vision.swin_weights import load_swin_weights
from models.vision.torch_checkpoint import read_torch_checkpoint
from tests.models.fixtures.make_swin_fixtures import HERE, ODD_SIZE, SWIN_T_SIZE, TINY, TINY_SIZE, drawn, pictures

FEATURES = np.load(HERE / "features.npz")


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    header, end = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor, np.float32).tobytes())
    return path


def unset_swin(**architecture) -> Swin:
    """Every variable is NaN until something fills it."""
    swin = Swin(**architecture)
    swin.build((None, None, None, 3))
    for variable in swin.weights:
        variable.assign(np.full(variable.shape, np.nan))
    return swin


@pytest.mark.parametrize(
    ("file", "features", "size", "publisher", "head"),
    [
        ("torchvision.pth", "torchvision", TINY_SIZE, "torchvision", ["head.bias", "head.weight"]),
        (
            "hugging_face.safetensors",
            "hugging_face",
            ODD_SIZE,
            "Hugging Face",
            ["classifier.bias", "classifier.weight"],
        ),
        ("hugging_face.bin", "hugging_face_half", TINY_SIZE, "Hugging Face", []),
    ],
)
def test_a_published_file_gives_the_published_features(file, features, size, publisher, head):
    """No square pictures, no whole windows, odd maps: every rule of padding, shifting and merging takes part."""
    swin = unset_swin(**TINY)
    loaded = load_swin_weights(swin, HERE / file)
    np.testing.assert_allclose(swin(pictures(2, size)), FEATURES[features], atol=1e-5)
    assert loaded.publisher == publisher
    assert loaded.variables == len(swin.weights)
    assert sorted(name for name in loaded.ignored if not name.endswith("relative_position_index")) == head


@pytest.mark.parametrize("publisher", ["torchvision", "hugging_face"])
def test_full_swin_t_gives_the_features_of_independent_implementations(publisher, tmp_path):
    shapes = json.loads((HERE / "swin_t.json").read_text())[publisher]
    path = write_safetensors(
        tmp_path / "swin_t.safetensors", {name: drawn(name, tuple(shape)) for name, shape in shapes.items()}
    )
    swin = Swin()
    load_swin_weights(swin, path)
    expected = FEATURES[f"{publisher}_swin_t"]
    assert expected.std() > 0.1  # 1e-4 is a small part of it
    np.testing.assert_allclose(swin(pictures(2, SWIN_T_SIZE)), expected, atol=1e-4)


def test_an_encoder_saved_after_loading_is_the_same(tmp_path):
    encoder = ImageEncoder(Swin(**TINY), embedding_dim=5)
    load_swin_weights(encoder.backbone, HERE / "torchvision.pth")
    encoder.save(tmp_path / "encoder.keras")
    batch = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8)
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "encoder.keras")(batch), encoder(batch))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            {"window": 5},
            r"features.1.0.attn.relative_position_bias_table has the shape \(49, 2\), but "
            r"swin.*/stage_0_block_0/attention/relative_position_bias_table of shape \(81, 2\) needs \(81, 2\)",
        ),
        ({"mlp_ratio": 4.0}, r"mlp.0.weight .* \(16, 8\), but .*/expand/kernel of shape \(8, 32\) needs \(32, 8\)"),
        ({"patch_size": 4}, r"features.0.0.weight .*\(8, 3, 2, 2\), but .*patches/kernel .*\(4, 4, 3, 8\) needs"),
        ({"depths": (2, 3)}, r"lacks features.3.2.norm1.weight for .*stage_1_block_2/norm1/gamma of shape \(16,\)"),
        ({"depths": (1, 2)}, r"13 tensors have no place in a Swin of depths \[1, 2\]: features.1.1.norm1.weight"),
        ({"depths": (2,), "num_heads": (2,)}, "norm.weight has the shape"),
    ],
)
def test_another_architecture_is_refused_and_nothing_changes(architecture, message):
    swin = unset_swin(**{**TINY, **architecture})
    with pytest.raises(InputError, match=f"torchvision.pth: .*{message}"):
        load_swin_weights(swin, HERE / "torchvision.pth")
    assert all(np.isnan(ops.convert_to_numpy(variable)).all() for variable in swin.weights)


def test_a_file_of_hugging_face_is_checked_part_by_part(tmp_path):
    tensors = read_torch_checkpoint(HERE / "hugging_face.safetensors")
    key = "swin.encoder.layers.1.blocks.0.attention.self.key.weight"
    write_safetensors(tmp_path / "x.safetensors", {**tensors, key: tensors[key][:8]})
    with pytest.raises(InputError, match=rf"{key} .*\(8, 16\), but .*qkv/kernel of shape \(16, 48\) needs \(16, 16\)"):
        load_swin_weights(Swin(**TINY), tmp_path / "x.safetensors")
    del tensors[key]
    write_safetensors(tmp_path / "x.safetensors", tensors)
    with pytest.raises(InputError, match=f"lacks {key} for "):
        load_swin_weights(Swin(**TINY), tmp_path / "x.safetensors")


def test_files_of_other_networks_are_refused():
    with pytest.raises(InputError, match="not a Swin of torchvision or Hugging Face; its names begin with float32"):
        load_swin_weights(Swin(**TINY), HERE / "tensors.pth")
