import keras
import numpy as np
import pytest

from models.pretraining.projection_head import ProjectionHead


def reference(x, weights):
    dense = [weights[f"dense_{i}"] for i in range(1, 5)]
    norm = [weights[f"norm_{i}"] for i in range(1, 4)]

    def normalise(x, i):
        gain, offset = norm[i]
        return gain * (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-3) + offset

    first = x @ dense[0][0] + dense[0][1]
    hidden = np.tanh(normalise(first, 0))
    hidden = np.tanh(normalise(hidden @ dense[1][0] + dense[1][1], 1))
    hidden = np.tanh(normalise((hidden @ dense[2][0] + dense[2][1] + first) / 2, 2))
    return hidden @ dense[3][0] + dense[3][1]


@pytest.mark.parametrize("shape", [(1, 3, 3), (7, 4, 6)])
def test_equals_its_description(shape):
    batch, length, dim = shape
    rng = np.random.default_rng(0)
    head = ProjectionHead(dim)
    head.build((None, length))
    head.set_weights([rng.normal(size=weight.shape) for weight in head.weights])
    weights = {layer.name: layer.get_weights() for layer in (*head.dense, *head.norm)}
    x = rng.normal(size=(batch, length)).astype(np.float32)
    np.testing.assert_allclose(head(x), reference(x, weights), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(head(x[:1]), np.array(head(x))[:1], atol=1e-5)  # whatever else is in the batch


def test_computes_in_float32_and_has_a_config():
    head = ProjectionHead.from_config(ProjectionHead(5).get_config())
    assert head.dim == 5
    assert keras.backend.standardize_dtype(head(np.ones((2, 3), np.float16)).dtype) == "float32"
    with pytest.raises(ValueError, match=r"`dim` must be at least 1\. Received: 0"):
        ProjectionHead(0)
