"""The serving graph: raw strings and numbers, or page records, to scores."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from beam_pipelines.command import CommandError
from beam_pipelines.records import FEATURES, HISTORIES
from export.example_pages import NUMBER_TYPES, RowIds
from models.ctr.ranker import Ranker
from models.data.pages import PADDING, parse_pages


class RankerModule(tf.Module):
    """A ranker with everything between a request and its scores: the lookup of IDs, padding, parsing.

    Standard TensorFlow operations only; the tables of IDs are static hash tables read from asset files, so their size
    is not limited by that of a graph.

    Signatures, one row per page:

    - `serving_default`: `user_id (batch,)`, `query (batch,)`, `timestamp (batch,)`, `item_id (batch, candidates)`, each
      number that the ranker reads of candidates (`impressions_7d`, for example, -1 where it is not known) `(batch,
      candidates)`, and for each history, newest first, `*_item_id` and `*_time` `(batch, steps)`. Times are epoch
      milliseconds. Shorter rows are padded with "". Unknown items and users are scored as such. Histories longer than
      those that the ranker was trained with are cut to the newest steps.
    - `tf_example`: `examples (batch,)`, serialized page records; their labels are ignored and need not be there.

    Both give `ctr`, and `ctcvr` and `dwell` if the ranker has learned them: float32 `(batch, candidates)`, 0 at padded
    candidates.

    Args:
        ranker: the trained ranker.
        ids: the string IDs by row.
        scratch: a directory for the asset files; they are needed until the module is saved.
    """

    def __init__(self, ranker: Ranker, ids: RowIds, scratch: Path) -> None:
        super().__init__()
        # Held as a plain callable, and its variables on their own: saving a Keras model as such would drag along what
        # belongs to training.
        self._score = lambda page: ranker(page)
        self._numbers = list(ranker.config.features.candidate)
        self._lengths = ranker.config.lengths
        self._variables = [variable.value for variable in ranker.variables]
        self._items = _table(ids.items, scratch / "item_ids.txt", unknown=len(ids.items))
        self._users = _table(ids.users, scratch / "user_ids.txt", unknown=PADDING)

    def save(self, path: Path) -> None:
        """Writes the SavedModel."""
        histories = {}
        for name in HISTORIES:
            histories[f"{name}_item_id"] = tf.TensorSpec([None, None], tf.string)
            histories[f"{name}_time"] = tf.TensorSpec([None, None], tf.int64)
        serving_default = tf.function(self._score_request).get_concrete_function(
            user_id=tf.TensorSpec([None], tf.string),
            query=tf.TensorSpec([None], tf.string),
            timestamp=tf.TensorSpec([None], tf.int64),
            item_id=tf.TensorSpec([None, None], tf.string),
            **{name: tf.TensorSpec([None, None], NUMBER_TYPES[name]) for name in self._numbers},
            **histories,
        )
        tf_example = tf.function(self._score_records).get_concrete_function(
            examples=tf.TensorSpec([None], tf.string, "examples")
        )
        tf.saved_model.save(self, str(path), signatures={"serving_default": serving_default, "tf_example": tf_example})

    def _score_request(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        pages = tf.shape(inputs["user_id"])[0]
        checks = [
            tf.debugging.assert_equal(tf.shape(value)[0], pages, f"{name} must have one row per user_id")
            for name, value in inputs.items()
        ]
        checks += [
            tf.debugging.assert_equal(
                tf.shape(inputs[f"{name}_time"]),
                tf.shape(inputs[f"{name}_item_id"]),
                f"{name}_time must have one value per {name}_item_id",
            )
            for name in HISTORIES
        ]
        checks += [
            tf.debugging.assert_equal(
                tf.shape(inputs[name]), tf.shape(inputs["item_id"]), f"{name} must have one value per item_id"
            )
            for name in self._numbers
        ]
        with tf.control_dependencies(checks):  # before an operation complains less clearly
            page = {
                "user": self._users.lookup(inputs["user_id"]),
                "query": tf.identity(inputs["query"]),
                "timestamp": tf.identity(inputs["timestamp"]),
                "item": self._rows(inputs["item_id"]),
                **{name: tf.identity(inputs[name]) for name in self._numbers},
            }
            for name in HISTORIES:
                length = getattr(self._lengths, name)
                rows = self._rows(inputs[f"{name}_item_id"][:, :length])
                page[f"{name}_item"] = rows
                page[f"{name}_time"] = tf.where(rows == PADDING, rows, inputs[f"{name}_time"][:, :length])
            return self._score(page)

    def _score_records(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = parse_pages(examples, self._lengths, to_longest=HISTORIES)
        return self._score({f.name: parsed[f.name] for f in FEATURES if not f.is_label})

    def _rows(self, item_ids: tf.Tensor) -> tf.Tensor:
        return tf.where(item_ids == "", tf.constant(PADDING, tf.int64), self._items.lookup(item_ids))


def _table(ids: Sequence[str], file: Path, unknown: int) -> tf.lookup.StaticHashTable:
    for value in ids:
        if "\n" in value or "\r" in value:
            raise CommandError(f"--model: the ID {value!r} holds a line break, which an asset file cannot express")
    file.write_bytes("".join(f"{value}\n" for value in ids).encode())
    initializer = tf.lookup.TextFileInitializer(
        str(file), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    return tf.lookup.StaticHashTable(initializer, unknown)
