"""Training the image encoder against the same network in PyTorch, and the memory that checkpointing saves.

    make bench-env
    nice -n -5 .venv/bin/python -m benchmarks.encoder.speed [--quick]

Swin-T at 224 x 224 pixels in float32 on two cores, without drop path: forward, backward and Adam. The peer is
`transformers.SwinModel` in eager PyTorch (`peers/torch_swin.py`), in a process of its own. Both start from the same
weights; that they give the same embeddings and the same losses is checked. The two sides step in turns, so that other
work on the machine hits both, and a ratio is the median over the pairs of steps. PyTorch's threads wait without
spinning: spinning ones make it several times slower wherever something else runs.

- images: one step on `--batch` distinct pictures. `_compiled` is against `torch.compile`.
- pages: one step with the whole COURIER loss on pages of 5 candidates and 5 clicks. The peer encodes every slot, as
  published code does; ours encodes a batch's distinct pictures once. How much they repeat is derived from the paper:
  its batches of 3,072 pages have 30,720 slots over a catalogue of 35.5 million pictures; with a popularity after Zipf's
  law of exponent 1, 58 % of them are distinct. So many pages do not fit here. `page_images` are few pages drawn over a
  catalogue small enough that the same share is distinct; `small_batch_page_images` are as many pages drawn over the
  whole catalogue, where little repeats.
- memory: the largest resident size during training steps less that just before the first one, when weights, Adam's
  variables and the traced graph are there: activations, gradients and whatever is temporary. With the paper's drop
  path, in a process for each side.

`--quick` takes fewer repeats and leaves out `torch.compile`; its figures are null then. Page figures count slots per
second on both sides.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from benchmarks.base import benchmark_parser, peak_memory_mb, peer_python, run_benchmark, status_mb, use_two_cores
from benchmarks.encoder.sides import (
    CANDIDATES,
    CLICKS,
    EMBEDDING_DIM,
    LEARNING_RATE,
    PAPER_CATALOGUE,
    PAPER_SLOTS,
    SIZE,
    SWIN_PEER,
    Peer,
    Step,
    catalogue_of_share,
    compare,
    distinct_share,
    draw_pages,
)
from models.data.pretraining_pages import distinct_pictures
from models.pretraining.courier import Courier
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from models.vision.swin_weights import load_swin_weights

THREADS = 2
TOLERANCE = 1e-4


def page_batch(drawn: np.ndarray, pool: np.ndarray) -> tuple[dict[str, tf.Tensor], dict[str, np.ndarray]]:
    """A batch of pages for both sides: with distinct pictures for ours, with a picture per slot for the peer."""
    _, number = np.unique(drawn, return_inverse=True)
    number = number.reshape(drawn.shape).astype(np.int32)
    clicked = np.zeros((len(drawn), CANDIDATES), bool)
    clicked[:, 0] = True
    pages = {"candidate_picture": number[:, :CANDIDATES], "click_picture": number[:, CANDIDATES:], "clicked": clicked}
    ours = distinct_pictures(
        {name: tf.constant(values) for name, values in pages.items()}, lambda numbers: tf.gather(pool, numbers)
    )
    return ours, {"slots": pool[number.ravel()], "clicked": clicked}


def training_step(model: Any, loss: Callable[[], tf.Tensor]) -> Callable[[], float]:
    """One step of Adam on a loss as a compiled graph; gives the loss."""
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value

    step.get_concrete_function()
    return lambda: float(step())


def timed(step: Callable[[], float]) -> Step:
    """Runs one training step of ours."""
    start, cpu = time.perf_counter(), time.process_time()
    loss = step()
    return Step(time.perf_counter() - start, time.process_time() - cpu, loss)


def new_encoder(work: Path) -> ImageEncoder:
    """Swin-T and its projection with the peer's first weights."""
    encoder = ImageEncoder(Swin(drop_path=0.0), EMBEDDING_DIM)
    load_swin_weights(encoder.backbone, work / "model.safetensors")
    projection = np.load(work / "projection.npz")
    encoder.projection.set_weights([projection["weight"].T, projection["bias"]])
    return encoder


def memory_of_training(checkpointing: bool, batch: int) -> tuple[float, float]:
    """Peak memory of training steps beyond what was there before, in MB, and processor seconds of one step."""
    set_threads()
    swin = Swin(checkpointing=checkpointing)
    swin.build((None, None, None, 3))
    pictures = tf.random.stateless_normal((batch, SIZE, SIZE, 3), (0, 0))
    step = training_step(swin, lambda: tf.reduce_mean(tf.square(swin(pictures, training=True))))
    before = status_mb("VmRSS")
    seconds = [timed(step).cpu_seconds for _ in range(3)]
    return peak_memory_mb() - before, min(seconds)


def compare_memory(batch: int, repeats: int) -> dict[str, float]:
    """Runs training with and without checkpointing in turns, each in a new process."""
    taken: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in tqdm(range(repeats), desc="memory of training", unit="pair"):
        for checkpointing, runs in taken.items():
            with get_context("spawn").Pool(1) as process:
                runs.append(process.apply(memory_of_training, (checkpointing, batch)))
    plain, checkpointed = ([statistics.median(column) for column in zip(*runs, strict=True)] for runs in taken.values())
    return {
        "checkpoint_memory_ratio": round(checkpointed[0] / plain[0], 3),
        "checkpoint_cpu_seconds_ratio": round(checkpointed[1] / plain[1], 3),
        "step_memory_mb": round(plain[0]),
        "step_memory_mb_checkpointing": round(checkpointed[0]),
    }


def set_threads() -> None:
    """Both sides compute with two threads."""
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="fewer repeats, without torch.compile")
    parser.add_argument("--batch", type=int, default=8, help="pictures per step")
    parser.add_argument("--pages", type=int, default=4, help="pages per step; each takes the peer 2 GB")
    parser.add_argument("--memory-batch", type=int, default=16, help="pictures per step where memory is measured")
    run_benchmark("encoder_speed", parser, measure)


def measure(args: argparse.Namespace) -> dict[str, float | str | None]:
    """Measures everything and prints the table."""
    use_two_cores()
    set_threads()
    repeats = 3 if args.quick else 9

    result: dict[str, float | str | None] = compare_memory(args.memory_batch, 1 if args.quick else 3)
    print(json.dumps(result), flush=True)
    rng = np.random.default_rng(0)
    slots = args.pages * (CANDIDATES + CLICKS)
    pool = rng.integers(0, 256, (slots, SIZE, SIZE, 3), np.uint8)
    share = distinct_share(PAPER_SLOTS, PAPER_CATALOGUE)
    catalogues = {"page_images": catalogue_of_share(slots, share), "small_batch_page_images": PAPER_CATALOGUE}
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        np.save(work / "pictures.npy", pool[: args.batch])
        batches = {}
        for name, catalogue in catalogues.items():
            drawn = draw_pages(args.pages, catalogue, rng)
            batches[name], theirs = page_batch(drawn, pool)
            np.savez(work / f"pages_{name}.npz", **theirs)
            result[f"{name}_distinct_share"] = round(len(np.unique(drawn)) / slots, 3)
        peer = Peer(SWIN_PEER, work, peer_python("bench"), "--embedding-dim", EMBEDDING_DIM, "--threads", THREADS)

        encoder = new_encoder(work)
        pictures = tf.constant(pool[: args.batch])
        peer.ask("embed")  # starts over with the first weights, as every comparison below
        difference = float(np.abs(encoder(pictures).numpy() - np.load(work / "embeddings.npy")).max())
        if difference > TOLERANCE:
            sys.exit(f"the two networks differ by {difference} on the same weights")
        result["largest_difference"] = difference
        print(f"the same embeddings on the same weights: largest difference {difference:.1e}", flush=True)

        for name, batch in batches.items():
            courier = Courier(new_encoder(work))

            def loss(courier: Courier = courier, batch: dict[str, tf.Tensor] = batch) -> tf.Tensor:
                return courier.compute_loss(x=batch, y_pred=courier(batch, training=True))

            step = training_step(courier, loss)
            peer.ask("embed")
            sides = {"": lambda step=step: timed(step), "torch": lambda name=name: peer.step(f"pages_{name}")}
            result |= compare(name, slots, repeats, sides, TOLERANCE)
        step = training_step(encoder, lambda: tf.reduce_mean(tf.square(encoder(pictures, training=True))))
        sides = {"": lambda: timed(step), "torch": lambda: peer.step("images")}
        if not args.quick:
            sides["torch_compiled"] = lambda: peer.step("images_compiled")
        peer.ask("embed")
        images = compare("images", args.batch, repeats, sides, TOLERANCE)
        if args.quick:
            images |= {key.replace("torch", "torch_compiled"): None for key in images if "torch" in key}
        result |= images
    result["load_average"] = round(os.getloadavg()[0], 1)

    print()
    for name, value in result.items():
        print(f"{name:48s}{'-' if value is None else value:>12}")
    print(f"two threads, float32, {SIZE} x {SIZE}; torch {peer.version}, tensorflow {tf.__version__}")
    return result


if __name__ == "__main__":
    main()
