"""Pages of a dataset that a version is compared on before it is published."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from beam_pipelines.format.records import HISTORIES
from beam_pipelines.shell.command import CommandError
from export.version.example_pages import read_page_records
from models.data.dataset import Dataset
from models.ranker.run import RankerMetadata

_DEFAULT_DATA = Path("artifacts/dataset")
_ALTERED = 8


class LoggedPages(NamedTuple):
    """Pages to compare on.

    Attributes:
        records: serialized.
        source: where they come from, for people.
        dataset: theirs; `None` if they are the example pages that a ranker's run keeps.
    """

    records: list[bytes]
    source: str
    dataset: Dataset | None


def logged_pages(data: Path | None, run: Path, metadata: RankerMetadata, count: int) -> LoggedPages:
    """Reads pages of a dataset: the first ones of each shard of its test split, or of its train split without one.

    Args:
        data: the dataset; `None`: the default one if it has the ranker's items and users, else the run's example pages.
        run: the ranker's run.
        metadata: its description.
        count: how many, at most.

    Raises:
        CommandError: `data` has other items or users than the ranker.
    """
    if data is None and not (_DEFAULT_DATA.is_dir() and _has_rows_of(Dataset(_DEFAULT_DATA), metadata)):
        records = read_page_records(run)[:count]
        return LoggedPages(records, f"example pages in {run}", None)
    dataset = Dataset(_DEFAULT_DATA if data is None else data)
    if not _has_rows_of(dataset, metadata):
        raise CommandError(f"--data: {dataset.path} has other items or users than those that {run} was trained with")
    split = "test" if "test" in dataset.manifest.splits else "train"
    shards = dataset.shard_paths(split)
    records = []
    for number, shard in enumerate(shards):
        wanted = (count - len(records)) // (len(shards) - number)  # of this shard, so that all of them have a part
        records += islice(tf.data.TFRecordDataset(shard).as_numpy_iterator(), wanted)
    return LoggedPages(records, f"{split} pages of {dataset.path}", dataset)


def altered_pages(records: Sequence[bytes], unknown_item: int) -> list[bytes]:
    """A few of the pages without histories, and again with unknown users and items."""
    altered = []
    for record in records[:_ALTERED]:
        example = tf.train.Example.FromString(record)
        for name in HISTORIES:
            for part in ("item", "time"):
                example.features.feature[f"{name}_{part}"].int64_list.Clear()
        altered.append(example.SerializeToString())
    for record in records[:_ALTERED]:
        example = tf.train.Example.FromString(record)
        example.features.feature["user"].int64_list.value[:] = [-1]
        for name in ("item", *(f"{history}_item" for history in HISTORIES)):
            values = example.features.feature[name].int64_list.value
            values[:] = [unknown_item] * len(values)
        altered.append(example.SerializeToString())
    return altered


def _has_rows_of(dataset: Dataset, metadata: RankerMetadata) -> bool:
    digests = dataset.manifest.items.ids_sha256, dataset.manifest.users.ids_sha256
    return digests == (metadata.item_ids_sha256, metadata.user_ids_sha256)
