"""Pages with the outputs of the ranker in process: what served scores are compared with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from beam_pipelines.format.records import FEATURES
from export.version.request_rows import request_row
from models.data.pages import GROUPS, PADDING, parse_pages
from models.ranker.ranker import Ranker
from models.ranker.run import RowIds

MAX_DIFFERENCE = 1e-6
"""Largest difference allowed between the score that a client gets and the score of the ranker in process."""

_TOGETHER = 32


class ReferencePages(NamedTuple):
    """Pages and the outputs of the ranker in process.

    Attributes:
        rows, records: the pages as requests, see `request_row`, and as page records.
        outputs: by page, the outputs by name, one value per candidate each.
    """

    rows: list[dict[str, Any]]
    records: list[bytes]
    outputs: list[dict[str, np.ndarray]]

    @classmethod
    def of(cls, ranker: Ranker, ids: RowIds, records: Sequence[bytes]) -> "ReferencePages":
        """Scores page records."""
        rows = [request_row(record, ids, ranker.config.features.candidate or {}) for record in records]
        return cls(rows, list(records), outputs_in_process(ranker, records))

    def select(self, pages: slice) -> "ReferencePages":
        """Some of the pages."""
        return ReferencePages(self.rows[pages], self.records[pages], self.outputs[pages])


def outputs_in_process(ranker: Ranker, records: Sequence[bytes]) -> list[dict[str, np.ndarray]]:
    """The outputs of the ranker for page records, read as in training, without any serving: by page, one value per
    candidate each."""
    longest = max(len(_feature(record, "item").int64_list.value) for record in records)
    lengths = ranker.config.lengths.model_copy(update={"candidates": longest})
    batches = tf.data.Dataset.from_tensor_slices(list(records)).batch(_TOGETHER)
    pages = []
    for page in batches.map(lambda serialized: parse_pages(serialized, lengths, to_longest=GROUPS)):
        outputs = ranker({f.name: page[f.name] for f in FEATURES if not f.is_label})
        for n, item in enumerate(page["item"].numpy()):
            present = item != PADDING
            pages.append({name: values.numpy()[n][present] for name, values in outputs.items()})
    return pages


def scores_in_process(ranker: Ranker, records: Sequence[bytes]) -> list[np.ndarray]:
    """The click probabilities of `outputs_in_process`, by page."""
    return [outputs["ctr"] for outputs in outputs_in_process(ranker, records)]


def _feature(record: bytes, name: str) -> tf.train.Feature:
    return tf.train.Example.FromString(record).features.feature[name]
