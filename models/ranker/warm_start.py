"""Begins a ranker with what an earlier one has learned, row by row of what both know."""

import re
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import pyarrow as pa

from beam_pipelines.format.location import Location
from models.clustering.clusters import ClustersMetadata
from models.embeddings.embeddings import EmbeddingsMetadata
from models.features.adapt import image_table, similarity_of
from models.features.known import KnownFeatures
from models.features.tables import FeatureTable
from models.layers.dice import Dice
from models.layers.id_embedding import IdEmbedding
from models.ranker.pictures.pictures import SummedEncoders
from models.ranker.ranker import Ranker
from models.ranker.run import RankerRun

_NUMBER = re.compile("_[0-9]+$")


class WarmStart:
    """An earlier ranker.

    Embeddings go over by what they stand for: items and users by their string ID, categories by their value, clusters
    if the centers are the same ones. Everything else goes over where name and shape are the same. What the earlier
    ranker did not have is initialised as without it. The optimizer begins anew.

    Args:
        run: its directory, or the URI of it.

    Attributes:
        path: that directory.
        metadata: what it says of itself.
        run, ranker: the run, and the ranker in it.

    Raises:
        ArtifactError: the directory holds no ranker, or lacks a table of string IDs.
    """

    def __init__(self, run: Location | str) -> None:
        self.run = earlier = RankerRun(run)
        self.path, self.metadata = earlier.path, earlier.metadata
        self.ranker = earlier.ranker()
        self._ids = {
            "items": earlier.items(["item_id"])["item_id"],
            "users": earlier.users(["user_id"])["user_id"],
        }

    def known(
        self,
        items: pa.Table,
        users: pa.Table,
        embeddings: EmbeddingsMetadata | tuple[EmbeddingsMetadata, ...] | None,
        clusters: ClustersMetadata | None,
    ) -> KnownFeatures:
        """Its vocabularies and scales, for a ranker that keeps them.

        Args:
            items, users: the dataset's tables.
            embeddings, clusters: where the image features of the new one come from.
        """
        vocabulary = self.ranker.vocabulary
        if vocabulary is None:
            raise ValueError("the earlier ranker must be filled. Received: one without a vocabulary")
        spec = self.ranker.config.features.spec()
        ids: dict[str, dict[str, np.ndarray]] = {"item": {}, "user": {}}
        for section, table, rows in (("item", self.ranker.items.features, items), ("user", self.ranker.users, users)):
            for name, feature in table.features.items():
                if feature.type == "id" and name in rows.column_names:
                    embedded = _embedded(table, name, self._ids[f"{section}s"])
                    ids[section][name] = np.array([text in embedded for text in rows[name].to_pylist()], bool)
        tables = self.ranker.items.pictures.tables
        same = [*(["center"] if _same_centers(self.metadata.clusters, clusters) else [])]
        if _same_space(self.metadata.embeddings, embeddings):
            same += [image_table(number) for number in range(len(self.ranker.sizes.image_dims))]
        similarity = {name: tables[name].numpy() for table in same if (name := similarity_of(table)) in tables}
        return KnownFeatures(
            {"item": dict(spec.item), "user": dict(spec.user), "candidate": dict(spec.candidate)},
            vocabulary,
            ids,
            similarity,
        )

    def training_counts(self, items: pa.Table) -> np.ndarray:
        """How often it has seen each item of a dataset in training: int64 `(items,)`."""
        counts = dict(zip(self._ids["items"].to_pylist(), self.run.training_counts().tolist(), strict=True))
        return np.array([counts.get(text, 0) for text in items["item_id"].to_pylist()], np.int64)

    def fill(
        self,
        ranker: Ranker,
        items: pa.Table,
        users: pa.Table,
        embeddings: EmbeddingsMetadata | tuple[EmbeddingsMetadata, ...] | None,
        clusters: ClustersMetadata | None,
        replaced: np.ndarray | None = None,
    ) -> str:
        """Writes into a new ranker what it shares with the earlier one.

        Args:
            ranker: the new one, its tables filled.
            items, users: the dataset's tables.
            embeddings, clusters: where the image features of the new one come from.
            replaced: `Clusters.replaced`: if the clusters take the place of those that the earlier ranker knows, what
                it has learned of an old one goes to the one in its place.

        Returns:
            What was carried over, in words.
        """
        vocabulary, old_vocabulary = ranker.vocabulary, self.ranker.vocabulary
        if vocabulary is None or old_vocabulary is None:
            raise ValueError("`ranker` must be filled before it is warm-started. Received: one without a vocabulary")
        old_variables = dict(_variables(self.ranker))
        # By variable: the feature that it embeds, and the rows of the values that both rankers know, there and here.
        shared: dict[int, tuple[str, np.ndarray, np.ndarray]] = {}
        for section, old_table, new_table, rows in (
            ("item", self.ranker.items.features, ranker.items.features, items),
            ("user", self.ranker.users, ranker.users, users),
        ):
            for name, feature in new_table.features.items():
                if name not in old_table.features or old_table.features[name].type != feature.type:
                    continue
                if feature.type == "id":
                    pairs = _shared_ids(old_table, new_table, name, self._ids[f"{section}s"], rows[name])
                elif feature.type == "category":
                    pairs = _shared_values(*(getattr(each, section)[name] for each in (old_vocabulary, vocabulary)))
                else:
                    continue  # by name and shape
                for member in ranker.members[: len(self.ranker.members)]:
                    embeddings_layer = member.items.features if section == "item" else member.users
                    shared[id(embeddings_layer.embeddings[name].embeddings)] = (f"{section}.{name}", *pairs)
        if not _takes_place_of(self.metadata.clusters, clusters):
            replaced = None
        stale = set()
        for number, member in enumerate(ranker.members):
            encoder = member.items.picture_encoder
            if replaced is not None and number < len(self.ranker.members):
                rows = np.concatenate([[0], np.flatnonzero(replaced >= 0) + 1])
                old_rows = np.concatenate([[-1], replaced[replaced >= 0]]) + 1
                shared |= {id(each): ("cluster_id", old_rows, rows) for each in _cluster_embeddings(encoder)}
            # What it encodes means something else if it comes from other pictures.
            same_clusters = clusters is None or _same_centers(self.metadata.clusters, clusters)
            if encoder is not None and not (same_clusters and _same_space(self.metadata.embeddings, embeddings)):
                stale |= {id(variable) for variable in encoder.variables}

        if not _same_space(self.metadata.embeddings, embeddings):
            stale |= {id(variable) for tower in ranker.items.pictures.towers for variable in tower.variables}

        embedded: dict[str, None] = {}  # once, however many members there are
        others, initialised = 0, []
        for name, variable in _variables(ranker):
            old = old_variables.get(name)
            if id(variable) in shared:
                feature_name, old_rows, new_rows = shared[id(variable)]
                if old is not None and old.shape[1] == variable.shape[1]:
                    weights = variable.numpy()
                    weights[new_rows] = old.numpy()[old_rows]
                    variable.assign(weights)
                    # Row 0, which stands for the unknown, is no value.
                    embedded[f"{feature_name} {len(new_rows) - 1} of {variable.shape[0] - 1}"] = None
                    continue
            elif id(variable) not in stale and old is not None and old.shape == variable.shape:
                variable.assign(old.numpy())
                others += 1
                continue
            initialised.append(name)
        fresh = f"; initialised: {', '.join(initialised)}" if initialised else ""
        return f"carried over: {', '.join(embedded)}, {others} other variables{fresh}"


def _shared_ids(
    old_table: FeatureTable, new_table: FeatureTable, name: str, old_ids: pa.ChunkedArray, new_ids: pa.ChunkedArray
) -> tuple[np.ndarray, np.ndarray]:
    """Embedding rows of the IDs that both rankers know, in either; the unknown one first."""
    old_rows = _embedded(old_table, name, old_ids)
    pairs = [(0, 0)]
    for text, row in _embedded(new_table, name, new_ids).items():
        if text in old_rows:
            pairs.append((old_rows[text], row))
    return tuple(np.array(pairs).T)


def _embedded(table: FeatureTable, name: str, ids: pa.ChunkedArray) -> dict[str, int]:
    """The IDs that have an embedding, to its row."""
    rows = zip(ids.to_pylist(), table.tables[name].numpy().tolist(), strict=False)  # one more row, for the unknown
    return {text: row for text, row in rows if row}


def _shared_values(old: Sequence[str], new: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Embedding rows of the values that both vocabularies have, in either; the unknown one first."""
    old_rows = {value: row for row, value in enumerate(old, 1)}
    pairs = [(0, 0), *((old_rows[value], row) for row, value in enumerate(new, 1) if value in old_rows)]
    return tuple(np.array(pairs).T)


def _same_space(
    old: EmbeddingsMetadata | tuple[EmbeddingsMetadata, ...] | None,
    new: EmbeddingsMetadata | tuple[EmbeddingsMetadata, ...] | None,
) -> bool:
    """Whether vectors mean the same, whatever items they are of."""
    sides = [each if isinstance(each, tuple) else () if each is None else (each,) for each in (old, new)]
    return len(sides[0]) == len(sides[1]) and not any(a.space_difference(b) for a, b in zip(*sides, strict=True))


def _same_centers(old: ClustersMetadata | None, new: ClustersMetadata | None) -> bool:
    return old is not None and new is not None and old.same_centers(new)


def _takes_place_of(old: ClustersMetadata | None, new: ClustersMetadata | None) -> bool:
    return (
        old is not None
        and new is not None
        and new.replaced is not None
        and new.replaced.centers_sha256 == old.centers_sha256
    )


def _cluster_embeddings(encoder: keras.layers.Layer | None) -> list[keras.Variable]:
    """The embedding of cluster IDs, if there is one."""
    layers = encoder.encoders if isinstance(encoder, SummedEncoders) else [encoder]
    return [
        layer.embeddings for layer in layers if isinstance(layer, IdEmbedding) and layer.name == "cluster_embedding"
    ]


def _variables(
    layer: keras.Layer, path: str = "", found: set[int] | None = None
) -> Iterator[tuple[str, keras.Variable]]:
    """What training changes, by the names of the layers that hold it; a shared layer counts where it is found first."""
    found = set() if found is None else found
    moments = [layer.moving_mean, layer.moving_variance] if isinstance(layer, Dice) else []
    for variable in [*layer._trainable_variables, *moments]:
        if id(variable) not in found:
            found.add(id(variable))
            yield f"{path}{variable.name}", variable
    siblings: dict[str, int] = {}
    for child in layer._layers:
        # Keras numbers what has no name through all models of a process.
        name = _NUMBER.sub("", child.name)
        siblings[name] = siblings.get(name, 0) + 1
        number = "" if siblings[name] == 1 else f"-{siblings[name]}"
        yield from _variables(child, f"{path}{name}{number}/", found)
