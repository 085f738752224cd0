"""The viewer of a hostile shop, over the toy ranker's server."""

from collections.abc import Iterator

import pytest

from export.viewer.answers import Answers
from export.viewer.likeness import Likeness, PictureTables
from export.viewer.ranker_view import RankerView
from export.viewer.rankings import Rankings
from models.ranker.run import RowIds
from tests.export.viewer.shop import Shop, serving, write_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Shop:
    return write_shop(tmp_path_factory.mktemp("shop") / "dataset")


@pytest.fixture(scope="session")
def ids(shop) -> RowIds:
    tables = shop.dataset.items()["item_id"], shop.dataset.users()["user_id"]
    return RowIds(*(column.to_pylist() for column in tables))


@pytest.fixture(scope="session")
def ranker_view(shop, toy_run) -> RankerView:
    return RankerView(toy_run, shop.dataset)


@pytest.fixture(scope="session")
def answers(shop, ids, address, toy_base_path, ranker_view) -> Iterator[Answers]:
    with Rankings(address, "ranker", ids, timeout=10) as rankings:
        likeness = Likeness(PictureTables().or_else(ranker_view.picture_tables()))
        yield Answers(
            shop.dataset, rankings, base_path=toy_base_path, labels=["canary"], ranker=ranker_view, likeness=likeness
        )


@pytest.fixture(scope="session")
def port(answers) -> Iterator[int]:
    """Where the viewer listens."""
    with serving(answers) as port:
        yield port
