"""What pre-training is worth to classification and image search, after fine-tuning: like the article's Tables 5 and 6.

    python -m benchmarks.encoder.downstream_tasks [--clothing DIR] [--data DATASET] [--tasks TASK ...]
        [--starts START ...] [--work-dir DIR] [--minutes N] [--quick]

Three tasks, each learned by `models.finetune` from several starts, of the same network and with the same budget:

- `clothing`: ten kinds of clothes on 3,068 photos, measured on the source's 341 validation photos;
- `article types`: the product type of H&M's articles, a quarter of the products held out;
- `image search`: which photos show the same product of H&M (seven digits of the article number), in any of its
  colours; a quarter of the products is held out. One photo of each that has several is searched with; the others are in
  the gallery, beside those of products that have but one.

Starts: the small ConvNet of the CPU presets from random weights, or pre-trained by COURIER or SwAV on the pages of
`--data` before training; and EfficientNet-Lite0 from random or published ImageNet weights. Pre-training has seen photos
of held-out products of H&M, never which belong together, nor their types. COURIER has 8 epochs, SwAV, which sees six
crops of each photo, 3.

Differences are from random weights of the same network, on the same photos, with 95 % intervals by a bootstrap over
products: they say nothing of other seeds. Encoders and cells that are done are kept in the work directory; `--minutes`
ends after the cell during which so many have passed, and the same command goes on.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.text_file import read_json
from benchmarks.base import WORK, benchmark_parser, run_benchmark, use_two_cores
from models.config import load_config
from models.embeddings.identity_recall import RANKS
from models.finetuning.config import FinetuneConfig
from models.finetuning.finetune import MEASURED_FILE, METRICS_FILE, finetune
from models.metrics.bootstrap import bootstrap_counts, interval, resampled_sums
from models.pretraining.config import PretrainConfig
from models.pretraining.methods import PRESETS
from models.pretraining.pretrain import pretrain

PRODUCT_DIGITS = 7
LITE = [
    "image_size=[64, 48]",
    "encoder={embedding_dim: null, backbone: {name: efficientnet_lite}, weights: WEIGHTS}",
    "optimizer.learning_rate=0.0005",
]
RANDOM = "random"
STARTS = ["published", "courier", "swav"]
QUICK = ["epochs=1"]


class Task(NamedTuple):
    """What is learned.

    Attributes:
        task: of `finetune`.
        source: the option that says where its pictures are.
        epochs: of the ConvNet, and of EfficientNet-Lite0, which costs more.
        measures: names of what is measured.
    """

    task: str
    source: str
    epochs: tuple[int, int]
    measures: tuple[str, ...]


_TOP = ("top1", "top5")
TASKS = {
    "clothing": Task("classify", "clothing", (12, 4), _TOP),
    "image search": Task("retrieve", "data", (8, 2), tuple(f"recall_{k}" for k in RANKS)),
    "article types": Task("classify", "data", (4, 1), _TOP),
}
PRETRAINING_EPOCHS = {"courier": 8, "swav": 3}
NETWORKS = {"ConvNet": (RANDOM, "courier", "swav"), "EfficientNet-Lite0": (RANDOM, "published")}


def pretrained(method: str, args: argparse.Namespace) -> Path:
    """The encoder's run of a method, which is made if it is not there yet."""
    run = args.work_dir / method
    if not run.is_dir():
        epochs = 1 if args.quick else PRETRAINING_EPOCHS[method]
        config = load_config(PretrainConfig, PRESETS[method], [f"epochs={epochs}"])
        pretrain(args.data, run, method=method, config=config)
    return run


def fine_tune(name: str, network: str, start: str, args: argparse.Namespace, output: Path) -> None:
    """Trains and measures a cell."""
    task = TASKS[name]
    overrides = [f"epochs={task.epochs[network != 'ConvNet']}"]
    if network != "ConvNet":
        weights = "null" if start == RANDOM else "efficientnet_lite0"
        overrides += [each.replace("WEIGHTS", weights) for each in LITE]
    finetune(
        getattr(args, task.source),
        output,
        task=task.task,
        encoder=pretrained(start, args) if start in PRETRAINING_EPOCHS else None,
        product_digits=PRODUCT_DIGITS,
        config=load_config(FinetuneConfig, None, [*overrides, *(QUICK if args.quick else [])]),
    )


def gain(hits: np.ndarray, base: np.ndarray, products: np.ndarray) -> list[list[float]]:
    """Differences of each measure, with the ends of their intervals."""
    product = np.unique(products, return_inverse=True)[1]
    counts = bootstrap_counts(int(product.max()) + 1)
    sums = resampled_sums(np.stack([np.ones(len(product)), *(hits - base).T]), counts, product)
    shares = sums[1:] / sums[:1]
    low, high = interval(shares[:, 1:])
    return [[float(shares[n, 0]), float(low[n]), float(high[n])] for n in range(len(shares))]


def cells(tasks: Sequence[str], starts: Sequence[str]) -> list[tuple[str, str, str]]:
    """Task, network and start of each cell, as they are trained one after the other; SwAV takes longest and is last."""
    chosen = [(network, start) for network, known in NETWORKS.items() for start in known if start in starts]
    chosen.sort(key=lambda each: each[1] == "swav")
    rest = [each for each in chosen if each[1] == "swav"]
    return [(name, *each) for part in (chosen[: len(chosen) - len(rest)], rest) for name in tasks for each in part]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the cells that are not there yet and returns the figures of all."""
    use_two_cores()
    folder: Path = args.work_dir / ("quick" if args.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    places = {cell: folder / "-".join(cell).replace(" ", "_") for cell in cells(args.tasks, [RANDOM, *args.starts])}
    for cell, output in places.items():
        if not (output / METRICS_FILE).is_file():
            if args.minutes is not None and time.monotonic() - begun > 60 * args.minutes:
                raise InputError(f"{args.minutes:g} minutes have passed; repeat the command to go on")
            fine_tune(*cell, args, output)
    figures: dict[str, Any] = {}
    rows = [(name, network, start) for name in args.tasks for network, known in NETWORKS.items() for start in known]
    for name, network, start in (row for row in rows if row in places):
        metrics, measured = _read(places[name, network, start])
        base = _read(places[name, network, RANDOM])[1]
        row: dict[str, Any] = {each: metrics[each] for each in TASKS[name].measures}
        gained = gain(measured["hits"], base["hits"], measured["products"])
        row["gain"] = dict(zip(TASKS[name].measures, gained, strict=True))
        known = {key: metrics[key] for key in ("pictures", "classes", "queries", "gallery") if key in metrics}
        figures.setdefault(name, known | {"rows": {}})["rows"][f"{network}, {start}"] = row
        print(f"{name}, {network}, {start}: {row}", flush=True)
    return figures


def _read(output: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metrics of a cell, and what was measured of each photo."""
    with np.load(output / MEASURED_FILE) as file:
        measured = dict(file)
    return read_json(output / METRICS_FILE), measured


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "one epoch of each")
    shared = Path(__file__).resolve().parents[3] / "shared/data"
    parser.add_argument("--clothing", type=Path, default=shared / "clothing_small", help="photos with labels")
    parser.add_argument(
        "--data", type=Path, default=WORK / "courier/dataset", help="H&M, of benchmarks.encoder.quality"
    )
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS], default=[*TASKS], help="what is learned")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS, help="besides random weights")
    parser.add_argument("--work-dir", type=Path, default=WORK / "downstream_tasks", help="where cells are kept")
    parser.add_argument("--minutes", type=float, help="end after about so many (unset: when all is done)")
    run_benchmark("downstream_tasks", parser, measure)
