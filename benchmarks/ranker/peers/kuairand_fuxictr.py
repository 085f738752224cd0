"""The peer of `kuairand.py`: FuxiCTR's DIN trained with the library's own `fit` on rows in a file.

Runs in the environment of `make bench-env`.

    python -m benchmarks.ranker.peers.kuairand_fuxictr --rows rows.npz --scores scores.npz --learning-rate 0.001

Training stops early on the validation rows, by the AUC, with FuxiCTR's decay of the learning rate and
its limit on the length of gradients; the best epoch's weights score all validation and test rows.
"""

import argparse
import logging
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR.DIN import DIN
from tqdm import tqdm

PARTS = ("fit", "validation", "test")

Batch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]


class Rows:
    """Rows of one part in batches, as FuxiCTR's loaders give them; a history's items and, behind them, the candidate.

    Args:
        table: the file's arrays, see `kuairand.py`.
        part: name of the part.
        batch_size: rows per batch.
        shuffle: whether each pass has another order.
    """

    def __init__(self, table: dict[str, np.ndarray], part: str, batch_size: int, shuffle: bool) -> None:
        self._table = table
        self._rows = np.flatnonzero(table["part"] == PARTS.index(part))
        self._batch_size = batch_size
        self._rng = np.random.default_rng(0) if shuffle else None

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        rows = self._rows if self._rng is None else self._rng.permutation(self._rows)
        for first in tqdm(range(0, len(rows), self._batch_size), desc="batches", leave=False, mininterval=5):
            yield self._batch(rows[first : first + self._batch_size])

    def _batch(self, rows: np.ndarray) -> Batch:
        table = self._table
        columns = {"clicked": table["clicked"][rows], "page": table["page"][rows]}
        columns |= {name: table["ids"][rows, i] for i, name in enumerate(table["id_names"])}
        columns |= {name: table["numbers"][rows, i] for i, name in enumerate(table["number_names"])}
        history = table["history"][table["page"][rows]]
        items = np.concatenate([np.maximum(history, 0), table["item"][rows, None]], axis=1).ravel()
        about = {name: torch.from_numpy(values) for name, values in columns.items()}
        steps = {name: torch.from_numpy(table["items"][items, i]) for i, name in enumerate(table["item_names"])}
        return about, steps, torch.from_numpy(history >= 0)


def feature_map(table: dict[str, np.ndarray], dim: int, directory: Path) -> FeatureMap:
    """Declares the file's columns. ID 0 is the unknown one, with an embedding; padding is told by the mask."""
    features: OrderedDict[str, dict[str, str | int]] = OrderedDict()
    for names, sizes, source in (("id_names", "id_sizes", "user"), ("item_names", "item_sizes", "item")):
        for name, size in zip(table[names], table[sizes], strict=True):
            features[name] = {"type": "categorical", "source": source, "vocab_size": int(size)}
    for name in table["number_names"]:
        features[name] = {"type": "numeric", "source": "user"}
    features["page"] = {"type": "meta"}
    declared = FeatureMap("kuairand", str(directory))
    declared.features = features
    declared.labels = ["clicked"]
    declared.group_id = "page"
    declared.default_emb_dim = dim
    return declared


def main() -> None:
    """Trains and writes scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="written by kuairand.py")
    parser.add_argument("--scores", type=Path, required=True, help="file to write: scores of all rows, 0 in `fit`")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0, help="of the MLP and of the activation unit")
    parser.add_argument("--embedding-l2", type=float, default=0.0)
    parser.add_argument("--embedding-dim", type=int, default=16)
    parser.add_argument("--mlp-units", type=int, nargs="+", default=[512, 128, 64])
    parser.add_argument("--attention-units", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    seed_everything(args.seed)
    table = dict(np.load(args.rows))
    parts = {part: Rows(table, part, args.batch_size, shuffle=part == "fit") for part in PARTS}
    model = DIN(
        feature_map(table, args.embedding_dim, args.scores.parent),
        model_id=args.scores.stem,
        dnn_hidden_units=args.mlp_units,
        attention_hidden_units=[args.attention_units],
        attention_hidden_activations="Dice",
        attention_dropout=args.dropout,
        net_dropout=args.dropout,
        learning_rate=args.learning_rate,
        embedding_dim=args.embedding_dim,
        embedding_regularizer=args.embedding_l2,
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        monitor="AUC",
        early_stop_patience=2,
        model_root=str(args.scores.parent),
        verbose=0,
    )
    Path(model.model_dir).mkdir(parents=True, exist_ok=True)
    model.fit(parts["fit"], epochs=args.epochs, validation_data=parts["validation"])
    scores = np.zeros(len(table["part"]), np.float32)
    for number, part in enumerate(PARTS[1:], start=1):
        scores[table["part"] == number] = model.predict(parts[part])
    np.savez(args.scores, scores=scores)


if __name__ == "__main__":
    main()
