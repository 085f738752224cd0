"""Asks a served ranker to rank pages and prints the candidates, best first: `python -m export.client`.

In Python: `RankerClient(address).rank(page)` and `.recommend(user)`, `ExperimentClient(address, experiment,
exposures).rank(page)`.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beam_pipelines.format.errors import about
from beam_pipelines.shell.command import ArgumentParser, CommandError, command, require_directory, run_command
from export.client.page import Page, PageError

if TYPE_CHECKING:
    from export.client.experiment_client import ExperimentClient
    from export.client.ranker_client import RankerClient


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Asks a served ranker to rank pages and prints their candidates, best first.")
    parser.add_argument(
        "page",
        nargs="?",
        help="JSON file of a page, of a list of pages, or of a REST request; - for "
        "standard input (unset: pages of --data)",
    )
    parser.add_argument("--data", default="artifacts/dataset", help="from beam_pipelines.build")
    parser.add_argument("--split", default="test", help="split of --data")
    parser.add_argument("--pages", type=int, default=1, help="how many pages of --data")
    parser.add_argument("--address", default="127.0.0.1:8500", help="HOST:PORT of the server's gRPC services")
    parser.add_argument("--model-name", default="ranker", help="the model's name")
    parser.add_argument("--version", type=int, help="ask for this version (unset: the latest)")
    parser.add_argument("--label", help="ask for the version with this label")
    parser.add_argument(
        "--experiment", type=Path, metavar="FILE", help="ask for the version or label of each user's arm (JSON file)"
    )
    parser.add_argument(
        "--exposures", type=Path, metavar="FILE", help="with --experiment: append who saw which page in which arm"
    )
    parser.add_argument(
        "--user",
        metavar="ID",
        help="recommend: rank what a retriever finds for this user, with the histories of the user's newest page in "
        "--split of --data, if there is one",
    )
    parser.add_argument("--k", type=int, default=20, help="with --user: items to print")
    parser.add_argument("--candidates", type=int, default=200, help="with --user: candidates to rank")
    parser.add_argument("--retriever-name", default="retrieval", help="with --user: the retriever's name")
    parser.add_argument("--retriever-address", help="with --user: HOST:PORT of its server (unset: --address)")
    parser.add_argument("--output", default="ctr", help="which score: ctr, ctcvr, long_visit or dwell")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for each page")
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Ranks the pages, prints them, and returns the closing line."""
    from export.client.predict_client import RankerError

    if options.pages < 1:
        raise CommandError(f"--pages must be at least 1. Received: {options.pages}")
    if not options.timeout > 0:
        raise CommandError(f"--timeout must be more than 0. Received: {options.timeout}")
    if sum(option is not None for option in (options.version, options.label, options.experiment)) > 1:
        raise CommandError("--version, --label and --experiment exclude each other")
    if (options.experiment is None) != (options.exposures is None):
        raise CommandError("--experiment and --exposures need each other")
    if options.user is not None and (options.page is not None or options.experiment is not None):
        raise CommandError("--user, --experiment and a page exclude each other")
    if min(options.k, options.candidates) < 1:
        raise CommandError(f"--k and --candidates must be at least 1. Received: {options.k} and {options.candidates}")
    count = 0
    try:
        if options.user is not None:
            return _recommend(options)
        with _client(options) as client:
            pages = _logged_pages(options, client) if options.page is None else _pages_in(options.page)
            for page in pages:
                scores = client.rank(page, options.output)
                print(_report(page, scores, options.output, client), flush=True)
                count += 1
    except RankerError as error:
        raise CommandError(f"--address: {options.address} has not ranked the page: {error}") from error
    except PageError as error:
        raise CommandError(f"page: {error}") from error
    return f"ranked {count} page{'s' if count > 1 else ''} with {options.model_name} at {options.address}"


def _client(options: argparse.Namespace) -> "RankerClient | ExperimentClient":
    from export.client.experiment_client import ExperimentClient
    from export.client.ranker_client import RankerClient

    address, name, timeout = options.address, options.model_name, options.timeout
    if options.experiment is None:
        return RankerClient(address, name, version=options.version, label=options.label, timeout=timeout)
    with about("experiment"):
        return ExperimentClient(address, options.experiment, options.exposures, name, timeout=timeout)


def _recommend(options: argparse.Namespace) -> str:
    """Prints what a user may be shown, and returns the closing line."""
    from export.client.ranker_client import RankerClient
    from export.client.retrieval_client import RetrievalClient

    place = options.retriever_address or options.address
    retriever = RetrievalClient(place, options.retriever_name, timeout=options.timeout)
    asked = {"version": options.version, "label": options.label, "timeout": options.timeout}
    page = _newest_page(options)
    with RankerClient(options.address, options.model_name, retriever=retriever, **asked) as client:
        found = client.recommend(page, options.k, candidates=options.candidates, output=options.output)
    history = ", ".join(f"{len(each.item_ids)} {name}" for name, each in page.histories.items()) or "none"
    place_of = {item: place for place, item in enumerate(found.candidates, 1)}
    width = max((len(item) for item in found.scores), default=0)
    print(f"user {options.user}, history: {history}; {options.output} by item, and its place among the candidates")
    for rank, (item, score) in enumerate(found.scores.items(), 1):
        print(f"{rank:4d}  {item.ljust(width)}  {score:.6f}  {place_of[item]:5d}", flush=True)
    return (
        f"{len(found.candidates)} candidates of version {found.retrieval_version} in "
        f"{1e3 * found.retrieval_seconds:.1f} ms, ranked by version {found.ranker_version} in "
        f"{1e3 * found.ranking_seconds:.1f} ms"
    )


def _newest_page(options: argparse.Namespace) -> Page:
    """The user's newest page in a dataset, without its items; one of the ID alone if there is none."""
    if not Path(options.data).is_dir():
        return Page(options.user, ())

    import tensorflow as tf

    from export.version.request_rows import request_row
    from models.data.dataset import Dataset
    from models.data.pages import page_records
    from models.ranker.run import RowIds

    dataset = Dataset(options.data)
    ids = RowIds(dataset.items()["item_id"].to_pylist(), dataset.users()["user_id"].to_pylist())
    if options.user not in ids.users:
        return Page(options.user, ())
    row, newest = ids.users.index(options.user), (-1, b"")
    spec = {name: tf.io.FixedLenFeature([], tf.int64) for name in ("user", "timestamp")}
    for records in page_records(dataset, options.split).batch(1024):
        parsed = tf.io.parse_example(records, spec)
        own = parsed["user"] == row
        of_user = zip(parsed["timestamp"][own].numpy().tolist(), records[own].numpy().tolist(), strict=True)
        newest = max([newest, *of_user])
    if not newest[1]:
        return Page(options.user, ())
    page = Page.from_row(request_row(newest[1], ids, ()))
    return dataclasses.replace(page, item_ids=())


def _pages_in(source: str) -> list[Page]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
        document = json.loads(text)
    except OSError as error:
        raise CommandError(f"page: {source} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, or no JSON
        raise CommandError(f"page: {source} is no JSON: {error}") from error
    if isinstance(document, dict) and "instances" in document:
        document = document["instances"]
    rows: list[Any] = document if isinstance(document, list) else [document]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise PageError(f"{source} must hold a page, which is a JSON object. Received: {text.strip()[:80]}")
    return [Page.from_row(row) for row in rows]


def _logged_pages(options: argparse.Namespace, client: "RankerClient | ExperimentClient") -> Iterator[Page]:
    """Pages of a dataset, with the numbers that the ranker reads of their candidates."""
    import tensorflow as tf

    from export.version.request_rows import request_row
    from models.data.dataset import Dataset
    from models.data.pages import page_records
    from models.features.spec import STATISTICS
    from models.ranker.run import RowIds

    require_directory(options.data, "--data", "beam_pipelines.build")
    dataset = Dataset(options.data)
    ids = RowIds(dataset.items()["item_id"].to_pylist(), dataset.users()["user_id"].to_pylist())
    for record in page_records(dataset, options.split).take(options.pages).as_numpy_iterator():
        row = request_row(record, ids, STATISTICS)
        inputs = client.inputs_of(row["user_id"])
        for name in STATISTICS:
            if name not in inputs:
                del row[name]
        page_id = tf.train.Example.FromString(record).features.feature["page_id"].bytes_list.value[0].decode()
        yield Page.from_row(row | {"page_id": page_id})


def _report(page: Page, scores: dict[str, float], output: str, client: "RankerClient | ExperimentClient") -> str:
    history = ", ".join(f"{len(history.item_ids)} {name}" for name, history in page.histories.items()) or "none"
    width = max((len(item) for item in scores), default=0)
    lines = [f"user {page.user_id}, query {page.query!r}, history: {history}; {_ranked_by(client)}; {output} by item"]
    lines += [f"{rank:4d}  {item.ljust(width)}  {score:.6f}" for rank, (item, score) in enumerate(scores.items(), 1)]
    return "\n".join(lines)


def _ranked_by(client: "RankerClient | ExperimentClient") -> str:
    from export.client.experiment_client import ExperimentClient

    version = f"version {client.version}"
    if not isinstance(client, ExperimentClient):
        return version
    return f"{version}, arm {client.arm.name}" if client.arm is not None else f"{version}, in no arm"


if __name__ == "__main__":
    run_command(main)
