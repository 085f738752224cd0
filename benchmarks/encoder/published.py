"""What published ImageNet weights know of taste: how well their features order later pages of H&M, before any training.

    python -m benchmarks.encoder.published [--source DIR] [--work-dir DIR] [--seeds N] [--quick]

Orders pages that lie strictly after the pre-training window by SimScore: the mean of a candidate's 5 largest cosines to
the user's last 50 clicks. All rows order the same pages, those of `encoder_quality`:

- `raw pixels`: cosines of the pictures themselves, at half the input size;
- `random weights`: all stages of the same network before anything is loaded into it;
- `last stage`: what ImageNet's classes are told by;
- `stage 5`: the average of a stage in the middle;
- `all stages`: the averages of all stages beside each other, the preset `efficientnet_lite0`;
- `courier`: COURIER from random weights, the preset `courier_cpu`, with `--seeds` of them; 0 leaves it out.

`whitened` rows use uncorrelated components of unit variance, fitted on the items of the pre-training window, 64 or 256
of them. Nothing is fitted on the pages that are ordered. Intervals are 95 %, by a bootstrap over users, with seeds
averaged. Two speeds are measured beside them, on two cores: embedding, and steps of COURIER that fine-tune the whole
network.
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks.base import peak_memory_mb, use_two_cores
from benchmarks.encoder.quality import pixel_vectors, whiten
from benchmarks.hm.runs import TEST, VALIDATION, open_dataset, run_study, study_parser, train_runs
from benchmarks.hm.similarity_pages import Estimate, SimilarityPages, read_pages, similarity_aucs, user_bootstrap
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import PADDING
from models.data.picture_store import PictureStore
from models.pretraining.config import PretrainConfig
from models.pretraining.courier_config import build_courier
from models.training.optimizer import build_optimizer
from models.vision.config import EncoderConfig, build_encoder, load_pretrained
from models.vision.encode import encode_function, encode_pictures

PRESET = "efficientnet_lite0"
STAGES = (16, 24, 40, 80, 112, 192, 320, 1280)  # features of each
COMPONENTS = (64, 256)
BATCH = 256
STEPS = 5

Aucs = dict[str, np.ndarray]
"""By split: the AUC of each page."""


def embed_all(config: EncoderConfig, pictures: np.ndarray, published: bool) -> np.ndarray:
    """The features of all stages, `(pictures, features)`."""
    keras.utils.set_random_seed(0)
    encoder = build_encoder(config)
    if published:
        load_pretrained(encoder, config)
    encode = encode_function(encoder, pictures.shape[1:3])
    batches = (tf.constant(pictures[first : first + BATCH]) for first in range(0, len(pictures), BATCH))
    return encode_pictures(encode, batches)


def fine_tuning(dataset: Dataset, preset: str) -> dict[str, float]:
    """Time and memory of steps that train a whole network by COURIER, of a preset of `models.pretrain`."""
    config = load_config(PretrainConfig, preset)
    encoder = build_encoder(config.encoder)
    load_pretrained(encoder, config.encoder)
    model = build_courier(config.courier, encoder)
    model.compile(build_optimizer(config.optimizer, 1000))
    pages = dataset.pretraining(
        image_size=config.image_size, candidates=config.candidates, clicks=config.clicks
    ).batches(config.batch_size)
    (batch,) = pages.take(1)
    same = tf.data.Dataset.from_tensors(batch)
    before = peak_memory_mb()
    model.fit(same, verbose=0)
    start = time.monotonic()
    model.fit(same.repeat(STEPS), verbose=0)
    seconds = (time.monotonic() - start) / STEPS
    pictures = int((batch["picture_id"].numpy() >= 0).sum())
    return {
        "pictures_per_step": pictures,
        "seconds_per_step": seconds,
        "pictures_per_s": pictures / seconds,
        "memory_mb": peak_memory_mb() - before,
    }


def study(args: argparse.Namespace) -> dict:
    """Measures everything, prints the tables and returns the result."""
    use_two_cores()
    dataset = open_dataset(args.source, args.work_dir)
    print(f"notice: {dataset.manifest.notice}", flush=True)
    steps = {preset: fine_tuning(dataset, preset) for preset in ("courier_cpu", PRESET)}  # the larger one last
    print(f"fine-tuning: {steps}", flush=True)
    config = load_config(PretrainConfig, PRESET)
    store = PictureStore(dataset, config.image_size)
    has_image = store.picture_of_item >= 0
    splits = {
        name: read_pages(dataset, split, has_image) for name, split in (("validation", VALIDATION), ("test", TEST))
    }
    window_items = np.setdiff1d(read_pages(dataset, "pretrain", has_image).candidates, [PADDING])
    pictures = store.read_all()
    rows: dict[str, list[Aucs]] = {}

    def add(name: str, vectors: np.ndarray) -> None:
        """Measures vectors `(items, dim)`."""
        rows.setdefault(name, []).append({split: similarity_aucs(vectors, pages) for split, pages in splits.items()})
        print(f"{name}: " + ", ".join(f"{split} {rows[name][-1][split].mean():.4f}" for split in splits), flush=True)

    def add_whitened(name: str, vectors: np.ndarray) -> None:
        for components in COMPONENTS:
            if components <= vectors.shape[1]:
                add(f"{name}, whitened to {components}", whiten(vectors, window_items, components))

    add("raw pixels", pixel_vectors(pictures, 2)[store.picture_of_item])
    vectors = embed_all(config.encoder, pictures, published=False)[store.picture_of_item]
    add("random weights", vectors)
    add_whitened("random weights", vectors)
    start = time.monotonic()
    vectors = embed_all(config.encoder, pictures, published=True)
    embedded_per_s = len(pictures) / (time.monotonic() - start)
    vectors = vectors[store.picture_of_item]
    ends = np.cumsum(STAGES)
    for stage in (8, 5):
        of_stage = vectors[:, ends[stage - 1] - STAGES[stage - 1] : ends[stage - 1]]
        name = "last stage" if stage == len(STAGES) else f"stage {stage}"
        add(name, of_stage)
        add_whitened(name, of_stage)
    add("all stages", vectors)
    add_whitened("all stages", vectors)
    if args.seeds:
        for _, _, run in train_runs(dataset, args.work_dir, args.config, {"courier": args.set}, args.seeds, args.jobs):
            add("courier", run.embeddings)
            add_whitened("courier", run.embeddings)
    return {
        "notice": dataset.manifest.notice,
        "image_size": list(config.image_size),
        "courier_seeds": args.seeds,
        "embedded_pictures_per_s": embedded_per_s,
        "fine_tuning": steps[PRESET],
        "courier_cpu": steps["courier_cpu"],
        **{split: _figures(split, pages, rows) for split, pages in splits.items()},
    }


def _figures(split: str, pages: SimilarityPages, rows: dict[str, list[Aucs]]) -> dict:
    """Prints the table of a split and returns what it says: each row, and what the best published one has more."""
    mean = {name: np.mean([aucs[split] for aucs in seeds], axis=0) for name, seeds in rows.items()}
    users = len(np.unique(pages.user))
    best = f"all stages, whitened to {COMPONENTS[0]}"
    print(f"\n{split}: {len(pages.user)} pages of {users} users\n{'':32s}{'GAUC':26s}{best} less this")
    figures: dict = {"pages": len(pages.user), "users": users, "rows": {}}
    for name, values in mean.items():
        gauc, gain = user_bootstrap(values, pages.user), user_bootstrap(mean[best] - values, pages.user)
        print(f"{name:32s}{gauc!s:26s}{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
        figures["rows"][name] = {"gauc": _listed(gauc), "gain": None if name == best else _listed(gain)}
    return figures


def _listed(estimate: Estimate) -> list[float]:
    return [round(value, 4) for value in estimate]


if __name__ == "__main__":
    run_study("encoder_published", study, study_parser(__doc__))
