"""What a request may say of a page: the inputs of `serving_default`, and what stands for those that are left out."""

from typing import NamedTuple

import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.records import FEATURES, HISTORIES
from models.data.pages import PADDING
from models.features.spec import STATISTICS, NumberFeature
from models.ranker.ranker import Ranker

CLUSTER_ID = "cluster_id"
SEMANTIC_ID = "semantic_id"

NUMBER_TYPES: dict[str, tf.DType] = {
    f.name: tf.float32 if f.kind == "float" else tf.int64 for f in FEATURES if f.name in STATISTICS
}
"""Type of each number that a request may carry per candidate."""


class RequestInput(NamedTuple):
    """One input of `serving_default`.

    Attributes:
        dtype: its type.
        per: what has one value each: `page`, `candidate`, or a step of the history of that name; padded to the longest
            of a batch unless it is the page.
        missing: what pads it, and stands for a value that is not known.
        required: whether every request has to send it.
        description: what the values are.
        of_new_items: whether it is read for candidates alone that the item table does not have.
    """

    dtype: tf.DType
    per: str
    missing: str | int | float
    required: bool
    description: str
    of_new_items: bool = False

    @property
    def shape(self) -> list[None]:
        """Static shape in the signature."""
        return [None] if self.per == "page" else [None, None]

    def default(self) -> tf.Tensor:
        """What stands for the input where a request leaves it out, whatever the number of its pages.

        One row, so that a server which batches requests may join that of requests of one page.
        """
        return tf.constant([self.missing], self.dtype) if self.per == "page" else tf.zeros([1, 0], self.dtype)


def request_inputs(ranker: Ranker) -> dict[str, RequestInput]:
    """The inputs of `serving_default` for a ranker, by name.

    Raises:
        ArtifactError: an item feature has the name of another input.
    """
    features = ranker.config.features
    inputs = {
        "user_id": RequestInput(tf.string, "page", "", True, "user, as in the user table; others are unknown users"),
        "query": RequestInput(tf.string, "page", "", False, "what was searched for"),
        "timestamp": RequestInput(tf.int64, "page", PADDING, True, "moment of the page, epoch milliseconds"),
        "item_id": RequestInput(tf.string, "candidate", "", True, "candidates, as in the item table or new"),
    }
    for name in features.candidate or {}:
        kind, _, days = name.rpartition("_")
        text = f"{kind} of the item over the {days.removesuffix('d')} days before the page's, as in page records"
        inputs[name] = RequestInput(NUMBER_TYPES[name], "candidate", PADDING, False, text)
    for name, length in HISTORIES.items():
        read = min(length, getattr(ranker.config.lengths, name))
        newest = f"newest first, of which the ranker reads {read}"
        inputs[f"{name}_item_id"] = RequestInput(tf.string, name, "", False, f"items of the {name} history, {newest}")
        inputs[f"{name}_time"] = RequestInput(
            tf.int64, name, PADDING, False, f"when, epoch milliseconds; one per {name}_item_id"
        )
    of_new_items: dict[str, tuple[tf.DType, str | int | float, str]] = {}
    for name, feature in (features.item or {}).items():
        if isinstance(feature, NumberFeature):
            of_new_items[name] = tf.float32, float("nan"), f"number, {feature.transform}"
        elif feature.type != "id":
            of_new_items[name] = tf.string, "", feature.type
    if ranker.sizes.clusters:
        name, text = picture_id_input(ranker), f"cluster of the picture, 0 to {ranker.sizes.picture_ids - 1}"
        if name in of_new_items:
            raise ArtifactError(f"the item feature {name} has the name of the input for IDs of pictures")
        if name == SEMANTIC_ID:
            text = (
                f"semantic ID of the picture, 0 to {ranker.sizes.picture_ids - 1}: its clusters at the "
                f"{ranker.sizes.levels} levels are the digits to the base of {ranker.sizes.clusters}"
            )
        of_new_items[name] = tf.int64, PADDING, text
    for name, (dtype, missing, description) in of_new_items.items():
        if name in inputs:
            raise ArtifactError(f"the item feature {name} has the name of another input of a request")
        inputs[name] = RequestInput(dtype, "candidate", missing, False, description, of_new_items=True)
    return inputs


def picture_id_input(ranker: Ranker) -> str:
    """Name of the input for the ID of a new item's picture, of a ranker that has such IDs."""
    return SEMANTIC_ID if ranker.sizes.levels > 1 else CLUSTER_ID
