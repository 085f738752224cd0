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
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from tests.models.courier_step import results

SWIN = {"patch_size": 4, "dim": 8, "depths": (2, 1), "num_heads": (2, 4), "window": 4, "drop_path": 0.0}
BACKBONES = {
    "swin": lambda: Swin(**SWIN),
    "swin, checkpointed": lambda: Swin(**SWIN, checkpointing=True),
    "convnet": lambda: ConvNet(widths=(8, 16), depths=(1, 1), kernel=3, grid=(2, 2)),
}


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed (it is in the dev extra)")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_is_that_of_tensorflow(backbone, tmp_path):
    keras.utils.set_random_seed(0)
    encoder = ImageEncoder(BACKBONES[backbone](), embedding_dim=8)
    rng = np.random.default_rng(0)
    batch = {
        "pictures": rng.integers(0, 256, (14, 36, 24, 3), np.uint8),
        "candidate_picture": rng.integers(-1, 14, (4, 5)),
        "click_picture": rng.integers(-1, 14, (4, 3)),
        "clicked": rng.random((4, 5)) < 0.4,
        "centers": rng.normal(size=(6, 8)).astype(np.float32),
    }
    batch["click_picture"][:, 0] = np.arange(4)  # nobody is without a click
    encoder.save(tmp_path / "encoder.keras")
    np.savez(tmp_path / "batch.npz", **batch)
    paths = [str(tmp_path / name) for name in ("encoder.keras", "batch.npz", "jax.npz")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.courier_step", *paths],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "jax"
    expected = results(encoder, batch)
    with np.load(tmp_path / "jax.npz") as found:
        assert set(found.files) == set(expected)
        for name, value in expected.items():
            scale = max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(found[name], value, atol=2e-5 * scale, err_msg=name)
    assert any(np.abs(expected[name]).max() > 0 for name in expected if name.startswith("gradient"))
