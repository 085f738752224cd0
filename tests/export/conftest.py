import contextlib
import io
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from export import RankerClient, saved_model
from export.retrieval import __main__ as retrieval
from export.server.admission import RequestLimits, RequestQueue
from export.server.endpoint import Endpoint
from export.server.model_config import ModelConfig
from export.server.ports import Ports
from export.server.servable import Servable
from export.server.served_models import ServedModels
from export.version.reference_pages import MAX_DIFFERENCE, ReferencePages
from models.ranker.run import RankerRun
from models.retrieval.run import RetrievalRun
from tests.conftest import make_once
from tests.export.toy_ranker import make_toy_ranker, toy_rows
from tests.export.toy_retriever import make_toy_retriever
from tests.export.toy_server import save_toy


@pytest.fixture(scope="session")
def toy_run(work) -> RankerRun:
    """A run directory of a ranker with random weights."""

    def make(path):
        os.mkdir(f"{path}.made")
        make_toy_ranker(f"{path}.made")
        os.rename(f"{path}.made", path)

    return RankerRun(make_once(work / "toy_ranker", make))


@pytest.fixture(scope="session")
def toy_base_path(toy_run, work) -> Path:
    """A base path with version 11: the toy ranker, published by the command beside a number of distractions."""

    def make(path):
        scratch = Path(f"{path}.made")
        for name in ("2", "00010", "x", ".30.incomplete-1", str(2**63)):
            (scratch / name).mkdir(parents=True)
        (scratch / "40").write_text("a file")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            closing = saved_model.main(["--model", str(toy_run.path), "--base-path", str(scratch), "--skew-pages", "5"])
        assert closing.startswith(f"version 11 in {scratch / '11'}: passed all gates, differs by ")
        assert float(closing.split("differs by ")[1].split()[0]) <= MAX_DIFFERENCE
        assert f"12 example pages, 5 example pages in {toy_run.path}" in printed.getvalue()
        assert "passed `train / serve skew`: 15 pages, largest difference: gRPC " in printed.getvalue()
        scratch.rename(path)

    return make_once(work / "toy_serving", make)


@pytest.fixture(scope="session")
def servable(toy_base_path):
    """The exported version in memory."""
    servable = Servable(toy_base_path / "11", 11)
    yield servable
    servable.close()


@pytest.fixture(scope="session")
def toy_endpoint(toy_base_path, tmp_path_factory):
    """The exported version, served in this process without what distracts beside it."""
    base_path = tmp_path_factory.mktemp("toy_endpoint")
    shutil.copytree(toy_base_path / "11", base_path / "11")
    models = ServedModels([ModelConfig("ranker", base_path)], base_path, poll_seconds=0)
    limits, queue = RequestLimits(row_length=50), RequestQueue(2, 8)
    with Endpoint(models, Ports(port=0, rest_port=0), limits=limits, queue=queue) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def address(toy_endpoint) -> str:
    """Of its gRPC services."""
    return toy_endpoint.listening.grpc


@pytest.fixture(scope="session")
def ranker_client(address):
    """A client of it."""
    with RankerClient(address) as ranker_client:
        yield ranker_client


@pytest.fixture(scope="session")
def ranker(toy_run):
    """The toy ranker in process."""
    return toy_run.ranker()


@pytest.fixture(scope="session")
def reference(toy_run, ranker) -> ReferencePages:
    """The example pages of the toy ranker with its own scores."""
    return ReferencePages.of(ranker, toy_run.row_ids(), toy_run.example_records())


@pytest.fixture
def rows():
    """The example pages as requests."""
    return toy_rows()


@pytest.fixture(scope="session")
def toy_saved_model(tmp_path_factory) -> Path:
    """The small SavedModel of the server's tests; copy it to where a version is needed."""
    path = tmp_path_factory.mktemp("toy_saved_model") / "model"
    save_toy(path)
    return path


class ToyRetrieval(NamedTuple):
    """A retriever, the base path that the command published it to, and what that printed and said at last."""

    run: RetrievalRun
    base_path: Path
    printed: str
    closing: str


@pytest.fixture(scope="module")
def base_path(toy_saved_model, tmp_path_factory) -> Path:
    """A base path with version 3 of `toy_saved_model` beside what is no version."""
    base = tmp_path_factory.mktemp("toy")
    shutil.copytree(toy_saved_model, base / "3")
    for skipped in ("2", "latest", ".7.incomplete-1"):  # not the largest; not a number; unfinished
        (base / skipped).mkdir()
    (base / "9").write_text("a file")
    return base


@pytest.fixture(scope="session")
def toy_retrieval(tmp_path_factory) -> ToyRetrieval:
    """The toy retriever, published by the command."""
    directory = tmp_path_factory.mktemp("toy_retrieval")
    run = make_toy_retriever(directory)
    base_path = directory / "serving"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        closing = retrieval.main(["--model", str(run.path), "--base-path", str(base_path), "--k", "12"])
    return ToyRetrieval(run, base_path, printed.getvalue(), closing)


@pytest.fixture(scope="session")
def both_stages(toy_base_path, toy_retrieval, tmp_path_factory):
    """The address of a server of the toy ranker and the toy retriever."""
    root = tmp_path_factory.mktemp("both_stages")
    shutil.copytree(toy_base_path / "11", root / "ranker/11")
    shutil.copytree(toy_retrieval.base_path / "1", root / "retrieval/1")
    configs = [ModelConfig(name, root / name) for name in ("ranker", "retrieval")]
    models = ServedModels(configs, root, poll_seconds=0)
    queue = RequestQueue(2, 8)
    with Endpoint(models, Ports(port=0, rest_port=0), limits=RequestLimits(row_length=50), queue=queue) as endpoint:
        yield endpoint.listening.grpc
