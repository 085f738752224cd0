"""A peer of `speed.py`: FuxiCTR's DIN on rows of one candidate and one history, run step by step on demand.

Runs in the environment of `make bench-env`. It is the DIN of FuxiCTR's model zoo for long histories, with its own
`train_step`. What `speed.py` makes equal on all sides is set: sizes, no limit on the length of gradients. Everything
else is as the library has it.
"""

import argparse
import math
from collections import OrderedDict
from pathlib import Path

import fuxictr
import numpy as np
import torch
from fuxictr.features import FeatureMap
from model_zoo.LongCTR.DIN import DIN

from benchmarks.ranker.step_server import serve

HISTORY = ("item", "category")
# The model's parameters by what `speed.py` calls the same ones; PyTorch has kernels transposed.
_EMBEDDING = "embedding_layer.embedding_layer.embedding_layers"
_ATTENTION = "attention_layers.attention_layer.mlp"
PARAMETERS = {
    **{name: f"{_EMBEDDING}.{name}.weight" for name in ("user", "item", "category")},
    "attention_kernel": f"{_ATTENTION}.0.weight",
    "attention_bias": f"{_ATTENTION}.0.bias",
    "dice_alpha": f"{_ATTENTION}.1.alpha",
    "score_kernel": f"{_ATTENTION}.2.weight",
    "score_bias": f"{_ATTENTION}.2.bias",
    **{f"mlp_kernel_{layer}": f"dnn.mlp.{2 * layer}.weight" for layer in range(3)},
    **{f"mlp_bias_{layer}": f"dnn.mlp.{2 * layer}.bias" for layer in range(3)},
    "logit_kernel": "dnn.mlp.6.weight",
    "logit_bias": "dnn.mlp.6.bias",
}

Batch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]


def build(weights: dict[str, np.ndarray], work_dir: Path) -> DIN:
    """DIN with the weights that all sides start from."""
    dim = weights["item"].shape[1]
    features = FeatureMap("din_parity", str(work_dir))
    features.features = OrderedDict(
        (
            name,
            {
                "type": "categorical",
                "source": "item" if name in HISTORY else "user",
                "padding_idx": 0,
                "vocab_size": len(weights[name]),
            },
        )
        for name in ("user", *HISTORY)
    )
    features.labels = ["clicked"]
    features.default_emb_dim = dim
    model = DIN(
        features,
        dnn_hidden_units=[len(weights[f"mlp_bias_{layer}"]) for layer in range(3)],
        attention_hidden_units=[len(weights["attention_bias"])],
        attention_hidden_activations="Dice",
        learning_rate=1e-3,
        embedding_dim=dim,
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        model_root=str(work_dir),
        verbose=0,
    )
    parameters = dict(model.named_parameters())
    if parameters.keys() != set(PARAMETERS.values()):
        raise ValueError(f"the model has other parameters than expected. Received: {sorted(parameters)}")
    with torch.no_grad():
        for name, value in weights.items():
            transposed = name.endswith("kernel") or "_kernel_" in name
            parameters[PARAMETERS[name]].copy_(torch.from_numpy(value.T if transposed else value))
    model._max_gradient_norm = math.inf  # set by `fit`
    model._batch_index = 0
    return model.train()


def batch_of(rows: dict[str, np.ndarray]) -> Batch:
    """Rows as the model zoo's loader hands them over: a history's items and, behind them, the candidate."""
    about = {"user": torch.from_numpy(rows["user"])}
    if "clicked" in rows:
        about["clicked"] = torch.from_numpy(rows["clicked"])
    items = {
        name: torch.from_numpy(np.concatenate([rows[f"hist_{name}"], rows[name][:, None]], axis=1).ravel())
        for name in HISTORY
    }
    return about, items, torch.from_numpy(rows["hist_item"] > 0)


def batches(file: Path, rows: int) -> list[Batch]:
    """Training batches."""
    table = dict(np.load(file))
    cuts = [slice(first, first + rows) for first in range(0, len(table["clicked"]), rows)]
    return [batch_of({name: values[cut] for name, values in table.items()}) for cut in cuts]


def main() -> None:
    """Serves requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="weights and rows, written by speed.py")
    parser.add_argument("--steps", type=int, required=True, help="length of the history")
    parser.add_argument("--rows", type=int, required=True, help="rows per training step")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build(dict(np.load(args.work_dir / "weights.npz")), args.work_dir)
    training = {
        lengths: batches(args.work_dir / f"rows_{args.steps}_{lengths}.npz", args.rows)
        for lengths in ("full", "realistic")
    }
    page = batch_of(dict(np.load(args.work_dir / f"page_{args.steps}.npz")))

    def train(lengths: str, batch: int) -> float:
        return model.train_step(training[lengths][batch]).item()

    def score() -> float:
        model.eval()
        with torch.inference_mode():
            scores = model(page)["y_pred"]
        model.train()
        return scores[0].item()

    about = {
        "version": f"FuxiCTR {fuxictr.__version__}, PyTorch {torch.__version__}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    serve(about, {"train": train, "score": score})


if __name__ == "__main__":
    main()
