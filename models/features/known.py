"""What an earlier ranker knows of features, which a ranker that goes on from it keeps."""

from typing import NamedTuple

import numpy as np

from models.features.number_scale import NumberScale
from models.features.spec import IdFeature, TableFeature
from models.features.vocabulary import FeatureVocabulary


class KnownFeatures(NamedTuple):
    """The vocabularies and scales of an earlier ranker, seen from the tables of another dataset.

    A ranker that learns on one day alone would otherwise forget whoever did not come on that day, and would read
    numbers by another scale than the weights that it begins with.

    Attributes:
        spec: its features: `item` and `user`, to column, to feature.
        vocabulary: its vocabularies and scales.
        ids: `item` and `user`, to the ID column if it is embedded, to which rows of the dataset have an embedding:
            bool `(rows,)`.
        similarity: names of `AdaptedFeatures.pictures` to its scales of similarity, of the pictures that both have.
    """

    spec: dict[str, dict[str, TableFeature]]
    vocabulary: FeatureVocabulary
    ids: dict[str, dict[str, np.ndarray]]
    similarity: dict[str, np.ndarray]

    def rows(self, section: str, name: str, feature: TableFeature) -> np.ndarray | None:
        """Which rows have an embedding of their ID there; `None` if that is not known."""
        return self.ids[section].get(name) if isinstance(feature, IdFeature) else None

    def values(self, section: str, name: str, feature: TableFeature) -> tuple[str, ...]:
        """The vocabulary of a category there; empty if there is none."""
        found = getattr(self.vocabulary, section).get(name)
        return found if self._is_same(section, name, feature) and isinstance(found, tuple) else ()

    def scale(self, section: str, name: str, feature: TableFeature) -> NumberScale | None:
        """The scale of a number there; `None` if there is none."""
        found = getattr(self.vocabulary, section).get(name)
        return found if self._is_same(section, name, feature) and isinstance(found, NumberScale) else None

    def _is_same(self, section: str, name: str, feature: TableFeature) -> bool:
        return self.spec[section].get(name) == feature
