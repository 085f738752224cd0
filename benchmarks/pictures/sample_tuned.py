"""How far a ranker comes on the shipped sample, whose shoppers' true taste is known.

    python -m benchmarks.pictures.sample_tuned [--work-dir DIR] [--seeds 4] [--jobs 2] [--quick]

`benchmarks.pictures.sample` measures the defaults, as `make demo` has them. Here stands what was better on the latest
tenth of the training pages: COURIER on pictures of twice the sides with half the channels, which see texture better;
two of these, of which one learns from pictures that are mirrored and cropped at random; a ranker that reads both
embeddings beside their cosines, and of items and users only the category; pairs of a page in its loss; and as many
epochs as it takes to learn the embeddings. `--seeds` trainings of the ranker are measured one by one, and all joined to
one by `models.join_rankers`. The commands are those that a user would run, `--jobs` at a time.

Beside them `true taste`, of each shopper, which nobody can pass; and `taste by clicks`, what a judge would say who knew
how the simulation draws shoppers and how it looks at photos, but of a shopper only the newest 50 clicks: the mean
probability of a click over 30,000 simulated shoppers, weighted by how likely each would have made these clicks. The
latter is no bound: a ranker also reads the query, carts and payments.

GAUC is the mean AUC of pages; `unseen` counts only candidates that are on no training page. Intervals are 95 %, by a
bootstrap over users. What the work directory holds is not made again. `--quick` has one epoch and two seeds.
"""

import argparse
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.special import log_expit, softmax

from beam_pipelines.datasets import sample_logs
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.text_file import read_json
from benchmarks.base import WORK, benchmark_parser, run_benchmark, run_module, set_options
from benchmarks.hm.runs import TEST
from benchmarks.hm.similarity_pages import SimilarityPages, page_aucs, read_pages, user_bootstrap
from benchmarks.tables.pictures import pictures_sample_tuned
from models.data.dataset import Dataset
from models.data.pages import PADDING
from models.evaluation.report import METRICS_FILE, PARTS

ENCODER = (
    "image_size=[96, 64]",
    "encoder.backbone={name: convnet, widths: [24, 48, 96], depths: [1, 1, 1], kernel: 5, grid: [3, 2]}",
)
ENCODERS: Mapping[str, Sequence[str]] = {"plain": (), "augmented": ("augmentation=flip_crop", "seed=1")}
RANKER = (
    "ranker.features.user={}",
    "ranker.features.item={category: {type: category, match: true}}",
    "ranker.tasks={ctr: 1.0, pairwise: 1.0}",
    "epochs=16",
    "patience=4",
)
SHOPPERS, _AT_A_TIME = 30_000, 10_000


def make(module: str, output: Path, *arguments: object) -> Path:
    """Runs a command unless its output is there."""
    if not output.exists():
        run_module(module, *arguments, "--output", output, log=output.with_name(f"{output.name}.log"))
    return output


def embed(data: Path, work: Path, name: str, epochs: Sequence[str]) -> Path:
    """The embeddings of one of `ENCODERS`, learned unless they are there."""
    learning = set_options((*ENCODER, *ENCODERS[name], *epochs))
    encoder = make("models.pretrain", work / f"encoder_{name}", "--data", data, *learning)
    return make("models.embed", work / f"embeddings_{name}", "--data", data, "--encoder", encoder)


def limits(dataset: Dataset, logs: Path) -> dict[str, Any]:
    """GAUC of the true taste, and of what clicks tell of it, on the test pages that have clicks before them."""
    labels = sample_logs.read_labels(sample_logs.SAMPLE)
    photos = pq.read_table(logs / "items.parquet", columns=["item_id", "image"]).to_pylist()
    number = {image: place for place, (image, _) in enumerate(labels)}
    place_of = {photo["item_id"]: number[photo["image"]] for photo in photos}
    order = np.array([place_of[item] for item in dataset.items()["item_id"].to_pylist()])
    shown = labels[: len(order)]
    with zipfile.ZipFile(sample_logs.SAMPLE / "photos.zip") as source:
        encoded = [source.read(image) for image, _ in shown]
    look = sample_logs.look_at(encoded, np.unique([label for _, label in shown], return_inverse=True)[1])

    pages = read_pages(dataset, TEST, np.ones(len(order), bool))
    shoppers = np.array([int(user.removeprefix("u")) for user in dataset.users()["user_id"].to_pylist()])
    true = sample_logs.simulate_taste(look, int(shoppers.max()) + 1, np.random.default_rng(0))[0][:, order]
    simulated = np.concatenate(
        [
            sample_logs.simulate_taste(look, _AT_A_TIME, np.random.default_rng(seed))[0].astype(np.float32)
            for seed in range(1, 1 + SHOPPERS // _AT_A_TIME)
        ]
    )[:, order]
    likely = log_expit(sample_logs.CLICK_SCALE * simulated + sample_logs.CLICK_BIAS)
    systems = {
        "true taste": np.take_along_axis(true[shoppers[pages.user]], pages.candidates, axis=1),
        "taste by clicks": taste_by_clicks(likely, pages),
    }
    found = {}
    for name, scores in systems.items():
        mean, low, high = user_bootstrap(page_aucs(scores, pages), pages.user)
        found[name] = {"gauc": mean, "interval": [low, high]}
    return found


def taste_by_clicks(likely: np.ndarray, pages: SimilarityPages) -> np.ndarray:
    """Scores `(pages, candidates)`: the mean probability of a click over shoppers, by how likely they made the clicks.

    Args:
        likely: log-probability that a simulated shopper clicks an item, `(shoppers, items)`.
        pages: with the clicks before each.
    """
    scores = np.zeros(pages.candidates.shape)
    for page, (candidates, clicks) in enumerate(zip(pages.candidates, pages.clicks, strict=True)):
        weight = softmax(likely[:, clicks[clicks != PADDING]].sum(axis=1))
        scores[page] = weight @ np.exp(likely[:, candidates])
    return scores


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Makes everything, prints the table and returns the figures."""
    work = options.work_dir / "quick" if options.quick else options.work_dir
    if options.seeds < 2:
        raise InputError(f"--seeds: must be 2 or more, for they are joined. Received: {options.seeds}")
    work.mkdir(parents=True, exist_ok=True)
    seeds = range(2 if options.quick else options.seeds)
    epochs = ("epochs=1",) if options.quick else ()
    logs = make("beam_pipelines.datasets.sample", work / "logs")
    data = make("beam_pipelines.build", work / "dataset", "--logs", logs)
    words = set_options((*RANKER, *epochs))
    with ThreadPoolExecutor(options.jobs) as pool:
        embeddings = list(pool.map(lambda name: embed(data, work, name, epochs), ENCODERS))
        pictures = ("--image-feature", "simscore,vector", "--embeddings", *embeddings)
        runs = list(
            pool.map(
                lambda seed: make(
                    "models.train_ctr", work / f"ranker_{seed}", "--data", data, "--seed", seed, *pictures, *words
                ),
                seeds,
            )
        )
    joined = make("models.join_rankers", work / "joined", "--data", data, "--runs", *runs)
    report = make("models.evaluate", work / "report", "--data", data, "--model", *runs, joined)
    metrics = read_json(report / METRICS_FILE)
    dataset = Dataset(data)
    figures: dict[str, Any] = {
        "notice": metrics["notice"],
        "seeds": len(seeds),
        "rankers": {},
        "limits": limits(dataset, logs),
    }
    models = list(metrics["models"].values())
    for name, of_name in (("one network", models[:-1]), ("joined", models[-1:])):
        figures["rankers"][name] = {"auc": float(np.mean([model["all"]["auc"] for model in of_name]))} | {
            part: {
                "gauc": [model[part]["gauc_page_mean"] for model in of_name],
                "intervals": [model[part]["intervals"]["gauc_page_mean"] for model in of_name],
            }
            for part in PARTS
        }
    print(pictures_sample_tuned(figures))
    return figures


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one epoch each, two seeds")
    parser.add_argument("--work-dir", type=Path, default=WORK / "pictures_sample_tuned", help="what is there is reused")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    run_benchmark("pictures_sample_tuned", parser, measure)


if __name__ == "__main__":
    main()
