"""Shows pages as users saw them and as versions of a ranker order them, in a browser: `python -m export.viewer`."""

import argparse
import contextlib
import signal
import socket
import threading
from typing import TYPE_CHECKING

from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import as_location
from beam_pipelines.shell.command import ArgumentParser, command, require_directory, run_command

if TYPE_CHECKING:
    from export.viewer.answers import Answers

_HOST = "127.0.0.1"


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Shows pages of a dataset as users saw them and as versions of a ranker order them.")
    parser.add_argument("--data", default="artifacts/dataset", help="from beam_pipelines.build")
    parser.add_argument("--server", default="127.0.0.1:8500", help="HOST:PORT of the gRPC services that score pages")
    parser.add_argument("--model-name", default="ranker", help="the model's name there")
    parser.add_argument("--base-path", help="from export.saved_model, to choose versions from (unset: the latest)")
    parser.add_argument(
        "--label", action="append", help="a label of the server's versions to choose (repeatable; unset: none)"
    )
    parser.add_argument("--model", help="from models.train_ctr, to look into (unset: nothing is said of its attention)")
    parser.add_argument("--embeddings", help="from models.embed or models.whiten (unset: those in --model, if any)")
    parser.add_argument("--clusters", help="from models.cluster (unset: those in --model, if any)")
    parser.add_argument("--port", type=int, default=8600, help="port of the page on this machine (0: a free one)")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the server's scores")
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Shows pages until SIGTERM or SIGINT and returns the closing line."""
    require_directory(options.data, "--data", "beam_pipelines.build")
    if options.base_path is not None:
        require_directory(options.base_path, "--base-path", "export.saved_model")
    if options.model is not None:
        require_directory(options.model, "--model", "models.train_ctr")
    if not options.timeout > 0:
        raise InputError(f"`timeout` must be more than 0. Received: {options.timeout}")

    import tensorflow as tf

    from export.server.http_server import HttpServer
    from export.viewer.web_service import WebService

    tf.get_logger().setLevel("ERROR")
    with contextlib.ExitStack() as stack:
        try:
            listening = stack.enter_context(socket.create_server((_HOST, options.port)))
        except (OSError, OverflowError) as error:
            raise InputError(f"`port`: cannot listen on {_HOST}:{options.port}: {error}") from error
        port = listening.getsockname()[1]
        server = HttpServer([listening], WebService(_answers(options, stack), port), max_body=0)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        print(f"open http://{_HOST}:{port}/", flush=True)
        while not stop.wait(1.0):  # in intervals: a signal that another thread receives does not end this one's wait
            pass
        server.stop(grace=1.0)
    return f"stopped showing {options.data}"


def _answers(options: argparse.Namespace, stack: contextlib.ExitStack) -> "Answers":
    from export.viewer.answers import Answers
    from export.viewer.likeness import Likeness, PictureTables
    from export.viewer.ranker_view import RankerView
    from export.viewer.rankings import Rankings
    from export.viewer.stored_pages import PageNumber
    from models.data.dataset import Dataset
    from models.ranker.run import RankerRun, RowIds

    with about("data"):
        dataset = Dataset(options.data)
    ids = RowIds(dataset.items()["item_id"].to_pylist(), dataset.users()["user_id"].to_pylist())
    with about("server"):
        rankings = stack.enter_context(Rankings(options.server, options.model_name, ids, options.timeout))
    ranker = None
    if options.model is not None:
        with about("model"):
            ranker = RankerView(RankerRun(options.model), dataset)
    pictures = PictureTables.of(dataset, options.embeddings, options.clusters)
    if ranker is not None:
        pictures = pictures.or_else(ranker.picture_tables())
    base_path = None if options.base_path is None else as_location(options.base_path)
    answers = Answers(
        dataset, rankings, base_path=base_path, labels=options.label or [], ranker=ranker, likeness=Likeness(pictures)
    )
    answers.explanation(PageNumber(next(iter(answers.pages.lengths)), 0))  # the first one takes seconds
    return answers


if __name__ == "__main__":
    run_command(main)
