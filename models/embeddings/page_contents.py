"""Chooses and looks up what the page of `models.neighbours` shows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from models.data.dataset import Dataset
from models.data.picture_store import PictureStore
from models.data.shown_pictures import ShownPictures, inline_picture
from models.embeddings.label_consistency import label_codes, label_consistency, label_shares
from models.embeddings.neighbours import Metric, Neighbours
from models.embeddings.neighbours_html import ShownCluster, ShownItem, ShownMap, ShownSeed
from models.embeddings.tsne_map import tsne_map, tsne_points
from models.embeddings.vectors import l2_normalize

_CLUSTERS = 14
_MEMBERS = 24
_MAP_ITEMS = 2000
_MAP_NEIGHBOURS = 10
_SMALLEST_MAP = 20  # items
_THUMBNAIL = 128  # pixels


def item_texts(items: pa.Table, name: str) -> list[str]:
    """A column of the item table, empty where it has no value."""
    return ["" if value is None else str(value) for value in items[name].to_pylist()]


class PageContents:
    """Chooses and looks up what the page shows.

    Args:
        dataset: the dataset.
        labels: values by item row of the labels that are shown.
        seed: of what is drawn.
    """

    def __init__(self, dataset: Dataset, labels: Mapping[str, Sequence[str]], seed: int) -> None:
        self.labels = labels
        self._picture_of_item = PictureStore(dataset, (_THUMBNAIL, _THUMBNAIL)).picture_of_item
        self._pictures = ShownPictures(dataset, self._picture_of_item)
        items = dataset.items()
        self._item_ids, self._titles = (item_texts(items, name) for name in ("item_id", "title"))
        self._rng = np.random.default_rng(seed)
        self._seed = seed

    def draw(self, rows: np.ndarray, count: int) -> np.ndarray:
        """At most `count` of the rows, in order."""
        return np.sort(self._rng.choice(rows, min(count, len(rows)), replace=False))

    def seeds(self, indexes: Mapping[str, Neighbours], rows: np.ndarray, k: int) -> list[ShownSeed]:
        """Items with their neighbours under each embedding."""
        nearest = {name: index.search(rows, k) for name, index in indexes.items()}
        return [
            ShownSeed(
                self._item(row),
                {
                    name: [(self._item(r), float(d)) for r, d in zip(found.rows[i], found.distances[i], strict=True)]
                    for name, found in nearest.items()
                },
            )
            for i, row in enumerate(rows)
        ]

    def clusters(self, cluster_ids: np.ndarray) -> list[ShownCluster]:
        """Clusters of all sizes, from the largest to the smallest."""
        sizes = np.bincount(cluster_ids[cluster_ids >= 0])
        by_size = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
        ranks = np.unique(np.linspace(0, len(by_size) - 1, min(_CLUSTERS, len(by_size))).round().astype(int))
        return [self._cluster(int(c), np.flatnonzero(cluster_ids == c)) for c in by_size[ranks]]

    def maps(self, embeddings: Mapping[str, np.ndarray], has_image: np.ndarray, metric: Metric) -> list[ShownMap]:
        """A map by embedding and label; none of items too few for a map."""
        rows = self.draw(np.flatnonzero(has_image), _MAP_ITEMS)
        if len(rows) < _SMALLEST_MAP:
            return []
        shown = []
        for name, vectors in embeddings.items():
            sample = np.asarray(vectors[rows], np.float32)
            points = tsne_points(l2_normalize(sample) if metric == "cosine" else sample, self._seed)
            nearest = Neighbours(points, np.ones(len(rows), bool)).search(np.arange(len(rows)), _MAP_NEIGHBOURS)
            for label, values in self.labels.items():
                shown_values = [values[row] for row in rows]
                codes = label_codes(shown_values)
                agreement = label_consistency(label_shares(codes, codes[nearest.rows]))
                note = f"{agreement.mean:.1%} of the nearest {_MAP_NEIGHBOURS} carry the item's label"
                shown.append(ShownMap(f"{name}, by {label}", note, tsne_map(points, shown_values)))
        return shown

    def _cluster(self, cluster_id: int, rows: np.ndarray) -> ShownCluster:
        purity = []
        for values in self.labels.values():
            found, counts = np.unique([values[row] for row in rows if values[row]], return_counts=True)
            largest = int(np.argmax(counts)) if len(counts) else -1
            purity.append((str(found[largest]), counts[largest] / counts.sum()) if len(counts) else ("", 0.0))
        members = [self._item(row) for row in self.draw(rows, _MEMBERS)]
        return ShownCluster(cluster_id, len(rows), purity, members)

    def _item(self, row: int) -> ShownItem:
        (picture,) = self._pictures.read([self._picture_of_item[row]], _THUMBNAIL)
        values = tuple(texts[row] for texts in self.labels.values())
        item_id, title = self._item_ids[row], self._titles[row]
        caption = " · ".join(filter(None, (title, *values, item_id)))
        return ShownItem(item_id, title or item_id, values, inline_picture(picture, caption))
