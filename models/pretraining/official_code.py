"""COURIER as its published code computes it, where that differs from the paper."""

from typing import Any

import keras
from keras import ops

from models.pretraining.courier import Courier, Rows
from models.training.replicas import gather_over_replicas
from models.vision.backbone import MEAN

_HEADS = 4
_HIDDEN = 1024


@keras.saving.register_keras_serializable(package="courier")
class OfficialCodeCourier(Courier):
    """`Courier` with the differences of the published code, for comparisons with results that it produced.

    1. The click sequence has the inverse temperature (20 where the page view has 0.05: the published code multiplies
       by its tau in one loss and divides by it in the other), which makes that loss almost constant.
    2. The reconstruction is an attention of 4 heads with learnt projections. It leaves the simplex of the clicks.
    3. A third loss, `click_through_loss`: the cross-entropy of the clicks, predicted by a two-layer perceptron from a
       candidate's reconstruction and embedding, a mean over valid candidates.
    4. Padded clicks take part in the attention.
    5. Padded candidates stay in the softmax. Only as positives are they left out.
    6. Clicks are ordered newest first (those of `Courier` too).
    7. All users count as positives of the click sequence, those without any click too.
    8. Losses are means over positives (those of `Courier` too).
    9. The published projection takes 768 features from a network that returns 1,000 values and cannot run. Here it
       takes the encoder's features.
    10. Batches of 55 pages per device with at most 640 pictures, gathered at their own sizes: matters of the batches,
        see the preset `courier_official_code`. Batches of a fixed size need no padding when gathered.

    Padding is what it is there: a picture of zeros after normalisation, embedded like any other. Where the published
    code averages the click-through loss and normalises the perceptron's batch per device, the whole batch is used
    here, so that replicas do not change the result.

    Args:
        encoder: see `Courier`; its embeddings' length must be a multiple of the 4 heads.
        temperature: of the page view; the click sequence has its inverse.

    Inputs: a dictionary, see `PretrainingMethod`; at least two clicks per user, padding included.

    Reference: github.com/ThyrixYang/COURIER at commit d8be7b01.
    """

    def __init__(self, encoder: keras.Model, temperature: float = 0.05, **kwargs: Any) -> None:
        dim = encoder.embedding_dim
        if dim % _HEADS:
            raise ValueError(f"`encoder.embedding_dim` must be a multiple of {_HEADS}. Received: {dim}")
        super().__init__(encoder, temperature, **kwargs)
        self.click_through = _ClickThrough(dtype="float32", name="click_through")
        self.click_through.build((None, 2 * dim))
        self.click_through_loss = keras.metrics.Mean(name="click_through_loss")

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """See `Courier`; padding gets the embedding of a picture in the mean colour of the normalisation."""
        pictures = inputs["pictures"]
        blank = ops.ones_like(pictures[:1]) * ops.convert_to_tensor([round(value) for value in MEAN], pictures.dtype)
        shown = {
            "pictures": ops.concatenate([blank, pictures], axis=0),
            "picture_id": ops.pad(inputs["picture_id"], [[1, 0]], constant_values=-1),
            "candidate_picture": inputs["candidate_picture"] + 1,
            "click_picture": inputs["click_picture"] + 1,
        }
        return super().call(shown, training=training)

    def make_reconstruction(self, name: str, scores: str) -> keras.layers.Layer:
        """See `Courier`."""
        layer = _ProjectedReconstruction(self.encoder.embedding_dim, name="reconstruction")
        layer.build((None, None, self.encoder.embedding_dim))
        return layer

    def page_view_rows(self, x: dict[str, Any], y_pred: dict[str, Any]) -> Rows:
        """The candidates, padding included; clicked ones are positive with or without a history."""
        rows = super().page_view_rows(x, y_pred)
        clicked = ops.cast(x["clicked"], "bool") & (x["candidate_picture"] >= 0)
        return rows._replace(
            positive=ops.reshape(clicked, (-1,)),
            reconstructed=ops.ones_like(rows.reconstructed),
            valid=ops.ones_like(rows.valid),
        )

    def click_sequence_rows(self, x: dict[str, Any], y_pred: dict[str, Any]) -> Rows:
        """The latest clicks, padding included, all positive."""
        if y_pred["clicks"].shape[1] < 2:
            raise ValueError(f"`click_picture` must have 2 clicks or more. Received: {y_pred['clicks'].shape[1]}")
        rows = super().click_sequence_rows(x, y_pred)
        everyone = ops.ones_like(rows.positive)
        return rows._replace(positive=everyone, reconstructed=everyone, valid=everyone)

    def loss_parts(self, page_view: Rows, x: dict[str, Any], y_pred: dict[str, Any], training: bool) -> dict[str, Any]:
        """See `Courier`."""
        return {
            "page_view_loss": self.mean_over_positives(page_view, self.temperature),
            "click_sequence_loss": self.mean_over_positives(self.click_sequence_rows(x, y_pred), 1 / self.temperature),
            "click_through_loss": self._click_through_part(page_view, x, training),
        }

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        return {name: config[name] for name in ("name", "trainable", "dtype", "encoder", "temperature")}

    def _click_through_part(self, page_view: Rows, x: dict[str, Any], training: bool) -> Any:
        features = ops.concatenate([page_view.reconstructions, page_view.embeddings], axis=-1)
        logits = self.click_through(features, training=training)[:, 0]
        valid = ops.cast(ops.reshape(x["candidate_picture"], (-1,)) >= 0, "float32")
        losses = ops.softplus(logits) - logits * ops.cast(page_view.positive, "float32")
        return ops.sum(losses * valid) / ops.maximum(ops.sum(gather_over_replicas(valid)), 1.0)


class _ProjectedReconstruction(keras.layers.Layer):
    """Attention of several heads with learnt projections; takes and gives what `UserIntentionReconstruction` does."""

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.attention = keras.layers.MultiHeadAttention(_HEADS, dim // _HEADS, dtype="float32", name="attention")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.attention.build(input_shape, input_shape)

    def call(self, candidates: Any, clicks: Any, click_valid: Any) -> Any:
        return self.attention(candidates, clicks)  # padded clicks too

    def attention_weights(self, candidates: Any, clicks: Any, click_valid: Any) -> Any:
        """Means over the heads."""
        _, weights = self.attention(candidates, clicks, return_attention_scores=True)
        return ops.mean(weights, axis=1)


class _ClickThrough(keras.layers.Layer):
    """Dense, ReLU, batch normalisation over all replicas, Dense to one logit."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.hidden = keras.layers.Dense(_HIDDEN, activation="relu", dtype=policy, name="hidden")
        self.norm = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, synchronized=True, dtype=policy, name="norm"
        )
        self.logit = keras.layers.Dense(1, dtype=policy, name="logit")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.hidden.build(input_shape)
        self.norm.build((None, _HIDDEN))
        self.logit.build((None, _HIDDEN))

    def call(self, features: Any, training: bool = False) -> Any:
        return self.logit(self.norm(self.hidden(features), training=training))
