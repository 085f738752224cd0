"""The encoder, its reconstruction and its contrast are the same on JAX, where TensorFlow has no part in them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from models.vision.convnet import ConvNet
from models.vision.efficientnet_lite import EfficientNetLite
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from tests.models.courier_step import results

SWIN = {"patch_size": 4, "dim": 8, "depths": (2, 1), "num_heads": (2, 4), "window": 4, "drop_path": 0.0}
BACKBONES = {
    "swin": lambda: Swin(**SWIN),
    "swin, checkpointed": lambda: Swin(**{**SWIN, "depths": (2,), "num_heads": (2,)}, checkpointing=True),
    "convnet": lambda: ConvNet(widths=(8, 16), depths=(1, 1), kernel=3, grid=(2, 2)),
    "efficientnet_lite": lambda: EfficientNetLite(stages=(1,)),
}


def draw_batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {
        "pictures": rng.integers(0, 256, (14, 36, 24, 3), np.uint8),
        "candidate_picture": rng.integers(-1, 14, (4, 5)),
        "click_picture": rng.integers(-1, 14, (4, 3)),
        "clicked": rng.random((4, 5)) < 0.4,
        "centers": rng.normal(size=(6, 8)).astype(np.float32),
    }
    batch["click_picture"][:, 0] = np.arange(4)  # nobody is without a click
    return batch


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed (it is in the dev extra)")
def test_a_step_is_that_of_tensorflow(tmp_path):
    batch, encoders = draw_batch(), {}
    for name, backbone in BACKBONES.items():
        keras.utils.set_random_seed(0)
        encoders[tmp_path / name] = encoder = ImageEncoder(backbone(), embedding_dim=8)
        (tmp_path / name).mkdir()
        encoder.save(tmp_path / name / "encoder.keras")
        np.savez(tmp_path / name / "batch.npz", **batch)
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.courier_step", *map(str, encoders)],
        cwd=Path(__file__).parents[3],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # compiled once, run once
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for directory, encoder in encoders.items():
        expected = results(encoder, batch)
        with np.load(directory / "jax.npz") as found:
            assert set(found.files) == set(expected)
            for name, value in expected.items():
                scale = max(1.0, float(np.abs(value).max()))
                message = f"{directory.name}: {name}"
                np.testing.assert_allclose(found[name], value, atol=5e-5 * scale, err_msg=message)
        assert any(np.abs(expected[name]).max() > 0 for name in expected if name.startswith("gradient"))
