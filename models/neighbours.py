"""Shows what embeddings hold alike: `python -m models.neighbours`.

With `--item` it prints the nearest neighbours of these items. Without, it reports how much embeddings know of the
labels of the item table, which take no part in pre-training. `--html` writes a page to look at.
"""

import argparse

from beam_pipelines.format.errors import InputError, about
from beam_pipelines.format.location import as_location, storage_errors
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.format.text_file import write_json
from beam_pipelines.shell.command import ArgumentParser, command, run_command
from beam_pipelines.shell.report import aligned


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Nearest neighbours of items, and what embeddings know of labels nobody taught them.")
    add = parser.add_argument
    add("--data", default="artifacts/dataset", help="from beam_pipelines.build")
    add("--embeddings", default="artifacts/embeddings", help="from models.embed")
    add("--compare", metavar="EMBEDDINGS", help="other embeddings of the same items, shown beside")
    add(
        "--item",
        dest="items",
        nargs="+",
        default=[],
        metavar="ID",
        help="items whose neighbours are shown (unset: the report)",
    )
    add("-k", type=int, default=10, help="neighbours of each item")
    add("--metric", choices=("euclidean", "cosine"), default="euclidean", help="distance of embeddings")
    add(
        "--labels",
        metavar="NAME,NAME",
        help="columns of the item table to measure by; the page shows the first 2 (unset: category and every label_*)",
    )
    add("--queries", type=int, default=20_000, help="items that the report looks up the neighbours of, at most")
    add("--html", metavar="FILE", help="page to write: seeds with neighbours, clusters, t-SNE maps")
    add("--clusters", help="from models.cluster, to show on the page")
    add("--output", metavar="FILE", help="report to write as JSON")
    add("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Prints the neighbours or the report, writes the page and returns the closing line."""
    _check(options)
    from models.clustering.clusters import Clusters
    from models.embeddings.inspection import Inspection
    from models.embeddings.label_report import report_tables

    labels = None if options.labels is None else options.labels.split(",")
    inspection = Inspection(
        options.data, options.embeddings, options.compare, labels=labels, metric=options.metric, seed=options.seed
    )
    clusters = None
    if options.clusters:
        with about("clusters"):
            clusters = Clusters.load(options.clusters)
            clusters.check_matches(inspection.dataset)
    inspection.check_k(options.k)
    notice = inspection.dataset.manifest.notice
    written = []
    if options.items:
        tables = inspection.neighbour_tables(options.items, options.k)
    else:
        report = inspection.report(k=options.k, queries=options.queries)
        tables = report_tables(report)
    if notice:
        print(f"notice: {notice}")
    for table in tables:
        print(f"\n{table.title}\n{aligned(table.rows, text_columns=4 if options.items else 1)}")
    print(flush=True)
    if options.output:
        with whole_file(as_location(options.output)) as file:
            write_json(file, report)
        written.append(str(options.output))
    if options.html:
        page = inspection.page(
            items=options.items, k=options.k, clusters=clusters, tables=[] if options.items else tables
        )
        with whole_file(as_location(options.html)) as file:
            file.write_text(page, encoding="utf-8")
        written.append(str(options.html))
    subject = f"neighbours of {len(options.items)} items" if options.items else f"{len(inspection.labels)} labels"
    return f"{subject} under {' and '.join(inspection.names)}{', in ' if written else ''}{' and '.join(written)}"


def _check(options: argparse.Namespace) -> None:
    """Refuses options that cannot be used together, and outputs that cannot be written, before any work."""
    for option, value in (("k", options.k), ("queries", options.queries)):
        if value < 1:
            raise InputError(f"`{option}` must be at least 1. Received: {value}")
    if options.output and options.items:
        raise InputError(f"`output` is for the report, which `items` replaces. Received: {options.output}")
    if options.clusters and not options.html:
        raise InputError(f"`clusters` is for the page; pass `html`. Received: {options.clusters}")
    for option, path in (("html", options.html), ("output", options.output)):
        if path is None:
            continue
        file = as_location(path)
        with storage_errors(file):
            is_directory, exists = file.is_dir(), file.exists()
        if is_directory:
            raise InputError(f"`{option}` must be a file to write. Received the directory {path}")
        if exists and not options.overwrite:
            raise InputError(f"{path} exists; pass `overwrite=True` to replace it")


if __name__ == "__main__":
    run_command(main)
