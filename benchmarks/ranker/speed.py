"""Training and serving the ranker against DIN of DeepCTR and of FuxiCTR: speed, processor time and memory.

    make bench-env
    nice -n -5 .venv/bin/python -m benchmarks.ranker.speed [--quick]

Synthetic clicks on two cores in float32: 100,000 items, 1,000 categories, 50,000 users, embeddings of 16, histories of
100 and of 1,000 clicks, 1,024 candidates per training step. Every side is a process of its own with two threads. They
take turns, so that other work on the machine hits all, and a ratio is the median over the turns. A turn is three steps
in a row after one that does not count: in training, no step finds caches full of another program's work. The first turn
does not count at all. Threads of a peer may meet on one core, and do so for a while; `speedup_over_best` compares our
median step with its best one. A peak is the largest resident size of a side's process after its training steps.

What is compared:

- `ours`: the ranker on pages. The 1,024 candidates lie on 51 pages of 20 and one of 4 (padded to 20), and share their
  page's history. **The attention differs here**: two heads of dot-product attention of each candidate over the whole
  history, computed page by page; the peers' DIN has its activation unit on every step, row by row: a candidate with a
  history of its own, which is the only input they take. These figures say what a product costs that ranks pages, not
  how fast one layer is.
- `ours_recent`: the same with DIN's activation unit over the newest 50 clicks beside it, as the ranker is by default,
  and with an optimizer that keeps averages of the weights, as `models.train_ctr` has it.
- `din`: like for like with the peers. The same DIN as theirs, one candidate per row, the same 2,539,842 parameters, the
  activation unit with Dice as our `TargetAttention` computes it. All three start from the same weights; that their
  first losses are equal is checked.

TensorFlow runs with oneDNN on all sides, as the project does. Equal on all sides: query = item and category, shared
with the history; activation unit of 64; MLP of 512, 128 and 64 with ReLU; log loss; Adam at 1e-3, epsilon 1e-8; no
regularisation, no dropout, no clipping of gradients. The peers' optimizers go through whole tables in every step, ours
only through the rows it has read.

- `full`: every history is as long as it can be. `realistic`: lengths are log-normal, the median a tenth of the longest.
- page: one page of 200 candidates, in process. Ours reads histories of 1,000 clicks, 1,000 payments and 200 cart
  additions; the peers 200 rows with the same 1,000 clicks.
- vocabulary: steps of ours at histories of 100, with 1e7 items and with 1e5, in turns.

`--quick` takes fewer turns.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.base import ROOT, benchmark_parser, peer_python, run_benchmark, use_two_cores
from benchmarks.ranker.inputs import BATCHES, ITEMS, LENGTHS, PAGE_CANDIDATES, ROWS, STEPS, write_inputs

THREADS = 2
PARAMETERS = 2_539_842
MANY_ITEMS = 10_000_000
TOLERANCE = 1e-4
OURS = {"ours": ("our_ranker",), "ours_recent": ("our_ranker", "--recent-steps", "50")}
"""Sides that rank pages: module and options."""
PEERS = {peer: (f"peers.{peer}_din", "--rows", str(ROWS)) for peer in ("deepctr", "fuxictr")}
SIDES = {**OURS, "din": ("our_din",), **PEERS}
MEMORY_NEEDED_GB = 15  # five sides at once with histories of 1000


class Scale(NamedTuple):
    """How often everything is measured: turns of training by length of the history, and turns that score a page."""

    turns: dict[int, int]
    calls: int


FULL, QUICK = Scale({100: 12, 1000: 5}, 12), Scale({100: 4, 1000: 2}, 4)
STEPS_IN_A_ROW = 3


class Side:
    """A process that does one measured thing after another.

    Args:
        name: one of `SIDES`.
        work: what `write_inputs` wrote.
        steps: length of the histories.
        options: more of the process's options.
    """

    def __init__(self, name: str, work: Path, steps: int, *options: str) -> None:
        module, *constant = SIDES[name]
        python = peer_python(name) if name in PEERS else sys.executable
        words = [python, "-m", f"benchmarks.ranker.{module}"]
        words += ["--work-dir", work, "--steps", steps, "--threads", THREADS]
        self.name = name
        self._process = subprocess.Popen(
            [str(word) for word in (*words, *constant, *options)],
            cwd=ROOT,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(THREADS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def ask(self, *request: Any) -> dict[str, float]:
        """Sends a request and waits for the answer; see `step_server`."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):  # DeepCTR prints a greeting
                return json.loads(line)
        sys.exit(f"{self.name} ended; its message is above")


class Turns(NamedTuple):
    """What was measured in turns.

    Attributes:
        answers: of each side, of each turn that counts, those of its steps that count.
        losses: of each side, all values, those that do not count included.
    """

    answers: dict[str, list[list[dict[str, float]]]]
    losses: dict[str, list[float]]

    def of_steps(self, side: str, field: str) -> list[float]:
        """What one side says of its steps."""
        return [answer[field] for turn in self.answers[side] for answer in turn]

    def median(self, side: str, field: str) -> float:
        """The median over the steps of one side."""
        return statistics.median(self.of_steps(side, field))

    def ratio(self, side: str, other: str, field: str) -> float:
        """How much more `other` takes than `side`: the median over the turns."""
        mine, theirs = (
            [statistics.median(answer[field] for answer in turn) for turn in self.answers[name]]
            for name in (side, other)
        )
        return statistics.median(b / a for a, b in zip(mine, theirs, strict=True))


def in_turns(name: str, sides: dict[str, Side], turns: int, *request: Any) -> Turns:
    """Asks all sides in turns.

    Args:
        name: what the progress bar says.
        sides: the processes.
        turns: that count; one more comes first.
        request: to each; a step of training also gets the number of its batch.
    """
    training = request[0] == "train"
    answers: dict[str, list[list[dict[str, float]]]] = {side: [] for side in sides}
    with tqdm(total=(1 + turns) * len(sides), desc=f"{name}, in turns", unit="turn") as bar:
        for _ in range(1 + turns):
            for side, process in sides.items():
                batches = [(step % BATCHES,) if training else () for step in range(1 + STEPS_IN_A_ROW)]
                answers[side].append([process.ask(*request, *batch) for batch in batches])
                bar.update()
    losses = {side: [answer["value"] for turn in taken for answer in turn] for side, taken in answers.items()}
    for side, values in losses.items() if training else ():
        if not np.mean(values[-BATCHES:]) < np.mean(values[:BATCHES]):
            sys.exit(f"{name}: the loss of {side} does not fall: {values}")
    return Turns({side: [turn[1:] for turn in taken[1:]] for side, taken in answers.items()}, losses)


def training_figures(turns: Turns, suffix: str) -> dict[str, float]:
    """Figures of training steps."""
    figures = {}
    for side in turns.answers:
        figures[f"examples_per_s_{side}{suffix}"] = ROWS / turns.median(side, "seconds")
        figures[f"best_examples_per_s_{side}{suffix}"] = ROWS / min(turns.of_steps(side, "seconds"))
        figures[f"cpu_ms_{side}{suffix}"] = 1e3 * turns.median(side, "cpu_seconds")
        figures[f"peak_mb_{side}{suffix}"] = turns.of_steps(side, "peak_mb")[-1]
        print(f"{side}{suffix}: {figures[f'examples_per_s_{side}{suffix}']:,.0f} examples/s", flush=True)
    for peer in PEERS:
        for prefix, side in (("train", "ours"), ("train_recent", "ours_recent"), ("like_for_like", "din")):
            figures[f"{prefix}_speedup_{peer}{suffix}"] = turns.ratio(side, peer, "seconds")
            figures[f"{prefix}_cpu_ratio_{peer}{suffix}"] = turns.ratio(side, peer, "cpu_seconds")
            best = min(turns.of_steps(peer, "seconds"))
            figures[f"{prefix}_speedup_over_best_{peer}{suffix}"] = best / turns.median(side, "seconds")
    return figures


def check_losses(losses: dict[str, list[float]]) -> float:
    """The largest difference between the first losses of the sides that start from the same weights.

    It ends the benchmark if the sides do not compute the same.
    """
    first = {side: losses[side][0] for side in ("din", *PEERS)}
    difference = max(first.values()) - min(first.values())
    if difference > TOLERANCE:
        sys.exit(f"the first losses must be equal. Received: {first}")
    return difference


def compare(work: Path, steps: int, scale: Scale) -> dict[str, Any]:
    """All sides at one length of the histories."""
    result: dict[str, Any] = {}
    sides = {}
    for name in tqdm(SIDES, desc=f"histories of {steps}: starting", unit="side"):
        sides[name] = Side(name, work, steps)
    for name, side in sides.items():
        result[f"parameters_{name}"] = side.about["parameters"]
        if name not in OURS and side.about["parameters"] != PARAMETERS:
            sys.exit(f"{name} must have {PARAMETERS} parameters. Received: {side.about['parameters']}")
    for lengths in LENGTHS:
        turns = in_turns(f"histories of {steps}, {lengths}", sides, scale.turns[steps], "train", lengths)
        suffix = f"_t{steps}" if lengths == "full" else f"_t{steps}_{lengths}"
        result |= training_figures(turns, suffix)
        if lengths == "full":
            result[f"largest_first_loss_difference_t{steps}"] = check_losses(turns.losses)
    if steps == max(STEPS):
        scoring = {name: sides[name] for name in (*OURS, *PEERS)}
        turns = in_turns(f"a page of {PAGE_CANDIDATES} candidates", scoring, scale.calls, "score")
        for side in scoring:
            result[f"page_200_p50_ms_{side}"] = 1e3 * turns.median(side, "seconds")
        for peer in PEERS:
            result[f"per_candidate_speedup_{peer}"] = turns.ratio("ours", peer, "seconds")
    for peer in PEERS:
        for prefix, side in (("", "ours"), ("recent_", "ours_recent"), ("like_for_like_", "din")):
            peaks = result[f"peak_mb_{side}_t{steps}"], result[f"peak_mb_{peer}_t{steps}"]
            result[f"{prefix}memory_ratio_{peer}_t{steps}"] = peaks[0] / peaks[1]
    for side in sides.values():
        side.close()
    result["versions"] = [sides[name].about["version"] for name in ("ours", *PEERS)]
    return result


def compare_vocabularies(work: Path, scale: Scale) -> dict[str, float]:
    """Steps of ours with many items and with few."""
    steps = min(STEPS)
    sides = {}
    for name, items in tqdm((("few", ITEMS), ("many", MANY_ITEMS)), desc="vocabularies: starting", unit="side"):
        sides[name] = Side("ours", work, steps, "--items", str(items))
    turns = in_turns("1e7 and 1e5 items", sides, scale.turns[steps], "train", "full")
    for side in sides.values():
        side.close()
    return {
        "step_ratio_vocab_1e7_1e5": turns.ratio("few", "many", "seconds"),
        "cpu_ratio_vocab_1e7_1e5": turns.ratio("few", "many", "cpu_seconds"),
        "peak_mb_vocab_1e7": turns.of_steps("many", "peak_mb")[-1],
    }


def print_table(result: dict[str, Any]) -> None:
    """The figures that matter most, by side."""
    columns = ("examples_per_s", "best_examples_per_s", "cpu_ms", "peak_mb")
    print(f"{'training':28s}{''.join(f'{column:>22s}' for column in columns)}")
    for steps in STEPS:
        for lengths in LENGTHS:
            suffix = f"_t{steps}" if lengths == "full" else f"_t{steps}_{lengths}"
            for side in SIDES:
                values = "".join(f"{result[f'{column}_{side}{suffix}']:22,.0f}" for column in columns)
                print(f"{f'{steps} {lengths} {side}':28s}{values}")


def main() -> None:
    """Runs the benchmark."""
    run_benchmark("ranker_speed", benchmark_parser(__doc__, quick="fewer turns"), measure)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything and prints the table."""
    available = int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) / 1e6
    if available < MEMORY_NEEDED_GB:
        sys.exit(f"{MEMORY_NEEDED_GB} GB of free memory are needed. Received: {available:.1f} GB")
    use_two_cores()
    scale = QUICK if args.quick else FULL
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        write_inputs(work)
        result |= compare_vocabularies(work, scale)
        for steps in STEPS:
            result |= compare(work, steps, scale)
    result["like_for_like_cpu_ratio_t1000"] = result["like_for_like_cpu_ratio_deepctr_t1000"]
    result["load_average"] = round(os.getloadavg()[0], 1)

    print()
    print_table(result)
    for name, value in result.items():
        if "ratio" in name or "speedup" in name or "p50" in name:
            print(f"{name:52s}{value:>12.4g}")
    print("`ours` ranks pages with another attention than the peers' rows have; `din` is like for like (see --help).")
    print(f"{THREADS} threads, float32; {', '.join(result.pop('versions'))}")
    return result


if __name__ == "__main__":
    main()
