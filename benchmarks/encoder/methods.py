"""What each way to pre-train learns in a planted world, and what a step of it costs beside COURIER's.

    python -m benchmarks.encoder.methods [--work-dir DIR] [--seeds N] [--quick]

The world has 400 pictures of six kinds: stripes that lie, stand or slant, checks, dots and rings, in random sizes,
positions and shades of grey with a tint, with noise. (Colours would tell pictures apart.) Users
click the kind that they clicked before, which pages of 5 candidates and 5 clicks show. A title is one of three words
for the kind among two words of forty that say nothing. Each method trains a small ConvNet (M6 its own small
transformer) with its own preset, but for sizes that fit the world, for as many steps of as many pages as the others.
Then other 800 pictures of the world are embedded, without titles: KNN consistency is the share of a picture's ten
nearest by cosine that are of its kind, `gain` what it is more than with the same network's random weights; the linear
probe learns kinds on three quarters of these pictures and is measured on the last one. Intervals are 95 %, over
pictures, with seeds averaged.

A step's seconds are the median of all but the first ones; its memory is the largest resident size in training less that
just before. Runs that are done are kept in the work directory, so that an interrupted benchmark goes on.
"""

import argparse
import os
import statistics
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from beam_pipelines.format.text_file import read_json, write_json
from benchmarks.base import WORK, benchmark_parser, run_benchmark, status_mb, use_two_cores
from models.config import load_config
from models.data.pages import PADDING
from models.data.pretraining_pages import distinct_pictures
from models.embeddings.label_consistency import label_consistency, label_shares
from models.embeddings.probes import linear_probe, probe_split
from models.embeddings.vectors import l2_normalize
from models.pretraining.config import PretrainConfig
from models.pretraining.methods import METHODS
from models.text.config import build_tokenizer
from models.training.optimizer import build_optimizer
from models.vision.config import build_encoder
from models.vision.encode import encode_function, encode_pictures

KINDS = 6
SIDE = 24
PICTURES, HELD_OUT = 400, 800
PAGES = 16  # of a step
CANDIDATES = CLICKS = 5
NEIGHBOURS = 10
WARM_UP = 5  # steps whose time does not count
SHARED = [f"image_size=[{SIDE}, {SIDE}]", "encoder.weights=null", "optimizer.learning_rate=0.001"]
CONVNET = [
    "encoder.embedding_dim=64",
    "encoder.backbone={name: convnet, widths: [16, 32, 64], depths: [1, 1, 1], kernel: 3, grid: [1, 1]}",
]
WITH_TITLES = "courier, titles"
SIZES = {  # half of the augmentation leaves enough of so small a picture to see its kind
    "simclr": ["simclr.augmentation_strength=0.5"],
    "simsiam": ["simsiam.augmentation_strength=0.5"],
    "moco_v2": ["moco_v2.augmentation_strength=0.5", "moco_v2.queue_length=256", "moco_v2.momentum=0.95"],
    "swav": ["swav.augmentation_strength=0.5", "swav.prototypes=30", "swav.epsilon=0.03", "swav.freeze_steps=10"],
    "m6_moe": ["m6_moe.augmentation_strength=0.5", "encoder.backbone.patch_size=4"],
    WITH_TITLES: ["courier.titles=true"],
}


def draw_pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 `(count, side, side, 3)` and their kinds."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(KINDS, size=count)
    y, x = np.mgrid[:SIDE, :SIDE]
    pictures = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for i, k in enumerate(kind):
        dy, dx = rng.uniform(0, SIDE, 2)
        wave = 2 * np.pi / rng.uniform(4, 8)
        u, v = (x + dx) * wave, (y + dy) * wave
        slant = rng.choice([-1, 1])  # mirrored, one is the other
        shown = (
            np.sin(v),
            np.sin(u),
            np.sin((u + slant * v) / 2**0.5),
            np.sin(u) * np.sin(v),
            np.sin(u) + np.sin(v) - 0.8,
            np.sin(np.hypot(x - dx, y - dy) * wave),
        )[k]
        one, other = rng.uniform(20, 110, 1) + rng.normal(0, 8, 3), rng.uniform(140, 235, 1) + rng.normal(0, 8, 3)
        share = (shown > 0)[..., None] * rng.uniform(0.5, 1.0)
        noise = rng.normal(0, 12, (SIDE, SIDE, 3))
        pictures[i] = np.clip(one + (other - one) * share + noise, 0, 255).round()
    return pictures, kind


def draw_titles(kind: np.ndarray, seed: int) -> list[str]:
    """A title for each picture: a word for its kind and two that say nothing, in any order."""
    rng = np.random.default_rng(seed)
    words = [[f"kind{k}-{rng.integers(3)}", *(f"word{word}" for word in rng.integers(40, size=2))] for k in kind]
    return [" ".join(rng.permutation(title)) for title in words]


def page_batches(pictures: np.ndarray, kind: np.ndarray, seed: int, tokens: np.ndarray | None) -> tf.data.Dataset:
    """Endless batches of pages: one or two candidates of the user's kind are clicked, the others are of other kinds.

    Args:
        pictures, kind: of `draw_pictures`.
        seed: of the pages.
        tokens: of the titles `(pictures, length)`, or `None` where nothing reads them.
    """
    rng = np.random.default_rng(seed)
    of_kind = [np.flatnonzero(kind == k) for k in range(KINDS)]
    others = [np.flatnonzero(kind != k) for k in range(KINDS)]
    steps = []
    for _ in range(50):
        taste = rng.integers(KINDS, size=PAGES)
        clicked = np.arange(CANDIDATES) < rng.integers(1, 3, (PAGES, 1))
        candidates = np.where(
            clicked,
            [rng.choice(of_kind[t], CANDIDATES, replace=False) for t in taste],
            [rng.choice(others[t], CANDIDATES, replace=False) for t in taste],
        )
        clicks = np.array([rng.choice(of_kind[t], CLICKS, replace=False) for t in taste])
        steps.append((candidates.astype(np.int32), clicks.astype(np.int32), clicked))
    names = ("candidate_picture", "click_picture", "clicked")
    stacked = {name: np.stack(values) for name, values in zip(names, zip(*steps, strict=True), strict=True)}
    every = tf.constant(pictures)
    pages = tf.data.Dataset.from_tensor_slices(stacked).repeat()

    def batch(page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        read = distinct_pictures(page, lambda number: tf.gather(every, number))
        if tokens is not None:
            known = read["picture_id"] >= 0
            of_picture = tf.gather(tf.constant(tokens, tf.int32), tf.maximum(read["picture_id"], 0))
            read["tokens"] = tf.where(known[:, None], of_picture, PADDING)
        return read

    return pages.map(batch)


class StepTimes(keras.callbacks.Callback):
    """Takes the time of each step and the largest size of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Keras' hook."""
        if batch == 0:
            self.before_mb = status_mb("VmRSS")
        self.begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keras' hook."""
        self.seconds.append(time.perf_counter() - self.begun)


def measure_embeddings(encoder: keras.Model, pictures: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, float]:
    """The share of each picture's nearest neighbours that are of its kind, and the accuracy of a linear probe."""
    batches = tf.data.Dataset.from_tensor_slices(pictures).batch(200)
    embeddings = l2_normalize(encode_pictures(encode_function(encoder, (SIDE, SIDE)), batches))
    cosines = embeddings @ embeddings.T
    np.fill_diagonal(cosines, -np.inf)
    probe = linear_probe(embeddings, kind, probe_split(kind, np.arange(len(kind))))
    return label_shares(kind, kind[np.argsort(-cosines, axis=1)[:, :NEIGHBOURS]]), probe.top1


def train(name: str, seed: int, steps: int, path: Path) -> None:
    """Trains one method in this process and writes what is measured."""
    use_two_cores()
    pictures, kind = draw_pictures(PICTURES, seed=2 * seed)
    held_out, held_out_kind = draw_pictures(HELD_OUT, seed=2 * seed + 1)
    method = METHODS[name.partition(",")[0]]
    backbone = [] if name == "m6_moe" else CONVNET
    config = load_config(PretrainConfig, method.preset, [*SHARED, *backbone, *SIZES.get(name, [])])
    tokens = None
    if method.reads_titles(config):
        tokens = build_tokenizer(config.text)(draw_titles(kind, seed))
    keras.utils.set_random_seed(seed)
    encoder = build_encoder(config.encoder)
    untrained, untrained_probe = measure_embeddings(encoder, held_out, held_out_kind)
    model = method.build(config, encoder)
    model.compile(build_optimizer(config.optimizer, steps))
    times = StepTimes()
    batches = page_batches(pictures, kind, seed, tokens)
    history = model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=[times]).history
    trained, probe = measure_embeddings(encoder, held_out, held_out_kind)
    write_json(
        path,
        {
            "random": untrained.tolist(),
            "trained": trained.tolist(),
            "random_probe": untrained_probe,
            "probe": probe,
            "seconds": statistics.median(times.seconds[WARM_UP:]),
            "memory_mb": status_mb("VmHWM") - times.before_mb,
            "pictures": history["pictures"][0] / steps,
            "loss": history["loss"][0],
        },
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Trains what is not there yet and compares."""
    steps, seeds = (300, 1) if args.quick else (600, args.seeds)
    folder = args.work_dir / f"{steps}_steps"
    folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {}
    for name in (*METHODS, WITH_TITLES):
        for seed in range(seeds):
            path = folder / f"{name}-{seed}.json"
            if not path.exists():
                process = get_context("spawn").Process(target=train, args=(name, seed, steps, path))
                process.start()
                process.join()
            run = read_json(path)
            runs.setdefault(name, []).append(run)
            print(
                f"{name}, seed {seed}: consistency {np.mean(run['random']):.3f} with random weights, "
                f"{np.mean(run['trained']):.3f} trained; "
                f"{1000 * run['seconds']:.0f} ms and {run['memory_mb']:.0f} MB a "
                f"step of {run['pictures']:.0f} pictures, mean loss {run['loss']:.3f}",
                flush=True,
            )
    figures: dict[str, Any] = {"steps": steps, "seeds": seeds, "pages": PAGES, "chance": 1 / KINDS, "methods": {}}
    courier = runs["courier"]
    for name, of_seeds in runs.items():
        random, trained = (np.mean([run[key] for run in of_seeds], axis=0) for key in ("random", "trained"))
        gain = label_consistency(trained - random)
        means = ("random_probe", "probe", "seconds", "memory_mb", "pictures")
        row = {key: statistics.mean(run[key] for run in of_seeds) for key in means}
        half = 1.96 * gain.standard_error
        figures["methods"][name] = {
            "random": float(random.mean()),
            "trained": float(trained.mean()),
            "gain": gain.mean,
            "gain_interval": [gain.mean - half, gain.mean + half],
            **row,
            "seconds_ratio": row["seconds"] / statistics.mean(run["seconds"] for run in courier),
            "memory_ratio": row["memory_mb"] / statistics.mean(run["memory_mb"] for run in courier),
        }
    return figures


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one seed, half of the steps")
    parser.add_argument("--work-dir", type=Path, default=WORK / "encoder_methods", help="what is there is reused")
    parser.add_argument("--seeds", type=int, default=3, help="of the training and the world")
    run_benchmark("encoder_methods", parser, measure)


if __name__ == "__main__":
    main()
