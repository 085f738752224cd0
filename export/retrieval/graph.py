"""The serving graph of a retriever: raw strings to candidates."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from export.retrieval.inputs import EXCLUDE_SEEN, retrieval_inputs
from export.retrieval.item_index import ItemIndex
from export.retrieval.served_vectors import ServedVectors
from export.version.graph import add_defaults, id_table
from models.data.pages import PADDING

_SIGNATURE = "serving_default"
_SCANN_OPERATIONS = "Scann"


class RetrievalModule(tf.Module):
    """A retriever with everything between a request and its candidates.

    Its signature `serving_default` has one row per user. Inputs are those of `retrieval_inputs`. Outputs, best first:
    `item_id` string and `score` float32, `(batch, k)`; where there is no further candidate, an empty string and 0.

    With a user tower, a user is what the request says of the histories; where it names no known item, what is known of
    the user; and an unknown user is one with empty histories. Without one, unknown users have no candidates.

    Args:
        vectors: what is served.
        index: of `vectors.items`.
        scratch: a directory for the asset files; they are needed until the module is saved.

    Raises:
        ArtifactError: an ID cannot be expressed.
    """

    def __init__(self, vectors: ServedVectors, index: ItemIndex, scratch: Path) -> None:
        super().__init__()
        self._index = index
        self._unknown_user = len(vectors.user_ids)
        self._users = id_table(vectors.user_ids, scratch / "user_ids.txt", unknown=self._unknown_user)
        self._items = id_table(vectors.item_ids, scratch / "item_ids.txt", unknown=PADDING)
        self._item_ids = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(scratch / "item_ids.txt"),
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
            ),
            "",
        )
        order = np.argsort(vectors.seen.users, kind="stable")
        # The unknown user has nothing.
        ends = np.searchsorted(vectors.seen.users[order], np.arange(self._unknown_user + 2))
        self._seen_items = tf.Variable(vectors.seen.items[order].astype(np.int64), trainable=False)
        self._seen_ends = tf.Variable(ends.astype(np.int64), trainable=False)
        self._tower = None
        nobody = np.zeros((1, vectors.users.shape[1]), np.float32)
        steps = (0, 0)
        if vectors.tower is not None:
            self._base = tf.Variable(vectors.tower.base, trainable=False)
            self._tower, self._variables = vectors.tower.encode, vectors.tower.variables
            steps = vectors.tower.click_steps, vectors.tower.pay_steps
            none = tf.zeros([1, 0], tf.int64)
            nobody = self._tower(self._base, none, none).numpy()
        self.inputs = retrieval_inputs(*steps)
        self._vectors = tf.Variable(np.concatenate([vectors.users, nobody]), trainable=False)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
        """Answers a request that has all inputs."""
        return self._candidates(**{name: tf.constant(value) for name, value in inputs.items()})

    def save(self, path: Path) -> None:
        """Writes the SavedModel."""
        function = tf.function(self._candidates, autograph=False).get_concrete_function(
            **{name: tf.TensorSpec(each.shape, each.dtype) for name, each in self.inputs.items()}
        )
        options = tf.saved_model.SaveOptions(namespace_whitelist=[_SCANN_OPERATIONS])
        tf.saved_model.save(self, str(path), signatures={_SIGNATURE: function}, options=options)
        defaults = {name: each.default() for name, each in self.inputs.items() if not each.required}
        add_defaults(path, _SIGNATURE, defaults)

    def _candidates(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        users = self._users.lookup(inputs["user_id"])
        batch = tf.size(users)
        fits = [
            tf.debugging.Assert(
                (tf.shape(inputs[name])[0] == batch) | ((tf.shape(inputs[name])[0] == 1) & _is_empty(inputs[name])),
                [f"{name} must have one row per user_id"],
            )
            for name in inputs
            if name != "user_id"
        ]
        with tf.control_dependencies(fits):
            exclude = tf.broadcast_to(inputs[EXCLUDE_SEEN], [batch])
        vectors = tf.gather(self._vectors, users)
        starts, ends = tf.gather(self._seen_ends, users), tf.gather(self._seen_ends, users + 1)
        seen = tf.ragged.range(starts, ends)
        excluded = [tf.stack([seen.value_rowids(), tf.gather(self._seen_items, seen.flat_values)], axis=1)]
        if self._tower is not None:
            histories = [self._history(inputs[f"{name}_item_id"], batch) for name in ("click", "pay")]
            is_told = tf.reduce_any(tf.concat(histories, axis=1) >= 0, axis=1)
            told = self._tower(self._base, *histories)
            vectors = tf.where(is_told[:, None], told, vectors)
            for rows in histories:
                place = tf.where(rows >= 0)
                excluded.append(tf.stack([place[:, 0], tf.gather_nd(rows, place)], axis=1))
        pairs = tf.concat(excluded, axis=0)
        pairs = tf.boolean_mask(pairs, tf.gather(exclude, pairs[:, 0]))
        scores, rows = self._index(vectors, pairs)
        is_there = tf.math.is_finite(scores)
        if self._tower is None:
            is_there &= (users != self._unknown_user)[:, None]
        rows = tf.where(is_there, tf.cast(rows, tf.int64), PADDING)
        return {"item_id": self._item_ids.lookup(rows), "score": tf.where(is_there, scores, 0.0)}

    def _history(self, item_ids: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        """Rows of the known items of a history, newest first, and -1 behind them."""
        rows = tf.broadcast_to(self._items.lookup(item_ids), [batch, tf.shape(item_ids)[1]])
        order = tf.argsort(tf.cast(rows < 0, tf.int32), axis=1, stable=True)
        return tf.gather(rows, order, batch_dims=1)


def _is_empty(value: tf.Tensor) -> tf.Tensor:
    """Whether an input is one that is not given."""
    return tf.constant(True) if value.shape.rank == 1 else tf.shape(value)[1] == 0
