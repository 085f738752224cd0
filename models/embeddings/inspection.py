"""Embeddings of a dataset's items side by side: neighbours, what they know of labels, and a page to look at."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_pipelines.format.errors import ArtifactError, InputError, about
from beam_pipelines.format.location import Location
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.shown_pictures import LABEL_PREFIX
from models.embeddings.embeddings import Embeddings
from models.embeddings.label_consistency import label_codes
from models.embeddings.label_report import ReportTable, label_report
from models.embeddings.neighbours import Metric, Nearest, Neighbours, largest_k
from models.embeddings.neighbours_html import render
from models.embeddings.page_contents import PageContents, item_texts

_SHOWN_LABELS = 2  # that pictures are marked and maps are coloured with
_SHOWN_SEEDS = 10


class Inspection:
    """One or two embeddings of the items of a dataset.

    Args:
        data: the dataset.
        embeddings: of its items.
        compare: other embeddings of its items, shown beside.
        labels: columns of the item table to measure by; `None` for `category` and every `label_*` with a value.
        metric: distance of embeddings, `euclidean` or `cosine`.
        seed: of everything that is drawn.

    Attributes:
        dataset: the dataset.
        names: what the embeddings are called in what is made of them.
        labels: names of the labels to their values by item row, empty where an item has none.

    Raises:
        InputError: a label is not in the item table or has no value, or both embeddings are the same directory.
        ArtifactError: the embeddings are not of this dataset, or a vector is not finite, or zero with `cosine`.

    Example:
        >>> inspection = Inspection("artifacts/dataset", "artifacts/embeddings", compare="artifacts/whitened")
        >>> inspection.report(k=10)["labels"]["category"]["consistency"]["whitened"]["mean"]
        0.52
    """

    def __init__(
        self,
        data: Dataset | Location | str,
        embeddings: Embeddings | Location | str,
        compare: Embeddings | Location | str | None = None,
        *,
        labels: Sequence[str] | None = None,
        metric: Metric = "euclidean",
        seed: int = 0,
    ) -> None:
        self.dataset = data if isinstance(data, Dataset) else Dataset(data)
        self._items = self.dataset.items()
        self.labels = self._find_labels(labels)
        given = {"embeddings": self._open("embeddings", embeddings)}
        if compare is not None:
            given["compare"] = self._open("compare", compare)
            if given["compare"].path == given["embeddings"].path:
                raise InputError(
                    f"`compare` must be other embeddings than `embeddings`. Received: {given['compare'].path}"
                )
        short = {opened.path.name for opened in given.values()}
        self._has_image = given["embeddings"].has_image
        self._vectors: dict[str, np.ndarray] = {}
        self._indexes: dict[str, Neighbours] = {}
        for argument, opened in given.items():
            name = opened.path.name if len(short) == len(given) else str(opened.path)
            self._vectors[name] = opened.vectors
            try:
                self._indexes[name] = Neighbours(opened.vectors, self._has_image, metric)
            except ValueError as error:
                raise ArtifactError(f"`{argument}` {name}: {error}") from error
        self.names = list(self._vectors)
        self._metric = metric
        self._seed = seed

    def rows(self, items: Sequence[str]) -> np.ndarray:
        """The rows of items.

        Args:
            items: their IDs.

        Raises:
            InputError: an item is not in the table or has no picture.
        """
        row_of_item = {item_id: row for row, item_id in enumerate(self._items["item_id"].to_pylist())} if items else {}
        for item_id in items:
            if item_id not in row_of_item:
                raise InputError(f"`items` must be an ID of the item table. Received: {item_id}")
            if not self._has_image[row_of_item[item_id]]:
                raise InputError(f"`items` must have a picture. Received: {item_id}")
        return np.array([row_of_item[item_id] for item_id in items], np.int64)

    def neighbours(self, items: Sequence[str], k: int = 10) -> dict[str, Nearest]:
        """The nearest neighbours of items, by the name of the embeddings.

        Args:
            items: IDs of items with a picture.
            k: neighbours of each.

        Raises:
            InputError: an item is not in the table or has no picture, or there are fewer than `k` others.
        """
        self.check_k(k)
        rows = self.rows(items)
        return {name: index.search(rows, k) for name, index in self._indexes.items()}

    def neighbour_tables(self, items: Sequence[str], k: int = 10) -> list[ReportTable]:
        """`neighbours` for people: a table by embeddings and item."""
        columns = {column: item_texts(self._items, column) for column in ("item_id", "category", "title")}
        tables = []
        for name, nearest in self.neighbours(items, k).items():
            for seed, rows, distances in zip(*nearest, strict=True):
                cells = [["", "item ID", "category", "title", f"{self._metric} distance"]]
                for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), start=1):
                    cells.append([str(rank), *(values[row] for values in columns.values()), f"{distance:.4f}"])
                title = "  ".join(filter(None, (values[seed] for values in columns.values())))
                tables.append(ReportTable(f"{name}: {title}", cells))
        return tables

    def report(self, *, k: int = 10, queries: int = 20_000) -> dict[str, Any]:
        """What the embeddings know of labels that took no part in their training; see `label_report`.

        Args:
            k: neighbours of each item.
            queries: items that neighbours are looked up of, at most.

        Returns:
            The report, ready for JSON; `report_tables` shows it to people.

        Raises:
            InputError: no item has a label, there are fewer than `k` other items, or `queries` is not positive.
        """
        self.check_k(k)
        if queries < 1:
            raise InputError(f"`queries` must be at least 1. Received: {queries}")
        if not self.labels:
            raise InputError(
                f"`data`: no item of {self.dataset.path} has a category or a {LABEL_PREFIX}* to report on; pass `items`"
            )
        measured = label_report(
            self._indexes,
            self._vectors,
            self._has_image,
            {name: label_codes(values) for name, values in self.labels.items()},
            label_codes(item_texts(self._items, "title")),
            k=k,
            queries=queries,
            seed=self._seed,
        )
        manifest = self.dataset.manifest
        return {"notice": manifest.notice, "dataset_digest": manifest.digest(), "seed": self._seed, **measured}

    def page(
        self,
        *,
        items: Sequence[str] = (),
        k: int = 10,
        clusters: Clusters | None = None,
        tables: Sequence[ReportTable] = (),
    ) -> str:
        """An HTML page of items with their neighbours, of clusters and of t-SNE maps.

        Args:
            items: IDs of items with a picture; some are drawn if there are none.
            k: neighbours of each.
            clusters: shown if they are given.
            tables: of the report, shown first.

        Raises:
            InputError: see `neighbours`.
            ArtifactError: the clusters are not of this dataset.
        """
        self.check_k(k)
        if clusters is not None:
            with about("clusters"):
                clusters.check_matches(self.dataset)
        contents = PageContents(self.dataset, dict(list(self.labels.items())[:_SHOWN_LABELS]), self._seed)
        seeds = self.rows(items) if items else contents.draw(np.flatnonzero(self._has_image), _SHOWN_SEEDS)
        return render(
            self.dataset.path.resolve().name,
            self.dataset.manifest.notice,
            list(contents.labels),
            tables,
            contents.seeds(self._indexes, seeds, k),
            [] if clusters is None else contents.clusters(clusters.ids),
            contents.maps(self._vectors, self._has_image, self._metric),
        )

    def check_k(self, k: int) -> None:
        """Refuses a number of neighbours that there are not.

        Raises:
            InputError: `k` is not positive, or too large.
        """
        pictures = int(self._has_image.sum())
        if k < 1:
            raise InputError(f"`k` must be at least 1. Received: {k}")
        if k > largest_k(pictures):
            raise InputError(
                f"`k` must be at most {largest_k(pictures)} for {pictures} items with a picture. Received: {k}"
            )

    def _open(self, argument: str, embeddings: Embeddings | Location | str) -> Embeddings:
        with about(argument):
            if not isinstance(embeddings, Embeddings):
                embeddings = Embeddings.load(embeddings)
            embeddings.check_matches(self.dataset)
        return embeddings

    def _find_labels(self, names: Sequence[str] | None) -> dict[str, list[str]]:
        """The values of labels by item row; of all labels, only those with a value."""
        columns = ["category", *(name for name in self._items.column_names if name.startswith(LABEL_PREFIX))]
        for name in names or ():
            if name not in columns:
                raise InputError(f"`labels` must be among {', '.join(columns)}. Received: {name}")
        values = {name: item_texts(self._items, name) for name in (columns if names is None else names)}
        for name in names or ():
            if not any(values[name]):
                raise InputError(f"`labels`: no item has a value. Received: {name}")
        return {name: texts for name, texts in values.items() if any(texts)}
