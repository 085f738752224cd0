"""One step of COURIER without its trainer, on whatever backend Keras computes: embeddings, loss and gradients.

    KERAS_BACKEND=jax python -m tests.models.courier_step DIRECTORY ...

A directory has `encoder.keras` and `batch.npz`, and gets `BACKEND.npz`. The batch has `pictures`, `candidate_picture`,
`click_picture` and `clicked` as `Courier` takes them, and `centers` that embeddings are assigned to.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from models.clustering.assignment import ExactAssigner
from models.pretraining.losses import column_contrast
from models.pretraining.reconstruction import UserIntentionReconstruction
from models.vision.encoder import ImageEncoder


def page_view_loss(embeddings: Any, batch: Mapping[str, np.ndarray]) -> Any:
    """The page-view loss of a batch, from its pictures' embeddings `(pictures, dim)`."""
    candidates, clicks = (
        ops.take(embeddings, ops.convert_to_tensor(np.maximum(batch[name], 0)), axis=0)
        for name in ("candidate_picture", "click_picture")
    )
    reconstructions = UserIntentionReconstruction()(candidates, clicks, batch["click_picture"] >= 0)
    dim = embeddings.shape[-1]
    rows = ops.reshape(candidates, (-1, dim))
    valid = (batch["candidate_picture"] >= 0).ravel()
    total = column_contrast(
        rows,
        ops.reshape(reconstructions, (-1, dim)),
        batch["clicked"].ravel() & valid,
        negatives=rows,
        negatives_valid=valid,
        temperature=0.05,
    )
    return ops.cast(total, "float32")


def embed(encoder: ImageEncoder, pictures: np.ndarray) -> Any:
    """The pictures' embeddings; JAX would compile every operation by itself, and takes long for it."""
    if keras.backend.backend() != "jax":
        return encoder(pictures)
    import jax

    weights, others = ([v.value for v in vs] for vs in (encoder.trainable_variables, encoder.non_trainable_variables))
    return jax.jit(lambda pictures: encoder.stateless_call(weights, others, pictures)[0])(pictures)


def loss_and_gradients(encoder: ImageEncoder, batch: Mapping[str, np.ndarray]) -> tuple[Any, list[Any]]:
    """The loss and its gradients to the encoder's weights."""
    return {"tensorflow": _with_tensorflow, "jax": _with_jax}[keras.backend.backend()](encoder, batch)


def _with_tensorflow(encoder: ImageEncoder, batch: Mapping[str, np.ndarray]) -> tuple[Any, list[Any]]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = page_view_loss(encoder(batch["pictures"], training=True), batch)
    return loss, tape.gradient(loss, encoder.trainable_variables)


def _with_jax(encoder: ImageEncoder, batch: Mapping[str, np.ndarray]) -> tuple[Any, list[Any]]:
    import jax

    others = [variable.value for variable in encoder.non_trainable_variables]

    def loss(weights: list[Any]) -> Any:
        embeddings, _ = encoder.stateless_call(weights, others, batch["pictures"], training=True)
        return page_view_loss(embeddings, batch)

    step: Callable[[list[Any]], tuple[Any, list[Any]]] = jax.jit(jax.value_and_grad(loss))
    return step([variable.value for variable in encoder.trainable_variables])


def results(encoder: ImageEncoder, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Everything that two backends must agree on."""
    loss, gradients = loss_and_gradients(encoder, batch)
    embeddings = ops.convert_to_numpy(embed(encoder, batch["pictures"]))
    return {
        "embeddings": embeddings,
        "loss": ops.convert_to_numpy(loss),
        "ids": ExactAssigner(batch["centers"]).assign(embeddings),
        **{f"gradient_{i}": ops.convert_to_numpy(gradient) for i, gradient in enumerate(gradients)},
    }


if __name__ == "__main__":
    for directory in map(Path, sys.argv[1:]):
        saved = keras.models.load_model(directory / "encoder.keras", compile=False)
        with np.load(directory / "batch.npz") as file:
            np.savez(directory / f"{keras.backend.backend()}.npz", **results(saved, dict(file)))
