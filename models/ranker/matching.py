"""How candidates compare with the steps of a history: each pair, and each history as a whole."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from models.features.new_items import NewItems
from models.features.spec import TableFeature
from models.layers import matches
from models.ranker.item_table import ItemValues
from models.ranker.pictures.pictures import Pictures


class ComparedItems(NamedTuple):
    """What candidates and history steps are compared by.

    Attributes:
        ids: int32, of one shape: their rows and the values of their columns, 0 = unknown.
        vectors: `PictureValues.vectors`, that shape and `(dim,)` each.
    """

    ids: list[tf.Tensor]
    vectors: list[tf.Tensor]

    def at(self, positions: tf.Tensor) -> "ComparedItems":
        """Those of the items at these positions of a list."""
        return ComparedItems(*([tf.gather(values, positions) for values in each] for each in self))


class ItemMatcher:
    """Compares candidates with history steps: by item, category and so on, and by pictures.

    Args:
        features: the spec of the item features; those with `match` are compared.
        pictures: the picture features.
        items: number of known item rows.
        recency: whether histories say how long ago the newest matching step was.

    Attributes:
        pair_features: int. Number of comparisons of a pair.
        pooled_dim: int. Length of what is said of a whole history.
    """

    def __init__(
        self, features: Mapping[str, TableFeature], pictures: Pictures, items: int, recency: bool = False
    ) -> None:
        self._pictures = pictures
        self._items = items
        self._recency = recency
        self._columns = [name for name, f in features.items() if f.type in ("category", "hash") and f.match]
        self._matches_items = any(feature.type == "id" and feature.match for feature in features.values())
        id_count = self._matches_items + len(self._columns) + pictures.id_count
        self.pair_features = id_count + pictures.pair_features
        self.pooled_dim = (4 if recency else 2) * id_count + pictures.pooled_dim

    def compared(self, rows: tf.Tensor, values: ItemValues, new_items: NewItems | None = None) -> ComparedItems:
        """What items are compared by.

        Args:
            rows: of the items, `(n,)`.
            values: what is known of them.
            new_items: what rows beyond the unknown one refer to.
        """
        ids = [*(values.features[name] for name in self._columns), *values.pictures.ids]
        if self._matches_items:
            is_known = rows < self._items if new_items is None else rows != self._items
            ids.insert(0, tf.cast(tf.where(is_known, rows + 1, 0), tf.int32))
        return ComparedItems(ids, [*values.pictures.vectors])

    def match(
        self, candidates: ComparedItems, steps: ComparedItems, mask: tf.Tensor, age: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor | None]:
        """Compares the candidates of pages with the steps of their history.

        Args:
            candidates: `(batch, candidates)` of them.
            steps: `(batch, steps)` of them.
            mask: bool `(batch, steps)`, false at padding.
            age: milliseconds of each step before the page, `(batch, steps)`.

        Returns:
            Each pair, `pair_features` tensors `(batch, candidates, steps)`; the history as a whole, tensors
            `(batch, candidates, any)` whose last sizes add up to `pooled_dim`; and `PictureComparison.similarity`.
        """
        pairs = [
            matches.same_id(candidate_ids, step_ids, mask & (step_ids != 0))
            for candidate_ids, step_ids in zip(candidates.ids, steps.ids, strict=True)
        ]
        pooled = []
        if pairs:
            counts = tf.stack([tf.reduce_sum(match, axis=-1) for match in pairs], axis=-1)
            lengths = tf.reduce_sum(tf.cast(mask, tf.float32), axis=1)[:, None, None]
            # A share is small where it says most, in long histories: the numbers belong beside the shares.
            pooled = [tf.math.divide_no_nan(counts, lengths), tf.math.log1p(counts)]
            if self._recency:
                newest = [number for match in pairs for number in matches.newest_match(match, age)]
                pooled.append(tf.stack(newest, axis=-1))
        of_pictures = self._pictures.compare(candidates.vectors, steps.vectors, mask)
        return pairs + of_pictures.pairs, pooled + of_pictures.pooled, of_pictures.similarity
