"""Prints the figures of a page dataset and shows some of its pages.

Example:
    python -m beam_pipelines.inspect my_dataset --html pages.html
"""

import argparse
from pathlib import Path

from beam_pipelines.format.manifest import PRETRAINING, SPLITS
from beam_pipelines.shell.command import ArgumentParser, CommandError, command, run_command
from beam_pipelines.shell.report import aligned

DEFAULT_DATASET = Path("artifacts/dataset")


def _check_html(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise CommandError(f"--html must be a file to write. Received the directory {path}")
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists; pass --overwrite to replace it")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("dataset", type=Path, nargs="?", default=DEFAULT_DATASET, help="page dataset, from beam_pipelines.build")
    add("--split", choices=(*SPLITS, PRETRAINING), help="only this one; all of them if not given")
    add("--html", type=Path, metavar="FILE", help="page for the browser to write, with everything it needs inside")
    add("--pages", type=int, default=20, help="how many pages --html shows")
    parser.add_overwrite()
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Runs the command; see `--help`."""
    from beam_pipelines.inspection.inspection import inspect_dataset

    if options.pages < 0:
        raise CommandError(f"--pages must be at least 0. Received: {options.pages}")
    if options.html is not None:
        _check_html(options.html, options.overwrite)
    found = inspect_dataset(options.dataset, split=options.split, pages=options.pages if options.html else 0)
    print(aligned(found.figures))
    for label, value in [*found.facts, *([("notice", found.notice)] if found.notice else [])]:
        print(f"{label}: {value}", flush=True)
    if options.html is None:
        return f"inspected: {found.total.pages} pages in {options.dataset}"
    found.write_html(options.html)
    return (
        f"inspected: {found.total.pages} pages in {options.dataset}; {len(found.shown)} of them shown in {options.html}"
    )


if __name__ == "__main__":
    run_command(main)
