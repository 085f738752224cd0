"""Training and serving the ranker against DIN of DeepCTR and of FuxiCTR: speed, processor time and memory.

    make bench-env
    nice -n -5 .venv/bin/python benchmarks/ranker.py [--quick]

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

The last line is one JSON object. `--quick` takes fewer turns.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from step_server import serve
from tqdm import tqdm

from beam_pipelines.records import FEATURES
from models.ctr.config import AttentionConfig, RankerConfig
from models.ctr.feature_config import CategoryFeature, FeaturesConfig, FeatureSizes, IdFeature
from models.ctr.ranker import Ranker
from models.ctr.target_attention import TargetAttention
from models.data.pages import PADDING
from models.training.lazy_adam import LazyAdam
from models.training.table_rows import gather_rows

ROOT = Path(__file__).resolve().parent.parent
THREADS = 2
# Sizes of the embeddings, the row of padding included.
ITEMS, CATEGORIES, USERS = 100_000, 1_000, 50_000
DIM = 16
ATTENTION_UNITS = 64
MLP_UNITS = (512, 128, 64)
PARAMETERS = 2_539_842
ROWS = 1024
CANDIDATES = 20
BATCHES = 2
CLICK_RATE = 0.1
STEPS = (100, 1000)
LENGTHS = ("full", "realistic")
PAGE_CANDIDATES = 200
PAGE_LENGTHS = {"click": 1000, "pay": 1000, "cart": 200}
MANY_ITEMS = 10_000_000
TOLERANCE = 1e-4
NOW = 1_700_000_000_000
MINUTE = 60_000
OURS = {"ours": 0, "ours_recent": 50}
"""Sides that rank pages: newest steps of a history that DIN's activation unit weighs."""
PEERS = ("deepctr", "fuxictr")
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
        name: `ours`, `ours_recent`, `din`, `deepctr` or `fuxictr`.
        work: what `write_inputs` wrote.
        steps: length of the histories.
        options: more of the process's options.
    """

    def __init__(self, name: str, work: Path, steps: int, *options: str) -> None:
        python, script = sys.executable, Path(__file__)
        if name in PEERS:
            python, script = peer_python(name), ROOT / f"benchmarks/{name}_din.py"
        else:
            options = ("--side", name, *options)
        words = [python, script, "--work-dir", work, "--steps", steps, "--rows", ROWS, "--threads", THREADS, *options]
        self.name = name
        self._process = subprocess.Popen(
            [str(word) for word in words],
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


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment."""
    return ROOT / f".venv-{name}/bin/python"


def draw_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The weights that every DIN starts from, large enough that none hides behind a zero."""
    shapes = {
        "user": (USERS, DIM),
        "item": (ITEMS, DIM),
        "category": (CATEGORIES, DIM),
        "attention_kernel": (8 * DIM, ATTENTION_UNITS),
        "attention_bias": (ATTENTION_UNITS,),
        "dice_alpha": (ATTENTION_UNITS,),
        "score_kernel": (ATTENTION_UNITS, 1),
        "score_bias": (1,),
        "logit_kernel": (MLP_UNITS[-1], 1),
        "logit_bias": (1,),
    }
    widths = (5 * DIM, *MLP_UNITS)
    for layer, units in enumerate(MLP_UNITS):
        shapes |= {f"mlp_kernel_{layer}": (widths[layer], units), f"mlp_bias_{layer}": (units,)}
    weights = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in ("user", "item", "category"):
        weights[name][0] = 0  # FuxiCTR holds the embedding of padding at zero
    return weights


def draw_pages(steps: int, lengths: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pages of one batch, by the numbers that the peers use: 0 is padding. The last page has what is left over."""
    pages = -(-ROWS // CANDIDATES)
    item = rng.integers(1, ITEMS, (pages, CANDIDATES))
    item.ravel()[ROWS:] = 0
    longest = np.full(pages, steps)
    if lengths == "realistic":
        longest = np.clip(rng.lognormal(np.log(steps / 10), 1.2, pages).astype(int), 1, steps)
    history = rng.integers(1, ITEMS, (pages, steps))
    return {
        "user": rng.integers(1, USERS, pages),
        "item": item,
        "clicked": (rng.random(item.shape) < CLICK_RATE).astype(np.int64),
        "click": np.where(np.arange(steps) < longest[:, None], history, 0),
    }


def to_rows(pages: dict[str, np.ndarray], category: np.ndarray) -> dict[str, np.ndarray]:
    """The candidates of pages as rows with a history each."""
    page, place = np.nonzero(pages["item"])
    item, history = pages["item"][page, place], pages["click"][page]
    ids = {"user": pages["user"][page], "item": item, "category": category[item]}
    ids |= {"hist_item": history, "hist_category": category[history]}
    rows = {name: values.astype(np.int32) for name, values in ids.items()}
    return rows | {"clicked": pages["clicked"][page, place].astype(np.float32)}


def write_inputs(work: Path) -> None:
    """Writes what every side reads: weights, batches of pages and of rows, and one page to score."""
    rng = np.random.default_rng(0)
    np.savez(work / "weights.npz", **draw_weights(rng))
    category = rng.integers(1, CATEGORIES, ITEMS)
    category[0] = 0
    np.save(work / "category.npy", category)
    for steps in STEPS:
        for lengths in LENGTHS:
            batches = [draw_pages(steps, lengths, rng) for _ in range(BATCHES)]
            together = {name: np.concatenate([pages[name] for pages in batches]) for name in batches[0]}
            np.savez(work / f"pages_{steps}_{lengths}.npz", **together)
            rows = to_rows(together, category)
            if len(rows["user"]) != BATCHES * ROWS:
                raise ValueError(f"a batch must have {ROWS} rows. Received: {len(rows['user']) / BATCHES}")
            np.savez(work / f"rows_{steps}_{lengths}.npz", **rows)
        page = {
            "user": rng.integers(1, USERS, 1),
            "item": rng.integers(1, ITEMS, (1, PAGE_CANDIDATES)),
            "clicked": np.zeros((1, PAGE_CANDIDATES), np.int64),
            "click": rng.integers(1, ITEMS, (1, steps)),
        }
        rows = to_rows(page, category)
        del rows["clicked"]
        np.savez(work / f"page_{steps}.npz", **rows)


def our_ranker(items: int, category: np.ndarray, recent_steps: int) -> Ranker:
    """The ranker on IDs and categories, ready to train, with the widths that all sides have.

    Args:
        items: number of items.
        category: of each item, 1 and up.
        recent_steps: newest steps of a history that DIN's activation unit weighs; without any, the optimizer keeps no
            averages either.
    """
    config = RankerConfig(
        features=FeaturesConfig(
            item={"item_id": IdFeature(dropout=0.0), "category": CategoryFeature(match=True)},
            user={"user_id": IdFeature(dropout=0.0, match=False)},
            candidate={},
            query=False,
        ),
        embedding_dim=DIM,
        item_dim=2 * DIM,
        attention=AttentionConfig(recent_steps=recent_steps, units=ATTENTION_UNITS),
        mlp_units=MLP_UNITS,
        token_buckets=1,
    )
    users = USERS - 1
    sizes = FeatureSizes(
        items=items,
        users=users,
        item={"item_id": items, "category": CATEGORIES - 1},
        user={"user_id": users},
    )
    ranker = Ranker(config, sizes, "none")
    tables = ranker.items.features.tables
    tables["item_id"].assign(np.append(np.arange(1, items + 1), 0))
    tables["category"].assign(np.append(category, 0))
    ranker.users.tables["user_id"].assign(np.append(np.arange(1, users + 1), 0))
    ranker.compile(LazyAdam(1e-3, average=recent_steps > 0))
    return ranker


def page_features(pages: dict[str, np.ndarray], spread: int) -> dict[str, tf.Tensor]:
    """Pages as `parse_pages` gives them; what they do not tell is missing there.

    Args:
        pages: `user`, `item`, `clicked` and histories, by the peers' numbers.
        spread: distance of consecutive numbers among our rows.
    """
    count, candidates = pages["item"].shape
    values = {
        "user": pages["user"] - 1,
        "item": _rows(pages["item"], spread),
        "clicked": np.where(pages["item"] > 0, pages["clicked"], PADDING),
        "timestamp": np.full(count, NOW),
    }
    lengths = {"candidates": candidates}
    for history in PAGE_LENGTHS:
        steps = pages.get(history, np.zeros((count, 0), np.int64))
        steps = steps[:, : (steps > 0).sum(axis=1).max(initial=0)]  # batches are as long as their longest page
        lengths[history] = steps.shape[1]
        values[f"{history}_item"] = _rows(steps, spread)
        age = MINUTE * (1 + np.arange(steps.shape[1]))
        values[f"{history}_time"] = np.where(steps > 0, NOW - age, PADDING)
    missing = {"bytes": b"", "int64": PADDING, "float": 0.0}
    types = {"bytes": tf.string, "int64": tf.int64, "float": tf.float32}
    page = {}
    for name, kind, group, _ in FEATURES:
        shape = (count,) if group == "context" else (count, lengths[group])
        page[name] = tf.constant(values.get(name, np.full(shape, missing[kind])), types[kind])
    return page


def _rows(numbers: np.ndarray, spread: int) -> np.ndarray:
    return np.where(numbers > 0, (numbers - 1) * spread, PADDING)


class LikeForLike(keras.Model):
    """The peers' DIN with our attention: one candidate per row, with a history of its own.

    Args:
        weights: that all sides start from.
    """

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.tables = {
            name: self.add_weight(name=name, shape=weights[name].shape) for name in ("user", "item", "category")
        }
        self.attention = TargetAttention(ATTENTION_UNITS, "none", "dice")
        self.attention.build((None, 1, 2 * DIM), (None, None, 2 * DIM))
        self.mlp = [keras.layers.Dense(units, activation="relu") for units in MLP_UNITS]
        self.logit = keras.layers.Dense(1)
        for layer, width in zip([*self.mlp, self.logit], (5 * DIM, *MLP_UNITS), strict=True):
            layer.build((None, width))
        for name, table in self.tables.items():
            table.assign(weights[name])
        attention = self.attention
        attention.kernel.assign(weights["attention_kernel"])
        attention.bias.assign(weights["attention_bias"])
        attention.dice.alpha.assign(weights["dice_alpha"])
        attention.score_kernel.assign(weights["score_kernel"][:, 0])
        attention.score_bias.assign(weights["score_bias"][0])
        for number, layer in enumerate(self.mlp):
            layer.set_weights([weights[f"mlp_kernel_{number}"], weights[f"mlp_bias_{number}"]])
        self.logit.set_weights([weights["logit_kernel"], weights["logit_bias"]])
        self.built = True

    def call(self, rows: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Log-odds of a click, shape `(rows,)`."""
        query = self._items(rows["item"], rows["category"])
        keys = self._items(rows["hist_item"], rows["hist_category"])
        interest = self.attention(query[:, None], keys, rows["hist_item"] > 0, training=training)[:, 0]
        hidden = tf.concat([gather_rows(self.tables["user"], rows["user"]), query, interest], axis=-1)
        for layer in self.mlp:
            hidden = layer(hidden)
        return self.logit(hidden)[:, 0]

    def _items(self, item: tf.Tensor, category: tf.Tensor) -> tf.Tensor:
        names = {"item": item, "category": category}
        return tf.concat([gather_rows(self.tables[name], ids) for name, ids in names.items()], axis=-1)


class Repeated:
    """A batch, as the iterator of a dataset whose batches differ in shape.

    Args:
        batch: the batch.
    """

    def __init__(self, batch: dict[str, tf.Tensor]) -> None:
        self._batch = batch
        self.element_spec = {name: tf.TensorSpec([None] * len(t.shape), t.dtype) for name, t in batch.items()}

    def __next__(self) -> dict[str, tf.Tensor]:
        return self._batch


def serve_ours(work: Path, steps: int, items: int, recent_steps: int) -> None:
    """Serves steps of the ranker's `fit`, and scores of a page."""
    spread = items // ITEMS
    category = np.repeat(np.load(work / "category.npy"), spread)[spread:]
    ranker = our_ranker(len(category), category, recent_steps)
    ranker.prepare_fit()
    ranker.make_train_function()
    batches = {}
    for lengths in LENGTHS:
        table = dict(np.load(work / f"pages_{steps}_{lengths}.npz"))
        halves = zip(*(np.split(values, BATCHES) for values in table.values()), strict=True)
        batches[lengths] = [page_features(dict(zip(table, half, strict=True)), spread) for half in halves]
    rng = np.random.default_rng(1)
    page = {"user": rng.integers(1, USERS, 1), "item": rng.integers(1, ITEMS, (1, PAGE_CANDIDATES))}
    page |= {name: rng.integers(1, ITEMS, (1, length)) for name, length in PAGE_LENGTHS.items()}
    shown = page_features(page | {"clicked": np.zeros_like(page["item"])}, spread)
    shown = {name: shown[name] for name, _, _, is_label in FEATURES if not is_label}

    def train(lengths: str, batch: int) -> float:
        ranker.reset_metrics()
        return float(ranker.train_function(Repeated(batches[lengths][batch]))["loss"])

    parameters = int(sum(np.prod(variable.shape) for variable in ranker.trainable_variables))
    about = {"version": f"TensorFlow {tf.__version__}", "parameters": parameters}
    serve(about, {"train": train, "score": lambda: float(ranker.score(shown)["ctr"][0, 0])})


def serve_din(work: Path, steps: int) -> None:
    """Serves steps of the DIN that is like the peers'."""
    model = LikeForLike(dict(np.load(work / "weights.npz")))
    optimizer = LazyAdam(1e-3)
    optimizer.build(model.trainable_variables)
    batches = {}
    for lengths in LENGTHS:
        table = {name: tf.constant(values) for name, values in np.load(work / f"rows_{steps}_{lengths}.npz").items()}
        halves = zip(*(tf.split(values, BATCHES) for values in table.values()), strict=True)
        batches[lengths] = [dict(zip(table, half, strict=True)) for half in halves]

    @tf.function(reduce_retracing=True)
    def step(rows: dict[str, tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(rows, training=True)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(rows["clicked"], logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    parameters = int(sum(np.prod(variable.shape) for variable in model.trainable_variables))
    about = {"version": f"TensorFlow {tf.__version__}", "parameters": parameters}
    serve(about, {"train": lambda lengths, batch: float(step(batches[lengths][batch]))})


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
    for name in tqdm((*OURS, "din", *PEERS), desc=f"histories of {steps}: starting", unit="side"):
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
            for side in (*OURS, "din", *PEERS):
                values = "".join(f"{result[f'{column}_{side}{suffix}']:22,.0f}" for column in columns)
                print(f"{f'{steps} {lengths} {side}':28s}{values}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark and prints its table and its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--side", choices=(*OURS, "din"), help=argparse.SUPPRESS)  # the processes of ours
    for option, kind in (("--work-dir", Path), ("--steps", int), ("--rows", int), ("--threads", int)):
        parser.add_argument(option, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--items", type=int, default=ITEMS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.side:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
        if args.side in OURS:
            serve_ours(args.work_dir, args.steps, args.items, OURS[args.side])
        else:
            serve_din(args.work_dir, args.steps)
        return

    if not all(peer_python(peer).exists() for peer in PEERS):
        sys.exit("a peer's environment is missing: make bench-env")
    available = int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) / 1e6
    if available < MEMORY_NEEDED_GB:
        sys.exit(f"{MEMORY_NEEDED_GB} GB of free memory are needed. Received: {available:.1f} GB")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
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
    result = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in result.items()}

    print()
    print_table(result)
    for name, value in result.items():
        if "ratio" in name or "speedup" in name or "p50" in name:
            print(f"{name:52s}{value:>12}")
    print("`ours` ranks pages with another attention than the peers' rows have; `din` is like for like (see --help).")
    print(f"{THREADS} threads, float32; {', '.join(result.pop('versions'))}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
