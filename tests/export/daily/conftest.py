import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import pytest

from beam_pipelines import BuildOptions, build_dataset
from export.daily.bounds import DayBounds
from export.daily.plan import DailyOptions
from models.clustering.cluster import cluster
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.embeddings.embed import embed
from models.ranker.adapt import adapt_to_pages
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths, TrainingConfig
from models.ranker.ranker import Ranker
from models.ranker.run import RankerMetadata, RankerRun
from tests.conftest import make_once
from tests.export.daily.day_logs import FIRST_DAY, simulated, write_day


class Shop(NamedTuple):
    """What a first day begins with, and the logs of the days."""

    options: DailyOptions
    tables: Any
    logs: Callable[[int], Path]


@pytest.fixture(scope="session")
def shop(work, published_sample) -> Shop:
    """A shop whose ranker has random weights: what it is worth does not matter here."""
    tables = simulated()

    def make(path):
        made = Path(f"{path}.made")
        made.mkdir()
        yesterday = write_day(tables, made / "logs" / "before", FIRST_DAY - datetime.timedelta(days=1))
        split = BuildOptions(page_buckets=1, split_by_time=("2024-03-14", "2024-03-21"))
        build_dataset(yesterday, made / "dataset", split)
        data = Dataset(made / "dataset")
        cluster(embed(data, published_sample / "encoder", made / "embeddings"), made / "clusters", num_clusters=8)
        _random_ranker(data, made)
        for number in range(3):
            write_day(tables, made / "logs" / str(number), day(number))
        made.rename(path)

    at = make_once(work / "daily_shop", make)
    options = DailyOptions(
        data=at / "dataset",
        encoder=published_sample / "encoder",
        embeddings=at / "embeddings",
        clusters=at / "clusters",
        model=at / "ranker",
        bounds=DayBounds(min_pages=20, min_slice_pages=20),
        skew_pages=5,
    )
    return Shop(options, tables, lambda number: at / "logs" / str(number))


def day(number: int) -> datetime.date:
    """The days of the tests, from 0 on."""
    return FIRST_DAY + datetime.timedelta(days=number)


def options_at(shop: Shop, directory: Path, **changes: Any) -> DailyOptions:
    """The shop's, with versions published below a directory."""
    return dataclasses.replace(shop.options, base_path=directory / "serving", **changes)


def _random_ranker(data: Dataset, made: Path) -> None:
    architecture = RankerConfig(
        lengths=RankerLengths(click=6, pay=0, cart=0),
        mlp_units=(8,),
        attention=AttentionConfig(histories="none"),
        token_buckets=50,
    )
    pages, clusters = data.pages("train"), Clusters.load(made / "clusters")
    adapted = adapt_to_pages(pages, architecture, pictures=clusters)
    keras.utils.set_random_seed(0)
    ranker = Ranker(adapted.config, adapted.features.sizes, adapted.image_feature)
    ranker.fill(adapted.features)
    metadata = RankerMetadata(
        image_feature=adapted.image_feature,
        seed=0,
        dataset_digest=data.manifest.digest(),
        item_ids_sha256=data.manifest.items.ids_sha256,
        user_ids_sha256=data.manifest.users.ids_sha256,
        window=pages.window,
        validation={},
        embeddings=None,
        clusters=clusters.metadata,
        notice=data.manifest.notice,
    )
    (made / "ranker").mkdir()
    RankerRun.save(
        made / "ranker",
        ranker,
        metadata,
        TrainingConfig(ranker=adapted.config, batch_size=16, monitor="auc"),
        items=data.items(),
        users=data.users(),
        example_records=[*pages.records().take(4).as_numpy_iterator()],
        training_counts=adapted.occurrences,
    )
