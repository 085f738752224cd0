"""Whether the whole chain of commands runs with each way to pre-train, on the shipped sample.

    python -m benchmarks.encoder.chain [--work-dir DIR] [--jobs N] [--quick]

For each method: `models.pretrain --method M`, `models.embed`, `models.whiten`, `models.cluster`, `models.train_ctr`
with cluster IDs, `models.evaluate` and `export.saved_model`, as a user runs them. The logs are the sample's, with 300
users and 3,000 pages on its 1,200 photos. Each method has its own preset for a CPU (a small ConvNet, M6's transformer,
or Lite0 as published for `none`) and one epoch; so has the ranker, with one member.

These figures show that the chain runs, not which method is best: a few steps teach an encoder next to nothing, and
behaviour is simulated. The seconds are those of the whole command `models.pretrain`, beside whatever else is running.
A method that is done is kept in the work directory, so that an interrupted benchmark goes on; remove it there after
changing code. `--quick` runs `courier`, `clip` and `none`.
"""

import argparse
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.text_file import read_json, write_json
from benchmarks.base import WORK, benchmark_parser, run_benchmark, run_module, set_options

USERS, PAGES = 300, 3000
BATCH_SIZE = 64  # of the presets
METHODS = ("courier", "supervised", "simclr", "simsiam", "moco_v2", "swav", "clip", "maskclip", "m6_moe", "none")
CHAINS: dict[str, tuple[str, Sequence[str]]] = {
    **{method: (method, ()) for method in METHODS},
    "courier, titles": ("courier", ("courier.titles=true",)),
}
QUICK = ("courier", "clip", "none")


def build_dataset(work_dir: Path) -> Path:
    """The dataset of the work directory, built if it is not there."""
    logs, dataset = work_dir / "logs", work_dir / "dataset"
    work_dir.mkdir(parents=True, exist_ok=True)
    if not dataset.exists():
        sizes = ("--users", USERS, "--pages", PAGES)
        run_module("beam_pipelines.datasets.sample", "--output", logs, *sizes, "--overwrite", log=work_dir / "logs.log")
        run_module("beam_pipelines.build", "--logs", logs, "--output", dataset, log=work_dir / "dataset.log")
    return dataset


def run_chain(name: str, dataset: Path, directory: Path) -> dict[str, Any]:
    """Runs the commands of one method, if that is not done yet.

    Args:
        name: of the chain.
        dataset: that all chains share.
        directory: of this chain; keeps its artifacts and the output of each command.

    Returns:
        `steps` and `similarity_gauc` of the encoder, null where it does not learn; `pretrain_seconds`; `gauc` of the
        ranker on the test pages; `golden_requests` that the exported version answered as recorded, with all other gates
        passed.
    """
    done = directory / "run.json"
    if done.exists():
        return read_json(done)
    directory.mkdir(parents=True, exist_ok=True)
    method, overrides = CHAINS[name]

    def command(module: str, output: str, *arguments: object, option: str = "--output") -> str:
        """Runs a command and returns what it ends with."""
        log = directory / f"{module}.log"
        replaced = ("--overwrite",) if option == "--output" else ()
        run_module(module, option, directory / output, *replaced, *arguments, log=log)
        return log.read_text().strip().splitlines()[-1]

    data = ("--data", dataset)
    values = overrides if method == "none" else (*overrides, "epochs=1", f"batch_size={BATCH_SIZE}")
    start = time.monotonic()
    options = set_options(values)
    trained = command("models.pretrain", "encoder", *data, "--method", method, *options)
    seconds = time.monotonic() - start
    command("models.embed", "embeddings", *data, "--encoder", directory / "encoder")
    command("models.whiten", "whitened", *data, "--embeddings", directory / "embeddings", "--dim", 32)
    command("models.cluster", "clusters", "--embeddings", directory / "whitened")
    clusters = ("--image-feature", "cluster_id", "--clusters", directory / "clusters")
    command("models.train_ctr", "ranker", *data, *clusters, "--set", "epochs=1", "--set", "ranker.members=1")
    command("models.evaluate", "report", *data, "--model", directory / "ranker")
    report = ("--report", directory / "report")
    exported = command(
        "export.saved_model", "serving", *data, "--model", directory / "ranker", *report, option="--base-path"
    )
    version = re.search(r"version \d+ in (\S+): passed all gates", exported)
    if version is None:
        raise InputError(f"{name}: no version that passed all gates; export.saved_model ended with: {exported}")
    from export.version.recorded_requests import read_golden

    pages = re.search(r"\((\d+) pages", trained)
    similarity = re.search(r"similarity GAUC (\d\.\d+)", trained)
    (ranker,) = read_json(directory / "report/metrics.json")["models"].values()
    run = {
        "steps": int(pages[1]) // BATCH_SIZE if pages else None,
        "pretrain_seconds": seconds,
        "similarity_gauc": float(similarity[1]) if similarity else None,
        "gauc": ranker["all"]["gauc_page_mean"],
        "golden_requests": len(read_golden(Path(version[1]))),
    }
    write_json(done, run)
    print(f"{name}: {run}", flush=True)
    return run


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the chains that are not done yet; one that fails does not keep the others from being run."""
    dataset = build_dataset(args.work_dir)
    names = QUICK if args.quick else tuple(CHAINS)
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = {name: pool.submit(run_chain, name, dataset, args.work_dir / name.replace(", ", "_")) for name in names}
    return {"users": USERS, "pages": PAGES, "chains": {name: run.result() for name, run in runs.items()}}


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="three of the methods")
    parser.add_argument("--work-dir", type=Path, default=WORK / "encoder_chain", help="what is there is reused")
    parser.add_argument("--jobs", type=int, default=1, help="methods at a time")
    run_benchmark("encoder_chain", parser, measure)


if __name__ == "__main__":
    main()
