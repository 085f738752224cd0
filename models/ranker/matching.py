"""How candidates compare with the steps of a history: each pair, and each history as a whole."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from models.features.new_items import NewItems
from models.features.spec import TableFeature
from models.layers import matches
from models.ranker.item_table import ItemValues
from models.ranker.pictures.picture_feature import PictureFeature

_LARGEST = 5


class ComparedItems(NamedTuple):
    """What candidates and history steps are compared by.

    Attributes:
        ids: int32, of one shape: their rows and the values of their columns, 0 = unknown.
        vectors: unit vectors or zeros, that shape and `(image_dim,)`; `None` unless pictures are compared.
    """

    ids: list[tf.Tensor]
    vectors: tf.Tensor | None

    def at(self, positions: tf.Tensor) -> "ComparedItems":
        """Those of the items at these positions of a list."""
        vectors = None if self.vectors is None else tf.gather(self.vectors, positions)
        return ComparedItems([tf.gather(ids, positions) for ids in self.ids], vectors)


class ItemMatcher:
    """Compares candidates with history steps: by item, category and so on, and by pictures.

    Args:
        features: the spec of the item features; those with `match` are compared.
        pictures: the picture feature.
        items: number of known item rows.
        recency: whether histories say how long ago the newest matching step was.

    Attributes:
        pair_features: int. Number of comparisons of a pair.
        pooled_dim: int. Length of what is said of a whole history.
    """

    def __init__(
        self, features: Mapping[str, TableFeature], pictures: PictureFeature, items: int, recency: bool = False
    ) -> None:
        self._pictures = pictures
        self._items = items
        self._recency = recency
        self._columns = [name for name, f in features.items() if f.type in ("category", "hash") and f.match]
        self._matches_items = any(feature.type == "id" and feature.match for feature in features.values())
        id_count = self._matches_items + len(self._columns) + pictures.compares_ids
        self.pair_features = id_count + pictures.compares_vectors
        self.pooled_dim = (4 if recency else 2) * id_count + 3 * pictures.compares_vectors

    def compared(self, rows: tf.Tensor, values: ItemValues, new_items: NewItems | None = None) -> ComparedItems:
        """What items are compared by.

        Args:
            rows: of the items, `(n,)`.
            values: what is known of them.
            new_items: what rows beyond the unknown one refer to.
        """
        ids = [values.features[name] for name in self._columns]
        if values.pictures.ids is not None:
            ids.append(values.pictures.ids)
        if self._matches_items:
            is_known = rows < self._items if new_items is None else rows != self._items
            ids.insert(0, tf.cast(tf.where(is_known, rows + 1, 0), tf.int32))
        return ComparedItems(ids, values.pictures.vectors)

    def match(
        self, candidates: ComparedItems, steps: ComparedItems, mask: tf.Tensor, age: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Compares the candidates of pages with the steps of their history.

        Args:
            candidates: `(batch, candidates)` of them.
            steps: `(batch, steps)` of them.
            mask: bool `(batch, steps)`, false at padding.
            age: milliseconds of each step before the page, `(batch, steps)`.

        Returns:
            Each pair, `pair_features` tensors `(batch, candidates, steps)`; and the history as a whole, tensors
            `(batch, candidates, any)` whose last sizes add up to `pooled_dim`.
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
        if candidates.vectors is not None:
            candidate_has, step_has = (tf.reduce_any(each.vectors != 0, axis=-1) for each in (candidates, steps))
            step_has &= mask
            both = candidate_has[:, :, None] & step_has[:, None, :]
            cosines = matches.cosine(candidates.vectors, steps.vectors)
            pairs.append(self._pictures.standardize(cosines, both))
            history = [matches.mean_of_largest(cosines, both, count) for count in (1, _LARGEST)]
            history.append(matches.mean_match(cosines, step_has))
            any_pair = tf.reduce_any(both, axis=-1)[..., None]
            pooled.append(self._pictures.standardize(tf.stack(history, axis=-1), any_pair))
        return pairs, pooled
