"""The serving graph: raw strings and numbers, or page records, to scores."""

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.records import FEATURES, HISTORIES
from export.version.inputs import picture_id_input, request_inputs
from models.data.pages import PADDING, parse_pages
from models.features.new_items import NEW_ITEMS, NewItemEncoder, NewItems
from models.ranker.ranker import Ranker
from models.ranker.run import RowIds

_FINGERPRINTS = 2**62
_MOST_PAIRS = 2**26
"""Pairs of a candidate and a history step that a request may have: attention makes tensors of 256 MB for that many."""
_LEAST_STEPS = 16  # what a candidate costs without any history


class RankerModule(tf.Module):
    """A ranker with everything between a request and its scores: the lookup of IDs, padding, parsing.

    Standard TensorFlow operations only; the tables of IDs are static hash tables read from asset files, so their size
    is not limited by that of a graph.

    Signatures, one row per page:

    - `serving_default`: the inputs that `request_inputs` lists: `user_id`, `query` and `timestamp`, `(batch,)`;
      `item_id` and what is said of candidates, `(batch, candidates)`; and for each history, newest first, `*_item_id`
      and `*_time`, `(batch, steps)`. Shorter rows are padded. All but `user_id`, `timestamp` and `item_id` have a
      default in the signature, and an input without columns, `(batch, 0)` or `(1, 0)`, is one that is not given.
      Unknown users are scored as such. Histories longer than those that the ranker was trained with are cut to the
      newest steps.
    - `tf_example`: `examples (batch,)`, serialized page records; their labels are ignored and need not be there. Rows
      beyond the ranker's tables are unknown items and users.

    Both give `ctr`, and `ctcvr`, `long_visit` and `dwell` if the ranker has learned them: float32
    `(batch, candidates)`, 0 at padded candidates.

    A candidate that the item table does not have is a new item. It is scored as an item of the table that training has
    not seen, with the features that the request gives for it; the steps of its page's histories with its ID are this
    item, too. Of items that the table has, the table's features count, as in training, and those of the request do not.

    Args:
        ranker: the trained ranker.
        ids: the string IDs by row.
        scratch: a directory for the asset files; they are needed until the module is saved.

    Raises:
        ArtifactError: the ranker has no vocabularies, or an ID or the name of a feature cannot be expressed.
    """

    def __init__(self, ranker: Ranker, ids: RowIds, scratch: Path) -> None:
        super().__init__()
        if ranker.vocabulary is None:
            raise ArtifactError("the ranker has no vocabularies; `Ranker.adapt` makes one that has")
        # Held as a plain callable, and its variables on their own: saving a Keras model as such would drag along what
        # belongs to training.
        self._score = lambda page: ranker(page)
        self._request_inputs = request_inputs(ranker)
        self._numbers = list(ranker.config.features.candidate or {})
        self._picture_id = picture_id_input(ranker) if ranker.sizes.clusters else None
        self._lengths = ranker.config.lengths
        self._variables = [variable.value for variable in ranker.variables]
        self._unknown_item = len(ids.items)
        self._items = id_table(ids.items, scratch / "item_ids.txt", unknown=self._unknown_item)
        self._users = id_table(ids.users, scratch / "user_ids.txt", unknown=PADDING)
        self._new_item_encoder = NewItemEncoder(
            ranker.config.features.item or {},
            ranker.vocabulary,
            token_buckets=ranker.config.token_buckets,
            picture_ids=ranker.sizes.picture_ids,
            semantic=ranker.sizes.levels > 1,
        )

    def save(self, path: Path) -> None:
        """Writes the SavedModel."""
        inputs = self._request_inputs
        # Nothing in it is Python's control flow over tensors, so AutoGraph would only take its time.
        serving_default = tf.function(self._score_request, autograph=False).get_concrete_function(
            **{name: tf.TensorSpec(each.shape, each.dtype) for name, each in inputs.items()}
        )
        tf_example = tf.function(self._score_records, autograph=False).get_concrete_function(
            examples=tf.TensorSpec([None], tf.string, "examples")
        )
        tf.saved_model.save(self, str(path), signatures={"serving_default": serving_default, "tf_example": tf_example})
        defaults = {name: each.default() for name, each in inputs.items() if not each.required}
        add_defaults(path, "serving_default", defaults)

    def _score_request(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        pages, candidates = tf.size(inputs["user_id"]), tf.shape(inputs["item_id"])[1]
        steps = [tf.minimum(tf.shape(inputs[f"{n}_item_id"])[1], getattr(self._lengths, n)) for n in HISTORIES]
        fitting, complete = self._check_shapes(inputs, pages)
        # Before an operation complains less clearly.
        with tf.control_dependencies([fitting, _size_check(pages, candidates, tf.reduce_max(steps))]):
            given = {name: tf.identity(value) for name, value in inputs.items()}
        inputs = tf.cond(complete, lambda: given, lambda: self._fill_in(given, pages))
        item, new_items, is_new = self._candidates(inputs)
        page = {
            "user": self._users.lookup(inputs["user_id"]),
            "query": inputs["query"],
            "timestamp": inputs["timestamp"],
            "item": item,
            **{name: inputs[name] for name in self._numbers},
            NEW_ITEMS: new_items,
        }
        for name in HISTORIES:
            steps = inputs[f"{name}_item_id"][:, : getattr(self._lengths, name)]
            times = inputs[f"{name}_time"][:, : getattr(self._lengths, name)]
            rows = self._rows(steps)
            rows = self._refer_to_candidates(steps, rows, inputs["item_id"], item, is_new)
            page[f"{name}_item"] = rows
            page[f"{name}_time"] = tf.where(rows == PADDING, rows, times)
        return self._score(page)

    def _check_shapes(self, inputs: dict[str, tf.Tensor], pages: tf.Tensor) -> tuple[tf.Operation | None, tf.Tensor]:
        """Refuses inputs that do not belong together; those that are not given may have one row.

        A check of all inputs at once: hundreds of small operations would take a noticeable part of the time of a page.

        Returns:
            The check, and whether all inputs are given, for all pages.
        """
        of_pages = [name for name, each in self._request_inputs.items() if each.per == "page"]
        others = [name for name in inputs if name not in of_pages]
        page_rows = tf.stack([tf.size(inputs[name]) for name in of_pages])
        left_out = [
            tf.constant(False) if each.required else tf.reduce_all(inputs[name] == each.missing)
            for name, each in ((name, self._request_inputs[name]) for name in of_pages)
        ]
        rows, columns = tf.unstack(tf.stack([tf.shape(inputs[name]) for name in others]), axis=1)
        per = [self._request_inputs[name].per for name in others]
        leaders = ["item_id" if each == "candidate" else f"{each}_item_id" for each in per]
        expected_columns = tf.gather(columns, [others.index(leader) for leader in leaders])
        of_candidates = tf.constant([each == "candidate" for each in per])

        all_rows = tf.concat([page_rows, rows], axis=0)
        not_given = tf.concat([tf.stack(left_out), columns == 0], axis=0)
        fits = tf.concat(
            [
                (all_rows == pages) | (not_given & (all_rows == 1)),
                (columns == expected_columns) | (of_candidates & (columns == 0)),
            ],
            axis=0,
        )
        messages = [f"{name} must have one row per user_id" for name in (*of_pages, *others)]
        messages += [f"{name} must have one value per {leader}" for name, leader in zip(others, leaders, strict=True)]
        first = tf.gather(tf.constant(messages), tf.argmin(tf.cast(fits, tf.int32)))
        complete = tf.reduce_all(all_rows == pages) & tf.reduce_all(columns == expected_columns)
        return tf.debugging.Assert(tf.reduce_all(fits), [first]), complete

    def _fill_in(self, inputs: dict[str, tf.Tensor], pages: tf.Tensor) -> dict[str, tf.Tensor]:
        """The inputs in their full shapes, with what is missing where they are not given."""
        full, candidates = {}, tf.shape(inputs["item_id"])[1]
        for name, each in self._request_inputs.items():
            value, shape = inputs[name], [pages]
            if each.per != "page":
                shape = [pages, candidates if each.per == "candidate" else tf.shape(value)[1]]
                padding = tf.fill(
                    [tf.shape(value)[0], shape[1] - tf.shape(value)[1]], tf.constant(each.missing, each.dtype)
                )
                value = tf.concat([value, padding], axis=1)
            full[name] = tf.broadcast_to(value, shape)
        return full

    def _candidates(self, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, NewItems, tf.Tensor]:
        """Item rows of the candidates, the new items that the last of them refer to, and which these are."""
        rows = self._rows(inputs["item_id"])
        is_new = rows == self._unknown_item
        position = tf.where(is_new)
        number = tf.reshape(tf.cumsum(tf.cast(tf.reshape(is_new, [-1]), tf.int64)), tf.shape(rows))
        raw = {
            name: tf.gather_nd(inputs[name], position)
            for name, each in self._request_inputs.items()
            if each.of_new_items
        }
        picture_ids = raw.pop(self._picture_id) if self._picture_id else None
        new_items = self._new_item_encoder(tf.shape(position)[0], raw, picture_ids)
        return tf.where(is_new, rows + number, rows), new_items, is_new

    def _refer_to_candidates(
        self, steps: tf.Tensor, rows: tf.Tensor, candidates: tf.Tensor, candidate_rows: tf.Tensor, is_new: tf.Tensor
    ) -> tf.Tensor:
        """The rows of steps, with those of unknown items that are new candidates of the page referring to these."""

        def referring() -> tf.Tensor:
            step, candidate = (tf.strings.to_hash_bucket_fast(each, _FINGERPRINTS) for each in (steps, candidates))
            same = (step[:, :, None] == candidate[:, None, :]) & is_new[:, None, :]
            first = tf.gather(candidate_rows, tf.argmax(tf.cast(same, tf.int32), axis=2), batch_dims=1)
            return tf.where(tf.reduce_any(same, axis=2), first, rows)

        return tf.cond(tf.reduce_any(is_new), referring, lambda: rows)

    def _score_records(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([_size_check(tf.size(examples), self._lengths.candidates, 0)]):
            examples = tf.identity(examples)
        parsed = parse_pages(examples, self._lengths, to_longest=HISTORIES)
        page = {f.name: parsed[f.name] for f in FEATURES if not f.is_label}
        pages, candidates = tf.unstack(tf.shape(page["item"]))
        steps = tf.reduce_max([tf.shape(page[f"{name}_item"])[1] for name in HISTORIES])
        with tf.control_dependencies([_size_check(pages, candidates, steps)]):
            page["item"] = tf.identity(page["item"])  # of what no pair is without
        return self._score(page)

    def _rows(self, item_ids: tf.Tensor) -> tf.Tensor:
        return tf.where(item_ids == "", tf.constant(PADDING, tf.int64), self._items.lookup(item_ids))


def _size_check(pages: tf.Tensor, candidates: tf.Tensor | int, steps: tf.Tensor | int) -> tf.Operation | None:
    """Refuses pages that are so many or so long that to score them could take all memory."""
    pairs = tf.reduce_prod([tf.cast(n, tf.int64) for n in (pages, candidates, tf.maximum(steps, _LEAST_STEPS))])
    return tf.debugging.Assert(
        pairs <= _MOST_PAIRS, [f"a request may have {_MOST_PAIRS} pairs of a candidate and a history step, not", pairs]
    )


def id_table(ids: Sequence[str], file: Path, unknown: int) -> tf.lookup.StaticHashTable:
    """A table from string IDs to their rows, read from an asset file, so that its size is not limited by a graph's.

    Args:
        ids: by row.
        file: where to write the asset file; it is needed until the module is saved.
        unknown: what others are looked up as.

    Raises:
        ArtifactError: an ID holds a line break.
    """
    for value in ids:
        if "\n" in value or "\r" in value:
            raise ArtifactError(f"the ID {value!r} holds a line break, which an asset file cannot express")
    file.write_bytes("".join(f"{value}\n" for value in ids).encode())
    initializer = tf.lookup.TextFileInitializer(
        str(file), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    return tf.lookup.StaticHashTable(initializer, unknown)


def add_defaults(path: Path, signature: str, defaults: dict[str, tf.Tensor]) -> None:
    """Gives inputs of a signature a default, which TensorFlow Serving takes where a gRPC request leaves one out.

    Args:
        path: the SavedModel.
        signature: its name.
        defaults: by input.
    """
    file = path / tf.saved_model.SAVED_MODEL_FILENAME_PB
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    definition = saved_model.meta_graphs[0].signature_def[signature]
    for name, value in defaults.items():
        definition.defaults[name].CopyFrom(tf.make_tensor_proto(value))
    file.write_bytes(saved_model.SerializeToString(deterministic=True))
    write_fingerprint(str(path))  # it is of this file, too
