"""COURIER: an image encoder learns from what users click after what they clicked."""

from typing import Any

import keras
from keras import ops

from models.pretraining.contrastive_loss import column_contrast
from models.pretraining.reconstruction import UserIntentionReconstruction
from models.training.distributed_fit import DistributedFit
from models.training.replicas import gather_over_replicas


class Courier(DistributedFit, keras.Model):
    """Pre-trains an image encoder on pages: contrastive user intention reconstruction.

    The loss is the sum of two contrasts, each a mean over its positives (the paper writes a sum; the mean keeps the
    balance of the two and the step size independent of how many positives a batch has):

    - page view: each clicked candidate's embedding against its reconstruction from the user's clicks, with all other
      candidates of the batch as negatives;
    - click sequence: the latest click against its reconstruction from the clicks before it, with the latest clicks of
      the other users as negatives; users with fewer than two clicks are left out.

    Under a `tf.distribute` strategy the negatives come from all replicas, and the replicas' losses add up to the loss
    of the whole batch.

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built.
        temperature: of both contrasts.
        scores: attention scores of the reconstruction, `scaled` or `raw`.

    Inputs (a dictionary):
        pictures: uint8 `(distinct, height, width, 3)`.
        candidate_picture: int32 `(batch, candidates)`, rows of `pictures`, -1 = padding.
        click_picture: int32 `(batch, clicks)`, newest first, padding at the end.
        clicked: bool `(batch, candidates)`.

    Reference: COURIER, section 3.
    """

    def __init__(self, encoder: keras.Model, temperature: float = 0.05, scores: str = "scaled", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive. Received: {temperature}")
        self.encoder = encoder
        self.temperature = temperature
        self.reconstruction = UserIntentionReconstruction(scores, name="reconstruction")
        self.page_view_loss = keras.metrics.Mean(name="page_view_loss")
        self.click_sequence_loss = keras.metrics.Mean(name="click_sequence_loss")
        self.pictures_seen = keras.metrics.Sum(name="pictures")
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Embeds the distinct pictures once and hands them out: `candidates` and `clicks`, `(batch, length, dim)`."""
        embeddings = self.encoder(inputs["pictures"], training=training)
        return {
            "candidates": ops.take(embeddings, ops.maximum(inputs["candidate_picture"], 0), axis=0),
            "clicks": ops.take(embeddings, ops.maximum(inputs["click_picture"], 0), axis=0),
        }

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """This replica's part of the loss; the parts of all replicas add up to it."""
        candidates, clicks = y_pred["candidates"], y_pred["clicks"]
        candidate_valid, click_valid = x["candidate_picture"] >= 0, x["click_picture"] >= 0
        any_click = ops.any(click_valid, axis=1, keepdims=True)
        page_view = self._contrast(
            candidates,
            self.reconstruction(candidates, clicks, click_valid),
            positive=ops.cast(x["clicked"], "bool") & candidate_valid & any_click,
            valid=candidate_valid,
        )
        latest, earlier = clicks[:, :1], clicks[:, 1:]
        two_clicks = ops.all(click_valid[:, :2], axis=1, keepdims=True) if clicks.shape[1] > 1 else any_click & False
        click_sequence = self._contrast(
            latest,
            self.reconstruction(latest, earlier, click_valid[:, 1:]),
            positive=two_clicks,
            valid=two_clicks,
        )
        # Metrics average over replicas, so that this replica's part counts as if it were the whole.
        self.page_view_loss.update_state(page_view * self._replicas)
        self.click_sequence_loss.update_state(click_sequence * self._replicas)
        self.pictures_seen.update_state(ops.shape(x["pictures"])[0])
        return page_view + click_sequence

    @property
    def _replicas(self) -> int:
        return self.distribute_strategy.num_replicas_in_sync

    def _contrast(self, embeddings: Any, reconstructions: Any, *, positive: Any, valid: Any) -> Any:
        rows = gather_over_replicas(ops.reshape(embeddings, (-1, embeddings.shape[-1])))
        total = column_contrast(
            ops.reshape(embeddings, (-1, embeddings.shape[-1])),
            ops.reshape(reconstructions, (-1, embeddings.shape[-1])),
            ops.reshape(positive, (-1,)),
            negatives=rows,
            negatives_valid=gather_over_replicas(ops.reshape(valid, (-1,))),
            temperature=self.temperature,
        )
        positives = ops.sum(ops.cast(gather_over_replicas(ops.reshape(positive, (-1,))), "float32"))
        return total / ops.maximum(positives, 1.0)
