"""Trains the ranker with a loss of your own, through `compile`.

    python -m beam_pipelines.build --runner=DirectRunner   # the dataset, from the shipped sample
    python examples/own_loss.py

A loss sees whole pages: labels `(batch, candidates)`, which are 1, 0, or -1 at padding, and log-odds of the same shape.
It returns one loss per candidate or one per page; padding, the mean and several replicas are the ranker's work. Keras'
own losses work as well: `ranker.compile(loss=keras.losses.BinaryFocalCrossentropy(from_logits=True))`.
"""

import argparse
from pathlib import Path
from typing import Any

import keras
from keras import ops

from models import GAUC, Dataset, Ranker, RankerConfig


@keras.saving.register_keras_serializable(package="example")
class ListwiseSoftmax(keras.losses.Loss):
    """Each clicked candidate competes with all candidates of its page: one loss per page, 0 without a click."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One loss per page."""
        log_shares = ops.log_softmax(ops.where(y_true >= 0, y_pred, -1e9), axis=-1)
        clicked = ops.cast(y_true > 0, y_pred.dtype)
        return ops.divide_no_nan(-ops.sum(clicked * log_shares, axis=-1), ops.sum(clicked, axis=-1))


def main(dataset: Path, output: Path, epochs: int = 7, config: RankerConfig | None = None) -> float:
    """Trains on `dataset`, writes the ranker to `output`, and returns the GAUC of the later pages."""
    train, later = Dataset(dataset).pages("train").split(0.9)
    ranker = Ranker.adapt(train, config=config)
    ranker.compile("adam", loss=ListwiseSoftmax(), metrics=[GAUC()])
    ranker.fit(train.batches(64, shuffle=True), validation_data=later.batches(128), epochs=epochs)
    ranker.save(output)
    ranker = keras.models.load_model(output)  # compiled as it was
    return ranker.evaluate(later.batches(128), return_dict=True)["gauc"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("artifacts/dataset"))
    parser.add_argument("--output", type=Path, default=Path("artifacts/listwise_ranker.keras"))
    options = parser.parse_args()
    print(f"GAUC of later pages: {main(options.dataset, options.output):.4f}")
