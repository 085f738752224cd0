"""Training the image encoder and assigning clusters on one GPU, by Keras' JAX backend.

    python -m benchmarks.encoder.gpu [--quick]

Runs in an environment with keras, jax and jaxlib for the GPU, torch, transformers, safetensors and tqdm; without
TensorFlow, since everything measured here is backend-agnostic. Swin-T at 224 x 224 pixels in bfloat16, without drop
path: forward, backward and Adam. The peer is `transformers.SwinModel` in PyTorch under autocast
(`peers/torch_swin.py`), in a process of its own on the same GPU. Both start from the same weights; that they give the
same embeddings in float32 and the same first losses is checked. The two sides step in turns; a ratio is the median over
the pairs of steps.

- images: one step on `--batch` distinct pictures. `_compiled` is against `torch.compile`.
- pages: one step with both losses of COURIER on `--pages` pages of 5 candidates and 5 clicks, 64 as each of the paper's
  48 GPUs has. The peer encodes every slot, as published code does; ours encodes distinct pictures once, of which there
  are as many as in the paper's batches, 58 %, as `speed.py` says. Pages are full and their pictures in memory.
- memory: what a step of images takes for activations, gradients and whatever is temporary; with checkpointed
  activations as well.
- assignment: embeddings per second that `ExactAssigner` assigns to 100,000 centers of 256 dimensions, from arrays in
  the host's memory.

`--quick` takes fewer repeats and leaves out `torch.compile`.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peer needs memory too

import jax
import keras
import numpy as np
from keras import ops

from benchmarks.base import benchmark_parser, run_benchmark
from benchmarks.encoder.sides import (
    CANDIDATES,
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
from models.clustering.assignment import ExactAssigner
from models.pretraining.losses import column_contrast
from models.pretraining.reconstruction import UserIntentionReconstruction
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from models.vision.swin_weights import load_swin_weights

TOLERANCE = 1e-4
"""Between embeddings in float32."""
BFLOAT16_TOLERANCE = 0.1
"""Between first losses; `speed.py` compares them in float32."""
TEMPERATURE = 0.05
CENTERS = 100_000

Batch = dict[str, Any]


def image_loss(embeddings: Any, batch: Batch) -> Any:
    """The peer's loss on pictures alone."""
    return ops.mean(ops.square(embeddings))


def page_loss(embeddings: Any, batch: Batch) -> Any:
    """Both losses of COURIER on full pages, each a mean over its positives."""
    shown = ops.take(embeddings, batch["candidate_picture"], axis=0)
    clicks = ops.take(embeddings, batch["click_picture"], axis=0)
    return _contrast(shown, clicks, batch["clicked"]) + _contrast(clicks[:, :1], clicks[:, 1:], None)


def _contrast(candidates: Any, clicks: Any, positive: Any) -> Any:
    rows = ops.reshape(candidates, (-1, EMBEDDING_DIM))
    reconstructions = UserIntentionReconstruction()(candidates, clicks, ops.ones(clicks.shape[:2], "bool"))
    everyone = ops.ones(len(rows), "bool")
    positive = everyone if positive is None else ops.reshape(positive, -1)
    total = column_contrast(
        rows,
        ops.reshape(reconstructions, rows.shape),
        positive,
        negatives=rows,
        negatives_valid=everyone,
        temperature=TEMPERATURE,
    )
    return total / ops.sum(ops.cast(positive, "float32"))


class TrainingStep:
    """A compiled step of Adam.

    Args:
        encoder: to train; its own variables stay as they are.
        loss: of embeddings and a batch.
        batch: `pictures` and what the loss reads.

    Attributes:
        memory: bytes that a step takes besides its inputs and outputs.
    """

    def __init__(self, encoder: ImageEncoder, loss: Callable[[Any, Batch], Any], batch: Batch) -> None:
        optimizer = keras.optimizers.Adam(LEARNING_RATE)
        optimizer.build(encoder.trainable_variables)
        others = [variable.value for variable in encoder.non_trainable_variables]

        def step(weights: list[Any], slots: list[Any], batch: Batch) -> tuple[Any, list[Any], list[Any]]:
            def objective(weights: list[Any]) -> Any:
                embeddings, _ = encoder.stateless_call(weights, others, batch["pictures"], training=True)
                return loss(embeddings, batch)

            value, gradients = jax.value_and_grad(objective)(weights)
            return value, *optimizer.stateless_apply(slots, gradients, weights)

        # Copies, since a step overwrites what it is given.
        self._weights = [variable.value.copy() for variable in encoder.trainable_variables]
        self._slots = [variable.value.copy() for variable in optimizer.variables]
        self._batch = jax.device_put(batch)
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(self._weights, self._slots, self._batch)
        self._step = lowered.compile()
        self.memory = self._step.memory_analysis().temp_size_in_bytes

    def __call__(self) -> Step:
        """Runs the next step and waits for it."""
        start, cpu = time.perf_counter(), time.process_time()
        loss, self._weights, self._slots = self._step(self._weights, self._slots, self._batch)
        loss = float(loss)
        return Step(time.perf_counter() - start, time.process_time() - cpu, loss)


def new_encoder(work: Path, precision: str, checkpointing: bool = False) -> ImageEncoder:
    """Swin-T and its projection with the peer's first weights."""
    encoder = ImageEncoder(Swin(drop_path=0.0, checkpointing=checkpointing), EMBEDDING_DIM)
    load_swin_weights(encoder.backbone, work / "model.safetensors")
    projection = np.load(work / "projection.npz")
    encoder.projection.set_weights([projection["weight"].T, projection["bias"]])
    return encoder.with_precision(precision)


def page_batch(drawn: np.ndarray, pool: np.ndarray) -> tuple[Batch, Batch]:
    """A batch of pages for both sides: with distinct pictures for ours, with a picture per slot for the peer."""
    distinct, number = np.unique(drawn, return_inverse=True)
    number = number.reshape(drawn.shape).astype(np.int32)
    clicked = np.zeros((len(drawn), CANDIDATES), bool)
    clicked[:, 0] = True
    ours = {
        "pictures": pool[: len(distinct)],
        "candidate_picture": number[:, :CANDIDATES],
        "click_picture": number[:, CANDIDATES:],
        "clicked": clicked,
    }
    return ours, {"slots": pool[number.ravel()], "clicked": clicked}


def float32_embeddings(encoder: ImageEncoder, pictures: np.ndarray) -> np.ndarray:
    """Embeddings in float32 without the GPU's shortcuts."""
    weights = [
        [variable.value for variable in kind] for kind in (encoder.trainable_variables, encoder.non_trainable_variables)
    ]
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(encoder.stateless_call)(*weights, pictures)[0])


def assignment_rate(rng: np.random.Generator, points: int) -> float:
    """Embeddings per second that are assigned to `CENTERS` centers."""
    centers = rng.normal(size=(CENTERS, EMBEDDING_DIM)).astype(np.float32)
    embeddings = rng.normal(size=(points, EMBEDDING_DIM)).astype(np.float32)
    assigner = ExactAssigner(centers)
    assigner.assign(embeddings[:1])
    start = time.perf_counter()
    assigner.assign(embeddings)
    return points / (time.perf_counter() - start)


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="fewer repeats, without torch.compile")
    parser.add_argument("--batch", type=int, default=256, help="pictures per step")
    parser.add_argument("--pages", type=int, default=64, help="pages per step")
    run_benchmark("encoder_gpu", parser, measure)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything and prints the table."""
    if jax.default_backend() != "gpu":
        sys.exit("JAX finds no GPU")
    repeats = 5 if args.quick else 15
    rng = np.random.default_rng(0)
    slots = args.pages * 2 * CANDIDATES
    pool = rng.integers(0, 256, (max(slots, args.batch), SIZE, SIZE, 3), np.uint8)
    drawn = draw_pages(args.pages, catalogue_of_share(slots, distinct_share(PAPER_SLOTS, PAPER_CATALOGUE)), rng)
    pages, theirs = page_batch(drawn, pool)
    pictures = pool[: args.batch]
    result: dict[str, Any] = {"distinct_share": round(len(pages["pictures"]) / slots, 3)}
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        np.save(work / "pictures.npy", pictures)
        np.savez(work / "pages_pages.npz", **theirs)
        peer = Peer(SWIN_PEER, work, sys.executable, "--embedding-dim", EMBEDDING_DIM, "--device", "cuda")

        peer.ask("embed")  # starts over with the first weights, as before every comparison below
        encoder, checkpointed = (new_encoder(work, "mixed_bfloat16", checkpointing) for checkpointing in (False, True))
        with ThreadPoolExecutor() as compiling:
            start = time.perf_counter()
            embeddings = compiling.submit(float32_embeddings, new_encoder(work, "float32"), pictures)
            page_step = compiling.submit(TrainingStep, encoder, page_loss, pages)
            image_step = compiling.submit(TrainingStep, encoder, image_loss, {"pictures": pictures})
            checkpointed_step = compiling.submit(TrainingStep, checkpointed, image_loss, {"pictures": pictures})
            embeddings, page_step, image_step, checkpointed_step = (
                future.result() for future in (embeddings, page_step, image_step, checkpointed_step)
            )
            print(f"compiled everything in {time.perf_counter() - start:.0f} s", flush=True)
        difference = float(np.abs(embeddings - np.load(work / "embeddings.npy")).max())
        if difference > TOLERANCE:
            sys.exit(f"the two networks differ by {difference} on the same weights")
        result["largest_difference"] = difference
        print(f"the same embeddings on the same weights: largest difference {difference:.1e}", flush=True)

        result |= compare(
            "pages", slots, repeats, {"": page_step, "torch": lambda: peer.step("pages_pages")}, BFLOAT16_TOLERANCE
        )
        peer.ask("memory")
        peer.step("images")
        memory = {
            "": image_step.memory,
            "_checkpointing": checkpointed_step.memory,
            "_torch": peer.ask("memory")["bytes"],
        }
        result |= {f"images_memory_mb{side}": round(size / 1e6) for side, size in memory.items()}
        peer.ask("embed")
        sides = {"": image_step, "torch": lambda: peer.step("images")}
        if not args.quick:
            sides["torch_compiled"] = lambda: peer.step("images_compiled")
        result |= compare("images", args.batch, repeats, sides, BFLOAT16_TOLERANCE)
        result |= compare("images_checkpointing", args.batch, repeats, {"": checkpointed_step}, BFLOAT16_TOLERANCE)
    result["exact_assignments_per_s"] = round(assignment_rate(rng, 1 << (15 if args.quick else 18)))

    print()
    for name, value in result.items():
        print(f"{name:48s}{value:>12}")
    result["device"] = jax.devices()[0].device_kind
    versions = f"torch {peer.version}, jax {jax.__version__}, keras {keras.__version__}"
    print(f"{result['device']}, bfloat16, {SIZE} x {SIZE}; {versions}")
    return result


if __name__ == "__main__":
    main()
