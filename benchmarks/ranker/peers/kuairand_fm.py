"""The peer of `kuairand_tasks.py`: a factorisation machine on rows in a file, in PyTorch.

Runs in the environment of `make bench-env`.

    python -m benchmarks.ranker.peers.kuairand_fm --rows rows.npz --scores scores.npz --learning-rate 0.001

`w0 + sum_i w_i + sum_{i<j} <v_i, v_j>` over all IDs of the user, the candidate and the feed, and over the numbers in 16
quantiles each; no history. It learns clicks, here long views, by log loss with Adam, stops early on the validation rows
by the AUC, and the best epoch scores validation and test rows.

Reference: Rendle, Factorization Machines (ICDM 2010).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

FIT, VALIDATION = 0, 1
_QUANTILES = 16
_PATIENCE = 2


class FactorizationMachine(torch.nn.Module):
    """Log-odds of rows of active features.

    Args:
        size: number of features of all fields.
        dim: length of their vectors.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.vectors = torch.nn.Embedding(size, dim)
        self.weights = torch.nn.Embedding(size, 1)
        self.bias = torch.nn.Parameter(torch.zeros(()))
        torch.nn.init.normal_(self.vectors.weight, std=0.01)
        torch.nn.init.zeros_(self.weights.weight)

    def forward(self, active: torch.Tensor) -> torch.Tensor:
        """Log-odds `(n,)` of features `(n, fields)`."""
        vectors = self.vectors(active)
        pairs = (vectors.sum(1) ** 2 - (vectors**2).sum(1)).sum(1) / 2
        return self.bias + self.weights(active).sum((1, 2)) + pairs


def active_features(table: dict[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """The features of each row, one per field, and how many there are in all."""
    columns = [*table["ids"].T, *table["items"][table["item"]].T]
    fit = table["part"] == FIT
    for numbers in table["numbers"].T:
        ends = np.unique(np.quantile(numbers[fit], np.arange(1, _QUANTILES) / _QUANTILES))
        columns.append(np.searchsorted(ends, numbers, side="right"))
    sizes = [int(column.max()) + 1 for column in columns]
    starts = np.cumsum([0, *sizes])
    return np.stack([column + start for column, start in zip(columns, starts, strict=False)], axis=1), int(starts[-1])


def main() -> None:
    """Trains and writes scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="written by kuairand_tasks.py")
    parser.add_argument("--scores", type=Path, required=True, help="file to write: scores of all rows, 0 in `fit`")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    table = dict(np.load(args.rows))
    features, size = active_features(table)
    active, labels = torch.from_numpy(features.astype(np.int64)), torch.from_numpy(table["clicked"])
    fit, validation = (np.flatnonzero(table["part"] == part) for part in (FIT, VALIDATION))
    later = np.flatnonzero(table["part"] != FIT)
    model = FactorizationMachine(size, args.dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    loss_of = torch.nn.BCEWithLogitsLoss()
    rng = np.random.default_rng(args.seed)
    best, best_auc, best_epoch = np.zeros(0), 0.0, 0
    for epoch in range(args.epochs):
        order = rng.permutation(fit)
        for first in range(0, len(order), args.batch_size):
            batch = torch.from_numpy(order[first : first + args.batch_size])
            loss = loss_of(model(active[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores = np.zeros(len(active), np.float32)
            scores[later] = torch.sigmoid(model(active[torch.from_numpy(later)])).numpy()
        auc = roc_auc_score(table["clicked"][validation], scores[validation])
        print(f"epoch {epoch + 1}: validation AUC {auc:.4f}", flush=True)
        if auc > best_auc:
            best, best_auc, best_epoch = scores, auc, epoch
        elif epoch - best_epoch >= _PATIENCE:
            break
    np.savez(args.scores, scores=best)


if __name__ == "__main__":
    main()
