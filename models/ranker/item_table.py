"""What is known of items: their features and their pictures."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from models.features.new_items import NewItems
from models.features.tables import FeatureTable
from models.ranker.pictures.pictures import Pictures, PictureValues


class ItemValues(NamedTuple):
    """What is known of n items.

    Attributes:
        features: column to its values, see `FeatureTable`.
        pictures: what their pictures say.
    """

    features: dict[str, tf.Tensor]
    pictures: PictureValues


@keras.saving.register_keras_serializable(package="courier")
class ItemTable(keras.layers.Layer):
    """Turns item rows into what is known of the items, before anything is learned of them.

    Row `items`, one beyond the dataset's table, is an item that nothing is known of.

    Args:
        features: a `FeatureTable` of the item features.
        pictures: the picture features.

    Call arguments:
        rows: item rows, shape `(n,)`.
        new_items: what rows beyond the unknown one refer to. Pictures of new items are known by their cluster ID, or
            semantic ID, alone.

    Output: the `ItemValues`.
    """

    def __init__(self, features: FeatureTable, pictures: Pictures, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.pictures = pictures
        self.built = True

    def call(self, rows: tf.Tensor, new_items: NewItems | None = None) -> ItemValues:
        """Looks up; see the class."""
        new_features, new_picture_ids = (None, None) if new_items is None else new_items
        return ItemValues(self.features(rows, new=new_features), self.pictures(rows, new_picture_ids=new_picture_ids))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("features", "pictures")}
        return {**super().get_config(), **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ItemTable":
        """Makes the layer of a `get_config`."""
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("features", "pictures")}
        return cls(**{**config, **parts})
