"""COURIER: an image encoder learns from what users click after what they clicked."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from models.pretraining.losses import column_contrast, cosine, draw_mismatched, hinge, negative_similarity, unit
from models.pretraining.method import PretrainingMethod
from models.pretraining.projection_head import ProjectionHead
from models.pretraining.reconstruction import SelfAttentionReconstruction, UserIntentionReconstruction
from models.pretraining.title_contrast import TitleContrast, has_title
from models.training.replicas import gather_over_replicas

_OBJECTIVES = ("contrast", "similarity", "hinge")
_RECONSTRUCTIONS = {"cross_attention": UserIntentionReconstruction, "self_attention": SelfAttentionReconstruction}


class Rows(NamedTuple):
    """What a loss compares, one row per candidate of all pages (or per user, for the click sequence).

    Attributes:
        embeddings: `(rows, dim)`.
        reconstructions: `(rows, dim)`.
        picture: int `(rows,)`, the store's number of the picture.
        positive: bool `(rows,)`, to be reconstructed.
        reconstructed: bool `(rows,)`, has a reconstruction, positive or not.
        valid: bool `(rows,)`, is among those that a reconstruction must be told from.
    """

    embeddings: Any
    reconstructions: Any
    picture: Any
    positive: Any
    reconstructed: Any
    valid: Any


@keras.saving.register_keras_serializable(package="courier")
class Courier(PretrainingMethod):
    """Pre-trains an image encoder on pages: contrastive user intention reconstruction.

    The loss is the sum of two contrasts, each a mean over its positives (the paper writes a sum; the mean keeps the
    balance of the two and the step size independent of how many positives a batch has):

    - page view: each clicked candidate's embedding against its reconstruction from the user's clicks, with all other
      candidates of the batch as negatives;
    - click sequence: the latest click against its reconstruction from the clicks before it, with the latest clicks of
      the other users as negatives; users with fewer than two clicks are left out.

    The defaults are the paper's method, the arguments its variants and ablations. Everything behind the encoder is
    computed in float32 at any precision.

    Under a `tf.distribute` strategy the negatives come from all replicas, and the replicas' losses add up to the loss
    of the whole batch. Metrics are those of the whole batch on every replica: the two losses; `positive_similarity`,
    the mean cosine of a clicked candidate and its reconstruction; `negative_similarity`, that of the other candidates
    and this reconstruction; `valid_rows` (of the contrast), the mean number of rows in the softmax of the page view,
    whose logarithm is the loss of an encoder that embeds all pictures alike; and `pictures`, how many were seen.

    Args:
        encoder: pictures uint8 `(n, height, width, 3)` to embeddings float32 `(n, dim)`, built. Its embeddings are
            what is used afterwards, with a projection head too.
        temperature: of both contrasts.
        scores: attention scores of the reconstruction, `scaled` or `raw`.
        click_sequence: whether the click sequence has a loss ("w/o UCS": False).
        objective: of both losses. `contrast`; `similarity` only attracts a reconstruction to its embedding
            ("w/o Contrast"); `hinge` compares each positive with one other reconstruction drawn from the whole batch
            (appendix F).
        margin: of the hinge.
        reconstruction: `cross_attention` of candidates over clicks, or `self_attention` of the clicks
            ("w/o Reconstruction").
        negative_candidates: whether unclicked candidates take part ("w/o Neg PV": False, the loss of the clicked
            candidates alone).
        mask_same_item: whether rows with the picture of a column's own row leave its softmax. The paper leaves them
            in and argues that they are harmless.
        projection_head: whether the losses see the embeddings through a `ProjectionHead` (appendix D).
        titles: contrasts the encoder's embeddings with the pictures' titles, too, as `Clip` does; its loss is added
            (section 4.3.3: co-training with text). Pictures without a title have none.

    A loss given to `compile` takes the place of the two contrasts in what is learned, and metrics given to it are
    measured. Both compare `clicked` with the similarity of candidates, the cosine with their reconstruction: metrics on
    `(batch, candidates)` with the Keras mask of the candidates that have one, which `weighted_metrics` get as weights
    too; the loss on all of these in one column, `(n, 1)`.

    Inputs: a dictionary, see `PretrainingMethod`.

    Example:
        >>> courier = Courier(ImageEncoder.from_preset("courier_cpu"))
        >>> courier.compile("adam", metrics=[GAUC()])
        >>> courier.fit(Dataset("artifacts/dataset").pretraining(image_size=(48, 32)).batches(64), epochs=8)

    Reference: COURIER, section 3; its variants: section 4.3.2, appendices D and F.
    """

    def __init__(
        self,
        encoder: keras.Model,
        temperature: float = 0.05,
        scores: str = "scaled",
        click_sequence: bool = True,
        objective: str = "contrast",
        margin: float = 0.2,
        reconstruction: str = "cross_attention",
        negative_candidates: bool = True,
        mask_same_item: bool = False,
        projection_head: bool = False,
        titles: TitleContrast | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder, **kwargs)
        for name, value in (("temperature", temperature), ("margin", margin)):
            if value <= 0:
                raise ValueError(f"`{name}` must be positive. Received: {value}")
        for option, chosen, allowed in (
            ("objective", objective, _OBJECTIVES),
            ("reconstruction", reconstruction, tuple(_RECONSTRUCTIONS)),
        ):
            if chosen not in allowed:
                raise ValueError(f"`{option}` must be one of {allowed}. Received: {chosen!r}")
        self.temperature = temperature
        self.scores = scores
        self.click_sequence = click_sequence
        self.objective = objective
        self.margin = margin
        self.reconstructed_by = reconstruction
        self.reconstruction = self.make_reconstruction(reconstruction, scores)
        self.negative_candidates = negative_candidates
        self.mask_same_item = mask_same_item
        self.projection_head = None
        if projection_head:
            self.projection_head = ProjectionHead(encoder.embedding_dim, name="projection_head")
            self.projection_head.build((None, encoder.embedding_dim))
        self.titles = titles
        # Replicas draw the same numbers, each for the whole batch.
        self.mismatch_seed = keras.random.SeedGenerator() if objective == "hinge" else None
        self.page_view_loss = keras.metrics.Mean(name="page_view_loss")
        if click_sequence:
            self.click_sequence_loss = keras.metrics.Mean(name="click_sequence_loss")
        if titles is not None:
            self.title_loss = keras.metrics.Mean(name="title_loss")
        self.positive_similarity = keras.metrics.Mean(name="positive_similarity")
        self.negative_similarity = keras.metrics.Mean(name="negative_similarity")
        if objective == "contrast":
            self.valid_rows = keras.metrics.Mean(name="valid_rows")
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Embeds the distinct pictures once and hands them out: `candidates` and `clicks`, `(batch, length, dim)`.

        With titles, also `pictures` and `titles`, `(distinct, dim)`.
        """
        encoded = self.embed(inputs, training=training)
        embeddings = self.compared(encoded)
        embedded = {
            "candidates": ops.take(embeddings, ops.maximum(inputs["candidate_picture"], 0), axis=0),
            "clicks": ops.take(embeddings, ops.maximum(inputs["click_picture"], 0), axis=0),
        }
        if self.titles is not None:
            embedded |= {"pictures": encoded, "titles": self.titles(inputs["tokens"], training=training)}
        return embedded

    def compared(self, embeddings: Any) -> Any:
        """What the losses compare of embeddings `(n, dim)`: they pass the projection head, if there is one."""
        return embeddings if self.projection_head is None else self.projection_head(embeddings)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """This replica's part of the loss; the parts of all replicas add up to it."""
        page_view = self.page_view_rows(x, y_pred)
        losses = self.loss_parts(page_view, x, y_pred, training)
        self._measure(page_view, losses)
        self.count_pictures(x)
        if self._compile_loss is None:
            return sum(losses.values())
        rows = page_view.reconstructed
        clicked = ops.cast(ops.reshape(x["clicked"], (-1,)), "float32")
        similarity = cosine(page_view.embeddings, page_view.reconstructions)
        # One column, so that losses, which average the last axis, are those of candidates.
        clicked, similarity = (tf.boolean_mask(values, rows)[:, None] for values in (clicked, similarity))
        return super().compute_loss(x, clicked, similarity, None, training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """The values of all metrics, the compiled ones after this batch too."""
        if self._compile_metrics is not None:
            page_view = self.page_view_rows(x, y_pred)
            similarity = ops.reshape(cosine(page_view.embeddings, page_view.reconstructions), ops.shape(x["clicked"]))
            mask = ops.reshape(page_view.reconstructed, ops.shape(x["clicked"]))
            similarity._keras_mask = mask
            clicked = ops.cast(x["clicked"], "float32")
            self._compile_metrics.update_state(clicked, similarity, sample_weight=ops.cast(mask, "float32"))
        return self.get_metrics_result()

    def make_reconstruction(self, name: str, scores: str) -> keras.layers.Layer:
        """The layer that reconstructs candidates from clicks, built."""
        return _RECONSTRUCTIONS[name](scores, name="reconstruction")

    def page_view_rows(self, x: dict[str, Any], y_pred: dict[str, Any]) -> Rows:
        """The candidates, to be reconstructed from all clicks where they were clicked."""
        valid, click_valid = x["candidate_picture"] >= 0, x["click_picture"] >= 0
        clicked = ops.cast(x["clicked"], "bool") & valid
        valid = valid if self.negative_candidates else clicked
        any_click = ops.any(click_valid, axis=1, keepdims=True)
        return _flat(
            embeddings=y_pred["candidates"],
            reconstructions=self.reconstruction(y_pred["candidates"], y_pred["clicks"], click_valid),
            picture=ops.take(x["picture_id"], ops.maximum(x["candidate_picture"], 0)),
            positive=clicked & any_click,
            reconstructed=valid & any_click,
            valid=valid,
        )

    def click_sequence_rows(self, x: dict[str, Any], y_pred: dict[str, Any]) -> Rows:
        """The latest clicks, to be reconstructed from the clicks before them."""
        click_valid = x["click_picture"] >= 0
        latest, earlier = y_pred["clicks"][:, :1], y_pred["clicks"][:, 1:]
        two_clicks = click_valid[:, :1] & ops.any(click_valid[:, 1:], axis=1, keepdims=True)
        return _flat(
            embeddings=latest,
            reconstructions=self.reconstruction(latest, earlier, click_valid[:, 1:]),
            picture=ops.take(x["picture_id"], ops.maximum(x["click_picture"][:, :1], 0)),
            positive=two_clicks,
            reconstructed=two_clicks,
            valid=two_clicks,
        )

    def loss_parts(self, page_view: Rows, x: dict[str, Any], y_pred: dict[str, Any], training: bool) -> dict[str, Any]:
        """This replica's part of each loss, by the name of its metric."""
        losses = {"page_view_loss": self.mean_over_positives(page_view, self.temperature)}
        if self.click_sequence:
            rows = self.click_sequence_rows(x, y_pred)
            losses["click_sequence_loss"] = self.mean_over_positives(rows, self.temperature)
        if self.titles is not None:
            counted = self.counted_pictures(x) & has_title(x["tokens"])
            losses["title_loss"] = self.titles.loss_part(y_pred["pictures"], y_pred["titles"], x["tokens"], counted)
        return losses

    def mean_over_positives(self, rows: Rows, temperature: float) -> Any:
        """This replica's part of the objective's mean over the positives of all replicas."""
        all_positive = gather_over_replicas(rows.positive)
        if self.objective == "contrast":
            total = column_contrast(
                rows.embeddings,
                rows.reconstructions,
                rows.positive,
                negatives=gather_over_replicas(rows.embeddings),
                negatives_valid=gather_over_replicas(rows.valid),
                temperature=temperature,
                same_item=_same_item(rows) if self.mask_same_item else None,
            )
        elif self.objective == "similarity":
            total = negative_similarity(rows.embeddings, rows.reconstructions, rows.positive)
        else:
            # Cheap enough for every replica to compute all of it and to answer for its share.
            mismatched = draw_mismatched(gather_over_replicas(rows.reconstructed), self.mismatch_seed)
            total = hinge(
                gather_over_replicas(rows.embeddings),
                gather_over_replicas(rows.reconstructions),
                mismatched,
                all_positive,
                margin=self.margin,
            )
            total = total * _count(ops.ones_like(rows.positive)) / _count(ops.ones_like(all_positive))
        return total / ops.maximum(_count(all_positive), 1.0)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "scores": self.scores,
            "click_sequence": self.click_sequence,
            "objective": self.objective,
            "margin": self.margin,
            "reconstruction": self.reconstructed_by,
            "negative_candidates": self.negative_candidates,
            "mask_same_item": self.mask_same_item,
            "projection_head": self.projection_head is not None,
            "titles": None if self.titles is None else keras.saving.serialize_keras_object(self.titles),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Courier":
        """Builds a model from what `get_config` returned."""
        if config.get("titles") is not None:
            titles = keras.saving.deserialize_keras_object(config["titles"], custom_objects=custom_objects)
            config = {**config, "titles": titles}
        return super().from_config(config, custom_objects)

    def _measure(self, page_view: Rows, losses: dict[str, Any]) -> None:
        """Updates the metrics with values of the whole batch."""
        # The cosines of all pairs add up to the product of two sums of unit vectors: no matrix is needed.
        embeddings = unit(page_view.embeddings) * ops.cast(page_view.valid, "float32")[:, None]
        reconstructions = unit(page_view.reconstructions) * ops.cast(page_view.positive, "float32")[:, None]
        same = 0.0
        if self.objective == "contrast" and self.mask_same_item:
            others = _same_item(page_view) & gather_over_replicas(page_view.valid)[:, None]
            same = _count(others & page_view.positive[None, :]) - _count(page_view.positive)
        part = {
            "own": ops.sum(embeddings * reconstructions),
            "positives": _count(page_view.positive),
            "rows": _count(page_view.valid),
            "same": same,
            **losses,
        }
        scalars = ops.stack([ops.cast(value, "float32") for value in part.values()])
        sums = ops.concatenate([ops.sum(embeddings, axis=0), ops.sum(reconstructions, axis=0), scalars])
        sums = ops.sum(gather_over_replicas(ops.stop_gradient(sums)[None]), axis=0)
        dim = embeddings.shape[-1]
        whole = {name: sums[2 * dim + i] for i, name in enumerate(part)}
        for name in losses:
            getattr(self, name).update_state(whole[name])
        positives = ops.maximum(whole["positives"], 1.0)
        pairs = whole["positives"] * (whole["rows"] - 1.0)
        every = ops.sum(sums[:dim] * sums[dim : 2 * dim])
        self.positive_similarity.update_state(whole["own"] / positives, ops.minimum(whole["positives"], 1.0))
        self.negative_similarity.update_state(
            (every - whole["own"]) / ops.maximum(pairs, 1.0), ops.clip(pairs, 0.0, 1.0)
        )
        if self.objective == "contrast":
            self.valid_rows.update_state(whole["rows"] - whole["same"] / positives)


def _flat(**parts: Any) -> Rows:
    """Joins the first two axes of each part."""
    return Rows(**{name: ops.reshape(part, (-1, *part.shape[2:])) for name, part in parts.items()})


def _same_item(rows: Rows) -> Any:
    """Which rows of all replicas show the picture of a column of this one: bool `(all rows, columns)`."""
    return gather_over_replicas(rows.picture)[:, None] == rows.picture[None, :]


def _count(flags: Any) -> Any:
    return ops.sum(ops.cast(flags, "float32"))
