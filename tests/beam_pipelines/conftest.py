"""Small datasets of random logs for all tests of the data job, each made once."""

from pathlib import Path

import pytest

from beam_pipelines import BuildOptions, build_dataset
from tests.beam_pipelines.random_logs import SPLIT, items_table, random_logs, write_logs
from tests.browser import MARKUP
from tests.conftest import make_once


@pytest.fixture(scope="session")
def log_rows():
    """Impressions and events, a dict per row; not to be changed."""
    return random_logs()


@pytest.fixture(scope="session")
def logs(work, log_rows):
    return make_once(work / "random_logs", lambda path: write_logs(Path(path), *log_rows))


@pytest.fixture(scope="session")
def dataset(work, logs):
    options = BuildOptions(split_by_time=SPLIT)
    return make_once(work / "random_dataset", lambda path: build_dataset(logs, path, options))


@pytest.fixture(scope="session")
def odd_rows(log_rows):
    """The same rows with markup in their queries."""
    impressions, events = log_rows
    return [{**row, "query": row["query"] and f"{row['query']} {MARKUP}"} for row in impressions], events


@pytest.fixture(scope="session")
def odd_dataset(work, odd_rows):
    """Markup in every text, items without a picture, rejected rows."""
    impressions, events = odd_rows
    items = items_table()
    items["title"] = [None, *(f"{MARKUP} {n}" for n in range(1, 20))]
    items["category"] = [MARKUP] * 20
    items["image"][3] = "nowhere.jpg"
    rejected = [{**impressions[0], "position": -1}, {**impressions[1], "timestamp": -1}]

    def make(path):
        logs = write_logs(work / "odd_logs", [*impressions, *rejected], events, items)
        (logs / "logs.json").write_text('{"notice": "<b>made</b> up"}')
        build_dataset(logs, path, BuildOptions(split_by_time=SPLIT))

    return make_once(work / "odd_dataset", make)
