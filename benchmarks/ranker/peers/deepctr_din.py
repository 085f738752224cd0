"""A peer of `speed.py`: DeepCTR's DIN on rows of one candidate and one history, run step by step on demand.

Runs in the environment of `make bench-env`. What `speed.py` makes equal on all sides is set: sizes, Dice in the
activation unit, no regularisation, Adam's epsilon. Everything else is as the library has it.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import deepctr
import numpy as np
import tensorflow as tf
from deepctr.feature_column import SparseFeat, VarLenSparseFeat
from deepctr.models import DIN

from benchmarks.ranker.step_server import serve

HISTORY = ("item", "category")
_ATTENTION = "attention_sequence_pooling_layer/local_activation_unit"
# The model's variables by what `speed.py` calls the same ones.
VARIABLES = {
    "user": "sparse_emb_user/embeddings",
    "item": "sparse_seq_emb_hist_item/embeddings",
    "category": "sparse_seq_emb_hist_category/embeddings",
    "attention_kernel": f"{_ATTENTION}/dnn/kernel0",
    "attention_bias": f"{_ATTENTION}/dnn/bias0",
    "dice_alpha": f"{_ATTENTION}/dnn/dice/dice_alpha",
    "score_kernel": f"{_ATTENTION}/kernel",
    "score_bias": f"{_ATTENTION}/bias",
    "logit_kernel": "dense/kernel",
    "logit_bias": "prediction_layer/global_bias",
    **{f"mlp_{what}_{layer}": f"dnn/{what}{layer}" for what in ("kernel", "bias") for layer in range(3)},
}


def build(weights: dict[str, np.ndarray], steps: int) -> tf.keras.Model:
    """DIN with the weights that all sides start from."""
    dim = weights["item"].shape[1]

    def feature(name: str, table: str) -> SparseFeat:
        return SparseFeat(name, len(weights[table]), embedding_dim=dim, embedding_name=table)

    columns = [feature(name, name) for name in ("user", *HISTORY)]
    columns += [VarLenSparseFeat(feature(f"hist_{name}", name), maxlen=steps) for name in HISTORY]
    model = DIN(
        columns,
        list(HISTORY),
        dnn_hidden_units=[len(weights[f"mlp_bias_{layer}"]) for layer in range(3)],
        att_hidden_size=(len(weights["attention_bias"]),),
        att_activation="dice",
        l2_reg_embedding=0,
    )
    variables = {variable.name.split(":")[0]: variable for variable in model.trainable_variables}
    if variables.keys() != set(VARIABLES.values()):
        raise ValueError(f"the model has other variables than expected. Received: {sorted(variables)}")
    for name, value in weights.items():
        variables[VARIABLES[name]].assign(value)
    model.compile(tf.keras.optimizers.Adam(1e-3, epsilon=1e-8), "binary_crossentropy")
    return model


def batches(file: Path, rows: int) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Inputs and labels by batch."""
    table = dict(np.load(file))
    clicked = table.pop("clicked")
    cuts = [slice(first, first + rows) for first in range(0, len(clicked), rows)]
    return [({name: values[cut] for name, values in table.items()}, clicked[cut]) for cut in cuts]


def main() -> None:
    """Serves requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="weights and rows, written by speed.py")
    parser.add_argument("--steps", type=int, required=True, help="length of the history")
    parser.add_argument("--rows", type=int, required=True, help="rows per training step")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    model = build(dict(np.load(args.work_dir / "weights.npz")), args.steps)
    training = {
        lengths: batches(args.work_dir / f"rows_{args.steps}_{lengths}.npz", args.rows)
        for lengths in ("full", "realistic")
    }
    page = {name: tf.constant(values) for name, values in np.load(args.work_dir / f"page_{args.steps}.npz").items()}

    @tf.function
    def score(page: dict[str, tf.Tensor]) -> Any:
        return model(page, training=False)

    def train(lengths: str, batch: int) -> float:
        return float(model.train_on_batch(*training[lengths][batch]))

    about = {
        "version": f"DeepCTR {deepctr.__version__}, TensorFlow {tf.__version__}",
        "parameters": int(sum(np.prod(variable.shape) for variable in model.trainable_variables)),
    }
    serve(about, {"train": train, "score": lambda: float(score(page)[0, 0])})


if __name__ == "__main__":
    main()
