"""What a ranker makes of a page: the parts of each score, and the history steps that attract the attention."""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.records import HISTORIES
from export.viewer.likeness import PictureTables
from models.data.dataset import Dataset
from models.data.pages import GROUPS, PADDING, parse_pages, with_labels
from models.features.adapt import image_table
from models.ranker.member import AttentionWeights
from models.ranker.ranker import Ranker
from models.ranker.run import RankerRun


class StepWeights(NamedTuple):
    """How much each step of a history counts for each candidate of a page.

    Attributes:
        whole: the mean over the heads of target attention, `(candidates, steps)`.
        recent: the weights of the activation unit on the newest steps, `(candidates, newest)`.

    Either is `None` where the ranker has no such layer.
    """

    whole: np.ndarray | None
    recent: np.ndarray | None

    @classmethod
    def of(cls, weights: AttentionWeights) -> "StepWeights":
        """Those of a page, as the ranker has them."""
        whole, recent = weights.whole, weights.recent
        return cls(
            None if whole is None else tf.reduce_mean(whole, axis=0).numpy(), None if recent is None else recent.numpy()
        )


class Insight(NamedTuple):
    """What a ranker makes of a page.

    Attributes:
        parts: `outputs`, by name, of each candidate; `logits`, by name, those of the ranker's last layer; of the click
            also `corrected`, for unclicked candidates that training has left out, and `calibrated`, whose sigmoid is
            the score; `negative_rate` and `calibration`, what they were corrected for and how they were calibrated;
            the number of `members`.
        attention: of each history that is read.
    """

    parts: dict[str, Any]
    attention: dict[str, StepWeights]


class RankerView:
    """A trained ranker that says more of a page than its scores.

    The dataset may be a later one than that of the training: rows are translated by their string IDs, and items and
    users that the ranker does not know are scored as such.

    Args:
        run: the run directory of `models.train_ctr`.
        dataset: whose pages it looks at.

    Attributes:
        metadata: of the run.
        seen: bool `(items,)` by row of the dataset, whether an item was in training.

    Raises:
        ArtifactError: the run is damaged.
    """

    def __init__(self, run: RankerRun, dataset: Dataset) -> None:
        self.metadata = run.metadata
        self._ranker: Ranker = run.ranker()
        ids = run.row_ids()
        items, users = dataset.items()["item_id"].to_pylist(), dataset.users()["user_id"].to_pylist()
        self._item_row = _translation(items, ids.items, self._ranker.sizes.items)
        self._user_row = _translation(users, ids.users, PADDING)
        known = self._item_row < len(ids.items)
        if not known.any():
            raise ArtifactError(f"{run.path} knows none of the items of {dataset.path}")
        self.seen = known.copy()
        self.seen[known] = run.training_counts()[self._item_row[known]] > 0
        self._lengths = self._ranker.config.lengths.model_copy(update={"candidates": dataset.manifest.max_candidates})

    def look(self, record: bytes) -> "Insight":
        """Scores a page, and keeps what led there.

        Args:
            record: the serialized page.
        """
        # Not compiled: that would take longer than thousands of pages, one by one, do as it is.
        page = self._page(record)
        all_logits = self._ranker.logits(page)
        found = (
            all_logits,
            self._ranker.scores_of_logits(all_logits, page["item"] != PADDING),
            self._ranker.attention_weights(page),
        )
        logits, outputs, attention = tf.nest.map_structure(lambda value: None if value is None else value[0], found)
        corrected = logits["ctr"] + math.log(self._ranker.negative_rate)
        parts = {
            "outputs": {name: _listed(values) for name, values in outputs.items()},
            "logits": {name: _listed(values) for name, values in logits.items()},
            "corrected": _listed(corrected),
            "calibrated": _listed(self._ranker.calibrator.apply(corrected)),
            "negative_rate": self._ranker.negative_rate,
            "calibration": self._ranker.calibrator.kind,
            "members": len(self._ranker.members),
        }
        return Insight(parts, {name: StepWeights.of(weights) for name, weights in attention.items()})

    def picture_tables(self) -> PictureTables:
        """What its own tables say of the pictures of the dataset's items."""
        tables = {name: table.numpy() for name, table in self._ranker.items.pictures.tables.items()}
        clusters = tables["cluster"][self._item_row] - 1 if "cluster" in tables else None
        if image_table(0) in tables:
            return PictureTables(tables[image_table(0)][self._item_row], clusters, "the ranker's embeddings")
        if "center" in tables and clusters is not None:
            centers = tables["center"][clusters + 1]
            return PictureTables(centers, clusters, "the centers of clusters", have_neighbours=False)
        return PictureTables(None, clusters)

    def _page(self, record: bytes) -> dict[str, tf.Tensor]:
        page = parse_pages(tf.constant([record]), self._lengths, to_longest=GROUPS)
        page, _, _ = with_labels(page)
        for name in ("item", *(f"{history}_item" for history in HISTORIES)):
            rows = page[name].numpy()
            translated = self._item_row[np.minimum(np.maximum(rows, 0), len(self._item_row) - 1)]
            page[name] = tf.constant(np.where(rows == PADDING, PADDING, translated))
        page["user"] = tf.constant(self._user_row[page["user"].numpy()])
        return page


def _translation(ids: list[str], known: list[str], unknown: int) -> np.ndarray:
    row = {name: number for number, name in enumerate(known)}
    return np.array([row.get(name, unknown) for name in ids], np.int64)


def _listed(values: tf.Tensor) -> list[float]:
    return np.asarray(values, np.float64).tolist()
