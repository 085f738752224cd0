"""What the viewer knows, as documents that its page puts into words and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import Location, is_remote
from beam_pipelines.format.page_reader import decode_page
from beam_pipelines.format.records import HISTORIES
from beam_pipelines.format.text_file import read_json
from export.version.base_path import RANKER_METADATA_FILE, published_versions
from export.version.stored_versions import stored_versions
from export.viewer.catalogue import Catalogue
from export.viewer.likeness import Likeness
from export.viewer.ranker_view import RankerView, StepWeights
from export.viewer.rankings import Rankings, choices
from export.viewer.stored_pages import PageNumber, StoredPages
from models.data.dataset import Dataset
from models.evaluation.slices import Slices, by_category, by_count, by_flag, by_item_age

_FOUND = 60
_USER_PAGES = 200
_NEIGHBOURS = 12
_MEMBERS = 24
_TOP_WHOLE, _TOP_RECENT, _TOP_COSINE = 6, 3, 3

Document = dict[str, Any]


class NotThere(LookupError):
    """There is no such page, user or item; the message says so."""


class Answers:
    """Answers about the pages, users and items of a dataset; several threads may ask at once.

    Args:
        dataset: the page dataset.
        rankings: what scores its pages.
        base_path: the directory of the versions, to choose from; `None` for none.
        labels: names of versions that the server has, to choose from.
        ranker: the ranker that is looked into; `None` for none.
        likeness: what the items' pictures have in common.
    """

    def __init__(
        self,
        dataset: Dataset,
        rankings: Rankings,
        *,
        base_path: Location | None = None,
        labels: Sequence[str] = (),
        ranker: RankerView | None = None,
        likeness: Likeness,
    ) -> None:
        self._dataset = dataset
        self._rankings = rankings
        self._base_path = base_path
        self._labels = labels
        self._ranker = ranker
        self._likeness = likeness
        self.catalogue = Catalogue(dataset)
        self.pages = StoredPages(dataset)
        self.pictures = dataset.manifest.digest()[:12]
        """Part of the pictures' addresses, so that a browser keeps none of another dataset."""

    def about(self) -> Document:
        """What there is to look at."""
        versions = self._versions()
        return {
            "dataset": str(self._dataset.path),
            "notice": self._dataset.manifest.notice,
            "splits": self.pages.lengths,
            "pictures": self.pictures,
            "choices": choices(list(versions), self._labels),
            "versions": versions,
            "ranker": None if self._ranker is None else self._ranker.metadata.image_feature,
            "vectors": self._likeness.vectors_are if self._likeness.has_vectors else None,
            "clusters": self._likeness.has_clusters,
        }

    def page(self, number: PageNumber) -> Document:
        """A page: user, moment, candidates, histories, and the items named there.

        Raises:
            NotThere: there is no such page.
        """
        page: Mapping[str, Any] = decode_page(self._record(number))
        columns = ("item", "position", "clicked", "converted", "dwell")
        moment = int(page["timestamp"][0])
        histories = {
            name: {
                "items": page[f"{name}_item"].tolist(),
                "ages": (moment - page[f"{name}_time"]).tolist(),
            }
            for name in HISTORIES
        }
        user = int(page["user"][0])
        rows = {int(row) for row in page["item"]}.union(*(history["items"] for history in histories.values()))
        return {
            **self.pages.summary(number),
            "pages": self.pages.lengths[number.split],
            "user": user,
            "user_id": self.catalogue.users["user_id"][user].as_py(),
            "query": page["query"][0].decode("utf-8", "replace"),
            "shown": [
                dict(zip(columns, values, strict=True))
                for values in zip(*(page[name].tolist() for name in columns), strict=True)
            ],
            "slices": self._slices(page),
            "histories": histories,
            "items": self.catalogue.cards(rows),
        }

    def scores(self, number: PageNumber, choice: str) -> Document:
        """The scores of a page by a version of the served ranker; see `Rankings.scores`.

        Raises:
            NotThere: there is no such page, or what is chosen is no version.
        """
        record = self._record(number)
        try:
            return self._rankings.scores(record, choice)
        except ValueError as error:
            raise NotThere(str(error)) from error

    def explanation(self, number: PageNumber) -> Document:
        """Why candidates get their scores.

        Returns:
            `parts`, those of an `Insight`, `None` without a ranker; `histories`: of each, how many of its steps the
            ranker reads, whether it says what `attends`, and for each candidate its most telling `steps` and `counts`
            of those that match it.

        Raises:
            NotThere: there is no such page.
        """
        record = self._record(number)
        page = decode_page(record)
        insight = None if self._ranker is None else self._ranker.look(record)
        attention = {} if insight is None else insight.attention
        nothing = StepWeights(None, None)
        return {
            "parts": None if insight is None else insight.parts,
            "histories": {name: self._matches(page, name, attention.get(name, nothing)) for name in HISTORIES},
        }

    def user(self, row: int) -> Document:
        """A user: what is known, and the pages.

        Raises:
            NotThere: there is no such user.
        """
        if not 0 <= row < self.catalogue.users.num_rows:
            raise NotThere(f"there is no user {row}")
        pages = self.pages.of_user(row)
        return {
            "user_id": self.catalogue.users["user_id"][row].as_py(),
            "details": self.catalogue.user_details(row),
            "count": len(pages),
            "pages": [self.pages.summary(page) for page in pages[:_USER_PAGES]],
        }

    def item(self, row: int) -> Document:
        """An item: what is known, how often it was shown and clicked, its cluster and its neighbours.

        Raises:
            NotThere: there is no such item.
        """
        if not 0 <= row < self.catalogue.items.num_rows:
            raise NotThere(f"there is no item {row}")
        cluster = self._likeness.cluster(row)
        neighbours = self._likeness.neighbours(row, _NEIGHBOURS)
        members = [member for member in (cluster.rows if cluster else []) if member != row][:_MEMBERS]
        return {
            "row": row,
            "details": self.catalogue.details(row),
            "counts": {
                split: {"shown": int(counts.shown[row]), "clicked": int(counts.clicked[row])}
                for split, counts in self.pages.counts.items()
            },
            "seen": None if self._ranker is None else bool(self._ranker.seen[row]),
            "cluster": None if cluster is None else {"id": cluster.cluster, "size": cluster.size, "items": members},
            "knows_clusters": self._likeness.has_clusters,
            "neighbours": [{"item": neighbour, "cosine": cosine} for neighbour, cosine in neighbours],
            "knows_neighbours": self._likeness.has_neighbours,
            "items": self.catalogue.cards([row, *members, *(neighbour for neighbour, _ in neighbours)]),
        }

    def find(self, kind: str, text: str) -> Document:
        """Looks for pages, users or items.

        Args:
            kind: `page`, `user` or `item`.
            text: the ID, or a part of it; of items also a part of the title.

        Returns:
            `found`, 60 at most, and whether there is `more`: of pages `summary`, of users and items `row` and `id`.

        Raises:
            NotThere: nothing can be looked for that way.
        """
        limit = _FOUND + 1
        found: list[Document]
        items: dict[int, dict[str, Any]] = {}
        match kind:
            case "page":
                found = [self.pages.summary(page) for page, _ in self.pages.find(text, limit)]
            case "user":
                rows = self.catalogue.find_users(text, limit)
                found = [{"row": row, "id": self.catalogue.users["user_id"][row].as_py()} for row in rows]
            case "item":
                items = self.catalogue.cards(self.catalogue.find_items(text, limit))
                found = [{"row": row, "id": card["id"]} for row, card in items.items()]
            case _:
                raise NotThere(f"there are no {kind}s")
        return {"found": found[:_FOUND], "more": len(found) > _FOUND, "items": items}

    def _record(self, number: PageNumber) -> bytes:
        try:
            return self.pages.record(number)
        except LookupError as error:
            raise NotThere(f"there is no page {number.number} in {number.split}") from error

    def _versions(self) -> dict[int, Document]:
        """The published versions, each with what is known of its ranker."""
        if self._base_path is None:
            return {}
        try:
            if is_remote(self._base_path):
                return {version: {} for version in stored_versions(self._base_path)}
            return {n: self._version(path) for n, path in published_versions(Path(self._base_path)).items()}
        except (InputError, OSError):  # a store that fails takes the choice, not the viewer
            return {}

    def _version(self, path: Path) -> Document:
        try:
            metadata = read_json(path / RANKER_METADATA_FILE)
        except (InputError, OSError):
            return {}
        is_model = self._ranker is not None and metadata == self._ranker.metadata.model_dump(mode="json")
        return {"image_feature": metadata.get("image_feature"), "is_model": is_model}

    def _slices(self, page: Mapping[str, Any]) -> list[list[str]]:
        """The slices of reports that each candidate belongs to."""
        rows = np.asarray(page["item"])
        items = self.catalogue.items.take(rows)
        each = np.arange(len(rows))
        slices: list[Slices] = []
        if self._ranker is not None:
            slices.append(by_flag("training", ("seen in training", "unseen in training"), ~self._ranker.seen[rows]))
        if "category" in items.column_names:
            slices.append(by_category(items, each))
        if "published_at" in items.column_names:
            slices.append(by_item_age(items, each, np.repeat(page["timestamp"], len(rows))))
        slices.append(by_count("click history", np.full(len(rows), len(page["click_item"]))))
        slices.append(by_count("position", np.asarray(page["position"])))
        return [[f"{s.title}: {s.values[s.number[n]]}" for s in slices] for n in range(len(rows))]

    def _matches(self, page: Mapping[str, Any], history: str, weights: StepWeights) -> Document:
        """How the candidates of a page compare with the steps of a history."""
        rows, steps = np.asarray(page["item"]), np.asarray(page[f"{history}_item"])
        whole, recent = weights
        cosines = self._likeness.cosines(rows, steps)
        alike = {
            "item": rows[:, None] == steps[None, :],
            "cluster": self._likeness.same_cluster(rows, steps),
            "category": self._same_category(rows, steps),
        }
        candidates = []
        for n in range(len(rows)):
            chosen = {
                *_largest(whole, n, _TOP_WHOLE),
                *_largest(None if recent is None else np.abs(recent), n, _TOP_RECENT),
                *_largest(cosines, n, _TOP_COSINE),
            }
            found: list[Document] = [
                {
                    "step": step,
                    "whole": _at(whole, n, step),
                    "recent": _at(recent, n, step),
                    "cosine": _at(cosines, n, step),
                    "same": [what for what, match in alike.items() if match is not None and match[n, step]],
                }
                for step in sorted(chosen)
            ]
            by = ("whole", "cosine", "recent")
            found.sort(key=lambda step: [-np.inf if step[name] is None else step[name] for name in by], reverse=True)
            counts = {what: int(match[n].sum()) for what, match in alike.items() if match is not None}
            candidates.append({"steps": found, "counts": counts})
        read = [each.shape[1] for each in weights if each is not None]
        return {"length": len(steps), "read": max(read, default=0), "attends": bool(read), "candidates": candidates}

    def _same_category(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray | None:
        if "category" not in self.catalogue.items.column_names:
            return None
        column = self.catalogue.items["category"]
        mine, theirs = (np.array(column.take(each).to_pylist(), object) for each in (rows, steps))
        has_one = np.array([bool(category) for category in mine], bool)
        return np.equal(mine[:, None], theirs[None, :]).astype(bool) & has_one[:, None]


def _largest(values: np.ndarray | None, row: int, count: int) -> list[int]:
    """Columns of the largest values of a row that are above 0."""
    if values is None:
        return []
    order = np.argsort(-np.nan_to_num(values[row], nan=-np.inf), kind="stable")[:count]
    return [int(column) for column in order if values[row, column] > 0]


def _at(values: np.ndarray | None, row: int, column: int) -> float | None:
    if values is None or column >= values.shape[1] or np.isnan(values[row, column]):
        return None
    return float(values[row, column])
