"""Our side of `speed.py`: the ranker on pages, run step by step on demand."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from beam_pipelines.format.records import FEATURES
from benchmarks.ranker.inputs import (
    ATTENTION_UNITS,
    BATCHES,
    CATEGORIES,
    DIM,
    ITEMS,
    LENGTHS,
    MLP_UNITS,
    NOW,
    PAGE_CANDIDATES,
    PAGE_LENGTHS,
    USERS,
)
from benchmarks.ranker.step_server import serve
from models.data.pages import PADDING
from models.features.spec import CategoryFeature, FeaturesConfig, FeatureSizes, IdFeature
from models.ranker.config import AttentionConfig, RankerConfig
from models.ranker.ranker import Ranker
from models.training.lazy_adam import LazyAdam

MINUTE = 60_000


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


class Repeated:
    """A batch, as the iterator of a dataset whose batches differ in shape.

    Args:
        batch: the pages and their labels.
    """

    def __init__(self, batch: dict[str, tf.Tensor]) -> None:
        self._batch = ({name: t for name, t in batch.items() if name != "clicked"}, batch["clicked"])
        self.element_spec = tf.nest.map_structure(lambda t: tf.TensorSpec([None] * len(t.shape), t.dtype), self._batch)

    def __next__(self) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        return self._batch


def main() -> None:
    """Serves requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="pages, written by speed.py")
    parser.add_argument("--steps", type=int, required=True, help="length of the history")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--recent-steps", type=int, default=0, help="newest steps that DIN's activation unit weighs")
    parser.add_argument("--items", type=int, default=ITEMS, help="number of items, a multiple of the default")
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    spread = args.items // ITEMS
    category = np.repeat(np.load(args.work_dir / "category.npy"), spread)[spread:]
    ranker = our_ranker(len(category), category, args.recent_steps)
    ranker.prepare_fit()
    ranker.make_train_function()
    batches = {}
    for lengths in LENGTHS:
        table = dict(np.load(args.work_dir / f"pages_{args.steps}_{lengths}.npz"))
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


if __name__ == "__main__":
    main()
