"""Shows what embeddings hold alike: `python -m models.neighbours`.

With `--item` it prints the nearest neighbours of these items. Without, it reports how much embeddings know of the
labels of the item table, which take no part in pre-training. `--html` writes a page to look at.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_pipelines.format.errors import about
from beam_pipelines.format.outputs import whole_file
from beam_pipelines.shell.command import ArgumentParser, CommandError, require_directory, run_command
from beam_pipelines.shell.report import aligned, write_json
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.data.shown_pictures import LABEL_PREFIX
from models.embeddings.embeddings import Embeddings, EmbeddingsMetadata
from models.embeddings.label_consistency import label_codes
from models.embeddings.label_report import label_report, report_tables
from models.embeddings.neighbours import METRICS, Neighbours, largest_k
from models.embeddings.neighbours_html import render
from models.embeddings.page_contents import PageContents, item_texts

SHOWN_LABELS = 2  # that pictures are marked and maps are coloured with
SHOWN_SEEDS = 10


def main(argv: Sequence[str] | None = None) -> str:
    """Prints the neighbours or the report, writes the page and returns the closing line."""
    parser = ArgumentParser("Nearest neighbours of items, and what embeddings know of labels nobody taught them.")
    add = parser.add_argument
    add("--data", type=Path, default=Path("artifacts/dataset"), help="from beam_pipelines.build")
    add("--embeddings", type=Path, default=Path("artifacts/embeddings"), help="from models.embed")
    add("--compare", type=Path, metavar="EMBEDDINGS", help="other embeddings of the same items, shown beside")
    add("--item", nargs="+", default=[], metavar="ID", help="items whose neighbours are shown (unset: the report)")
    add("-k", type=int, default=10, help="neighbours of each item")
    add("--metric", choices=METRICS, default="euclidean", help="distance of embeddings")
    add(
        "--labels",
        metavar="NAME,NAME",
        help=f"columns of the item table to measure by; the page shows the first {SHOWN_LABELS} "
        f"(unset: category and every {LABEL_PREFIX}*)",
    )
    add("--queries", type=int, default=20_000, help="items that the report looks up the neighbours of, at most")
    add("--html", type=Path, metavar="FILE", help="page to write: seeds with neighbours, clusters, t-SNE maps")
    add("--clusters", type=Path, help="from models.cluster, to show on the page")
    add("--output", type=Path, metavar="FILE", help="report to write as JSON")
    add("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_overwrite()
    args = parser.parse_args(argv)

    for option, value in (("-k", args.k), ("--queries", args.queries)):
        if value < 1:
            raise CommandError(f"{option} must be at least 1. Received: {value}")
    if args.output and args.item:
        raise CommandError(f"--output is for the report, which --item replaces. Received: {args.output}")
    if args.clusters and not args.html:
        raise CommandError(f"--clusters is for the page; pass --html. Received: {args.clusters}")
    for option, path in (("--html", args.html), ("--output", args.output)):
        if path and path.is_dir():
            raise CommandError(f"{option} must be a file to write. Received the directory {path}")
        if path and path.exists() and not args.overwrite:
            raise CommandError(f"{path} exists; pass --overwrite to replace it")

    dataset = Dataset(require_directory(args.data, "--data", "beam_pipelines.build"))
    items = dataset.items()
    labels = _labels(args.labels, items)
    if not labels and not args.item:
        raise CommandError(
            f"--data: no item of {args.data} has a category or a {LABEL_PREFIX}* to report on; pass --item"
        )
    embeddings, has_image = _load(dataset, args.embeddings, args.compare)
    largest = largest_k(int(has_image.sum()))
    if args.k > largest:
        raise CommandError(
            f"-k must be at most {largest} for {has_image.sum()} items with a picture. Received: {args.k}"
        )
    asked = _rows(args.item, items, has_image)
    cluster_ids = None
    if args.clusters:
        with about("clusters"):
            clusters = Clusters.load(args.clusters)
            cluster_ids = clusters.ids
        _check(clusters.metadata.embeddings, "--clusters", dataset)

    indexes = {}
    for option, (name, vectors) in zip(("--embeddings", "--compare"), embeddings.items(), strict=False):
        try:
            indexes[name] = Neighbours(vectors, has_image, args.metric)
        except ValueError as error:
            raise CommandError(f"{option} {name}: {error}") from error
    if dataset.manifest.notice:
        print(f"notice: {dataset.manifest.notice}")
    report, tables = None, []
    if args.item:
        for name, index in indexes.items():
            _print_neighbours(name, index, asked, args.k, items)
    else:
        codes = {name: label_codes(values) for name, values in labels.items()}
        titles = label_codes(item_texts(items, "title"))
        report = {
            "notice": dataset.manifest.notice,
            "dataset_digest": dataset.manifest.digest(),
            "seed": args.seed,
            **label_report(
                indexes,
                embeddings,
                has_image,
                codes,
                titles,
                k=args.k,
                queries=args.queries,
                seed=args.seed,
            ),
        }
        tables = report_tables(report)
        for table in tables:
            print(f"\n{table.title}\n{aligned(table.rows)}")
        print(flush=True)
    written = []
    if args.output:
        with whole_file(args.output) as file:
            write_json(file, report)
        written.append(str(args.output))
    if args.html:
        page = PageContents(dataset, dict(list(labels.items())[:SHOWN_LABELS]), args.seed)
        shown = asked if args.item else page.draw(np.flatnonzero(has_image), SHOWN_SEEDS)
        text = render(
            args.data.resolve().name,
            dataset.manifest.notice,
            list(page.labels),
            tables,
            page.seeds(indexes, shown, args.k),
            page.clusters(cluster_ids) if args.clusters else [],
            page.maps(embeddings, has_image, args.metric),
        )
        with whole_file(args.html) as file:
            file.write_text(text, encoding="utf-8")
        written.append(str(args.html))
    subject = f"neighbours of {len(asked)} items" if args.item else f"{len(labels)} labels"
    return f"{subject} under {' and '.join(embeddings)}{', in ' if written else ''}{' and '.join(written)}"


def _labels(names: str | None, items: pa.Table) -> dict[str, list[str]]:
    """The values of the labels asked for, by item row."""
    known = ["category", *(name for name in items.column_names if name.startswith(LABEL_PREFIX))]
    asked = known if names is None else list(dict.fromkeys(names.split(",")))
    for name in asked:
        if name not in known:
            raise CommandError(f"--labels must be among {', '.join(known)}. Received: {name}")
    labels = {name: item_texts(items, name) for name in asked}
    for name, values in labels.items():
        if names is not None and not any(values):
            raise CommandError(f"--labels: no item has a value. Received: {name}")
    return {name: values for name, values in labels.items() if any(values)}


def _load(dataset: Dataset, *directories: Path | None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Opens embeddings of the dataset's items, by name, and which items have a picture."""
    paths = dict(zip(("--embeddings", "--compare"), filter(None, directories), strict=False))
    names = [path.name for path in paths.values()]
    embeddings = {}
    for option, path in paths.items():
        with about(option[2:]):
            loaded = Embeddings.load(path)
            vectors, has_image = loaded.vectors, loaded.has_image
        _check(loaded.metadata, option, dataset)
        embeddings[path.name if len(set(names)) == len(names) else str(path)] = vectors
    if len(embeddings) < len(paths):
        raise CommandError(f"--compare must be other embeddings than --embeddings. Received: {paths['--compare']}")
    return embeddings, has_image


def _check(metadata: EmbeddingsMetadata, option: str, dataset: Dataset) -> None:
    """Refuses what was made for other items or pictures."""
    manifest = dataset.manifest
    if metadata.item_ids_sha256 != manifest.items.ids_sha256 or metadata.pictures_sha256 != manifest.pictures_sha256:
        raise CommandError(
            f"{option}: made for the items or pictures of another dataset than {dataset.path}; run models.embed on "
            "this one"
        )


def _rows(item_ids: Sequence[str], items: pa.Table, has_image: np.ndarray) -> np.ndarray:
    """The rows of the items that were asked for."""
    row_of_item = {item_id: row for row, item_id in enumerate(items["item_id"].to_pylist())} if item_ids else {}
    for item_id in item_ids:
        if item_id not in row_of_item:
            raise CommandError(f"--item must be an ID of the item table. Received: {item_id}")
        if not has_image[row_of_item[item_id]]:
            raise CommandError(f"--item must have a picture. Received: {item_id}")
    return np.array([row_of_item[item_id] for item_id in item_ids], np.int64)


def _print_neighbours(name: str, index: Neighbours, rows: np.ndarray, k: int, items: pa.Table) -> None:
    nearest = index.search(rows, k)
    columns = {column: item_texts(items, column) for column in ("item_id", "category", "title")}
    for seed, found, distances in zip(*nearest, strict=True):
        print(f"\n{name}: {'  '.join(filter(None, (values[seed] for values in columns.values())))}")
        table = [["", "item ID", "category", "title", f"{index.metric} distance"]]
        for place, (row, distance) in enumerate(zip(found, distances, strict=True), start=1):
            table.append([str(place), *(values[row] for values in columns.values()), f"{distance:.4f}"])
        print(aligned(table, text_columns=4))
    print(flush=True)


if __name__ == "__main__":
    run_command(main)
