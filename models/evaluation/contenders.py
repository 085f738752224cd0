"""The rankers of a report: where they come from, what their rows are called, and which of them are averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from upath import UPath

from beam_pipelines.format.errors import ArtifactError, InputError
from models.data.pages import items_on_pages
from models.ranker.run import RankerRun

if TYPE_CHECKING:
    from models.data.dataset import Dataset
    from models.ranker.ranker import Ranker

    Model = str | Path | UPath | RankerRun | Ranker
    """A run, its directory, or a ranker."""

    Models = Model | Sequence[Model | tuple[str | None, Model]] | Mapping[str, Model | Sequence[Model]]
    """One, several, or several by name."""


class Contender(NamedTuple):
    """A ranker that a report compares with others.

    Attributes:
        system: what it is averaged as; `None` if nobody has said so.
        source: the run it comes from, or the ranker itself.
    """

    system: str | None
    source: RankerRun | Ranker

    @property
    def run(self) -> RankerRun | None:
        """The run it comes from; `None` for a ranker that is in memory alone."""
        return self.source if isinstance(self.source, RankerRun) else None

    @property
    def name(self) -> str:
        """That of its run directory, or of a ranker in memory as the user or Keras calls it."""
        return self.source.path.name if isinstance(self.source, RankerRun) else self.system or self.source.name

    @property
    def image_feature(self) -> str:
        """How pictures enter it."""
        return self.source.metadata.image_feature if isinstance(self.source, RankerRun) else self.source.image_feature

    def ranker(self) -> Ranker:
        """The ranker, loaded at each call if it comes from a run: a report needs one at a time."""
        return self.source.ranker() if isinstance(self.source, RankerRun) else self.source

    def seen_items(self, dataset: Dataset) -> np.ndarray:
        """Which items were on its training pages, on all train pages if it does not know: bool `(items,)`."""
        if self.run is not None:
            return self.run.training_counts() > 0
        if "train" not in dataset.manifest.splits:
            return np.zeros(dataset.manifest.items.file.records, bool)
        return items_on_pages(dataset, "train")

    def description(self) -> dict[str, Any]:
        """What a report says of where it comes from: `run`, `digest`, `image_feature`, `seed`."""
        run = self.run
        return {
            "run": str(run.path) if run else None,
            "digest": run.metadata.digest() if run else None,
            "image_feature": self.image_feature,
            "seed": run.metadata.seed if run else None,
        }


def contenders(models: Models) -> dict[str, Contender]:
    """Opens what is to be compared, by the names of the report's rows.

    Rows are called after run directories, by their whole paths where these share a name, and after the names of rankers
    that are in memory alone.

    Args:
        models: see `evaluate`.

    Raises:
        ArtifactError: a directory holds no ranker.
        InputError: there is nothing to compare, or the same run twice.
    """
    opened = [
        Contender(system, RankerRun(model) if isinstance(model, str | Path | UPath) else model)
        for system, model in _pairs(models)
    ]
    if not opened:
        raise InputError("at least one ranker is needed. Received: none")
    names = [contender.name for contender in opened]
    if len(set(names)) < len(names):
        names = [
            str(contender.run.path) if contender.run else f"{contender.name} {n}"
            for n, contender in enumerate(opened, start=1)
        ]
    named = {
        name.replace("/", "_"): contender  # files are called like that, too
        for name, contender in zip(names, opened, strict=True)
    }
    if len(named) < len(opened):
        raise InputError(f"the same run twice: {', '.join(names)}")
    return named


def check_dataset(contender: Contender, dataset: Dataset) -> None:
    """Refuses a ranker whose tables are not the dataset's.

    Raises:
        ArtifactError: it is that of another dataset.
    """
    if contender.run is None:
        return
    metadata, manifest = contender.run.metadata, dataset.manifest
    for table, ours, theirs in (
        ("item", manifest.items.ids_sha256, metadata.item_ids_sha256),
        ("user", manifest.users.ids_sha256, metadata.user_ids_sha256),
    ):
        if ours != theirs:
            raise ArtifactError(
                f"{contender.run.path} was trained on another dataset than {dataset.path} (its {table} table "
                "differs); train it on this one"
            )


def systems_of(contenders: Mapping[str, Contender]) -> dict[str, list[int]]:
    """What is compared: the rankers of one name, or else runs that differ in nothing but the seed; others alone.

    Without a name, a system of several runs is named after its image feature, and after its first run, too, where
    several systems have the same one. A system of one ranker has the name of its row.

    Returns:
        Name to the positions of its rankers.

    Raises:
        InputError: two systems would have the same name.
    """
    groups: dict[tuple[str | None, str], list[int]] = {}
    for number, (row, contender) in enumerate(contenders.items()):
        settings = "" if contender.system is not None else _settings(contender) or row
        groups.setdefault((contender.system, settings), []).append(number)
    rows = list(contenders)
    features = [contenders[rows[numbers[0]]].image_feature for (system, _), numbers in groups.items() if system is None]
    systems: dict[str, list[int]] = {}
    for (system, _), numbers in groups.items():
        first = rows[numbers[0]]
        name = system or first
        if system is None and len(numbers) > 1:
            feature = contenders[first].image_feature
            name = feature if features.count(feature) == 1 and feature not in rows else f"{feature} as {first}"
        if name in systems:
            raise InputError(f"two systems have the name {name}; give one of them another NAME=")
        systems[name] = numbers
    return systems


def _pairs(models: Models) -> Iterable[tuple[str | None, Model]]:
    if isinstance(models, Mapping):
        for name, several in models.items():
            for model in several if isinstance(several, Sequence) and not isinstance(several, str) else [several]:
                yield name, model
    elif isinstance(models, Sequence) and not isinstance(models, str):
        for model in models:
            yield model if isinstance(model, tuple) else (None, model)
    else:
        yield None, models


def _settings(contender: Contender) -> str:
    """Equal for runs that differ in nothing but the seed; nothing is known of rankers that are in memory alone."""
    run = contender.run
    if run is None:
        return ""
    alike = run.metadata.model_dump_json(include={"image_feature", "dataset_digest", "embeddings", "clusters"})
    return alike + run.config().to_yaml()
