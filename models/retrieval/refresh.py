"""Carries a trained retriever to a later dataset without training: items that have come since are found, too."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.progress import say
from models.data.dataset import Dataset
from models.retrieval.interactions import Interactions
from models.retrieval.item_features import read_item_features
from models.retrieval.methods import METHODS
from models.retrieval.run import RetrievalRun
from models.retrieval.two_tower.two_tower import TwoTower


def refresh_retrieval(
    run: RetrievalRun | Location | str,
    data: Dataset | Location | str,
    output: Location | str,
    *,
    embeddings: Sequence[Sequence[str | Path]],
    overwrite: bool = False,
) -> RetrievalRun:
    """Writes the run of a retriever whose items and users are those of a later dataset and whose weights are as before.

    An item that training has seen keeps its vector, unless its category or picture is another one now. A new one enters
    by these alone. Users, new ones too, have the histories of the end of the later dataset. What they chose on its
    pages, and in what was learned from, is what they have.

    Args:
        run: the retriever, of a method whose items are more than a row: `two_tower`.
        data: the later dataset.
        output: run directory to write.
        embeddings: of the later dataset's items: the sources, kind by kind, as in training. They are of the same
            encoders and whitenings.
        overwrite: whether to replace an output that exists.

    Returns:
        The run at `output`. It says of itself what the retriever has learned on, not what its tables are from.

    Raises:
        InputError: the method knows an item as a row alone, or the embeddings are not such as it has learned from.
        ArtifactError: there is no such run, or the output exists.
    """
    run = run if isinstance(run, RetrievalRun) else RetrievalRun(run)
    dataset, output = data if isinstance(data, Dataset) else Dataset(data), as_location(output)
    model = run.model
    if not isinstance(model, TwoTower):
        able = ", ".join(name for name, kind in METHODS.items() if issubclass(kind, TwoTower))
        raise InputError(
            f"`data`: {run.metadata.method} has learned a vector of each item and knows no others; train it on the "
            f"later dataset, or use a method that knows items by what they are: {able}"
        )
    with about("data"):
        interactions = Interactions.from_all_pages(dataset, run.metadata.interactions)
    kinds = run.metadata.features
    if len(kinds) != len(embeddings):
        raise InputError(f"`embeddings` must be of {len(kinds)} kinds, as in training. Received: {len(embeddings)}")
    with about("embeddings"):
        features = [
            read_item_features(paths, interactions, dataset, allow_window_overlap=True, like=sources)
            for paths, sources in zip(embeddings, kinds, strict=True)
        ]
    item_rows, user_rows = (
        _rows(earlier, later)
        for earlier, later in ((run.item_ids, interactions.item_ids), (run.user_ids, interactions.user_ids))
    )
    refreshed = model.refreshed(item_rows, user_rows, interactions, [each.vectors for each in features], dataset)
    metadata = run.metadata.model_copy(
        update={
            "item_ids_sha256": dataset.manifest.items.ids_sha256,
            "user_ids_sha256": dataset.manifest.users.ids_sha256,
            "features": tuple(each.sources for each in features),
        }
    )
    with whole_directory(output, overwrite=overwrite, inputs=[dataset.path, run.path]) as directory:
        RetrievalRun.save(directory, refreshed, metadata, interactions, run.history())
        say(
            f"{interactions.num_items} items, {interactions.num_items - (item_rows >= 0).sum()} of them new, and "
            f"{(item_rows < 0).sum()} are gone; {interactions.num_users} users"
        )
    return RetrievalRun(output)


def _rows(earlier: Sequence[str], later: Sequence[str]) -> np.ndarray:
    """The row that each earlier ID has later, int32; -1 where it has none."""
    rows = {name: row for row, name in enumerate(later)}
    return np.array([rows.get(name, -1) for name in earlier], np.int32)
