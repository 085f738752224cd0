"""Our side of `speed.py` that is like its peers: their DIN with our attention, run step by step on demand."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.ranker.inputs import ATTENTION_UNITS, BATCHES, DIM, LENGTHS, MLP_UNITS
from benchmarks.ranker.step_server import serve
from models.layers.table_rows import gather_rows
from models.layers.target_attention import TargetAttention
from models.training.lazy_adam import LazyAdam


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


def main() -> None:
    """Serves requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="weights and rows, written by speed.py")
    parser.add_argument("--steps", type=int, required=True, help="length of the history")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    model = LikeForLike(dict(np.load(args.work_dir / "weights.npz")))
    optimizer = LazyAdam(1e-3)
    optimizer.build(model.trainable_variables)
    batches = {}
    for lengths in LENGTHS:
        table = {
            name: tf.constant(values)
            for name, values in np.load(args.work_dir / f"rows_{args.steps}_{lengths}.npz").items()
        }
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


if __name__ == "__main__":
    main()
