"""What the benchmarks of the image encoder share: the peer's process, steps in turns, and pages as the paper's batches.

It needs neither TensorFlow nor JAX.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.base import ROOT

SIZE = 224
EMBEDDING_DIM = 256
LEARNING_RATE = 1e-4
CANDIDATES = CLICKS = 5
PAPER_SLOTS = 3072 * (CANDIDATES + CLICKS)
PAPER_CATALOGUE = 35_500_000
ZIPF_EXPONENT = 1.0

SWIN_PEER = "benchmarks.encoder.peers.torch_swin"


class Step(NamedTuple):
    """What one training step took, wall and processor seconds, and its loss."""

    seconds: float
    cpu_seconds: float
    loss: float


class Peer:
    """The process of a peer.

    Args:
        module: of `peers`.
        work: holds `pictures.npy` and what else the peer reads; the peer adds what it is compared by.
        python: of the peer's environment.
        options: of the peer besides the directory.
    """

    def __init__(self, module: str, work: Path, python: str | Path, *options: object) -> None:
        words = (python, "-m", module, "--work-dir", work, *options)
        self._process = subprocess.Popen(
            [str(word) for word in words],
            cwd=ROOT,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer()["torch"]

    def ask(self, request: str) -> dict[str, Any]:
        """Sends a request and waits for the answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def step(self, name: str) -> Step:
        """Runs one training step."""
        return Step(**self.ask(name))

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the peer ended; its message is above")
        return json.loads(line)


def compare(
    name: str, images: int, repeats: int, sides: dict[str, Callable[[], Step]], tolerance: float
) -> dict[str, float]:
    """Steps all sides in turns; the first one is ours. The first step of each is not counted.

    Args:
        name: of what is compared.
        images: pictures per step.
        repeats: steps that count.
        sides: by name, how to take a step.
        tolerance: between the first losses of ours and of the first peer, relative where they are above 1.

    Returns:
        Pictures per second of each side, the median over the steps, and the ratios of ours, over the pairs of steps.
    """
    steps: dict[str, list[Step]] = {side: [] for side in sides}
    with tqdm(total=(repeats + 1) * len(sides), desc=f"{name}: steps in turns", unit="step") as bar:
        for _ in range(repeats + 1):
            for side, step in sides.items():
                steps[side].append(step())
                bar.update()
    ours, *peers = sides
    for side in peers[:1]:  # later sides continue from the weights of the first peer
        mine, theirs = steps[ours][0].loss, steps[side][0].loss
        if abs(mine - theirs) > tolerance * max(1.0, abs(theirs)):
            sys.exit(f"{name}: the first loss is {mine}, the peer's is {theirs}")
    result = {}
    for side, taken in steps.items():
        suffix = "" if side == ours else f"_{side}"
        result[f"{name}_per_s{suffix}"] = images / statistics.median(step.seconds for step in taken[1:])
    for side in peers:
        pairs = list(zip(steps[ours][1:], steps[side][1:], strict=True))
        result[f"{name}_per_s_ratio_{side}"] = statistics.median(b.seconds / a.seconds for a, b in pairs)
        result[f"{name}_per_cpu_s_ratio_{side}"] = statistics.median(b.cpu_seconds / a.cpu_seconds for a, b in pairs)
    result = {key: round(value, 3) for key, value in result.items()}
    print(f"{name}: {json.dumps(result)}", flush=True)
    return result


def distinct_share(slots: int, catalogue: int) -> float:
    """The expected share of distinct pictures among draws with Zipf's popularity."""
    return float(-np.expm1(slots * np.log1p(-_popularity(catalogue))).sum() / slots)


def catalogue_of_share(slots: int, share: float) -> int:
    """The size of the catalogue over which as many draws have this share of distinct pictures."""
    low, high = 1, PAPER_CATALOGUE
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if distinct_share(slots, middle) < share else (low, middle)
    return low


def _popularity(catalogue: int) -> np.ndarray:
    weight = np.arange(1, catalogue + 1) ** -ZIPF_EXPONENT
    return weight / weight.sum()


def draw_pages(pages: int, catalogue: int, rng: np.random.Generator) -> np.ndarray:
    """Picture numbers `(pages, candidates + clicks)` by popularity, as many distinct ones as expected."""
    slots = pages * (CANDIDATES + CLICKS)
    expected = round(slots * distinct_share(slots, catalogue))
    cumulative = _popularity(catalogue).cumsum()
    while True:
        drawn = np.searchsorted(cumulative, rng.random(slots), side="right").clip(max=catalogue - 1)
        if len(np.unique(drawn)) == expected:
            return drawn.reshape(pages, -1)
