"""Adds features of your own to the ranker: one of the page, one of each candidate.

    python -m beam_pipelines.build --runner=DirectRunner   # the dataset, from the shipped sample
    python examples/own_feature.py

A feature is a Keras layer from a page to numbers; a subclass of `Ranker` says where it goes. `item_tower` is the third
such place: it makes the tower that candidates and history steps share.
"""

import argparse
from pathlib import Path
from typing import Any

import keras
from keras import ops

from models import GAUC, Dataset, Ranker, RankerConfig

HOUR, DAY = 3_600_000, 86_400_000  # milliseconds


@keras.saving.register_keras_serializable(package="example")
class HourOfDay(keras.layers.Layer):
    """An embedding of the hour at which the page is shown: `(batch, dim)`."""

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.embedding = keras.layers.Embedding(24, dim)

    def call(self, page: dict[str, Any]) -> Any:
        """Embeds the hour."""
        return self.embedding(page["timestamp"] // HOUR % 24)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "dim": self.dim}


@keras.saving.register_keras_serializable(package="example")
class DaysSinceClick(keras.layers.Layer):
    """How long ago the user last clicked on the candidate, and whether ever: `(batch, candidates, 2)`."""

    def call(self, page: dict[str, Any]) -> Any:
        """Compares candidates with clicks."""
        # Padding is -1 in candidates and steps alike: a padded step must not match.
        candidates, steps = page["item"][:, :, None], page["click_item"][:, None, :]
        same = ops.logical_and(candidates == steps, steps >= 0)
        days = ops.cast(page["timestamp"][:, None] - page["click_time"], "float32") / DAY
        newest = ops.min(ops.where(same, days[:, None, :], 1e6), axis=-1, initial=1e6)
        clicked = ops.cast(newest < 1e6, "float32")
        return ops.stack([clicked * ops.exp(-newest), clicked], axis=-1)


@keras.saving.register_keras_serializable(package="example")
class MyRanker(Ranker):
    """The ranker with both."""

    def __init__(self, *args: Any, hour_dim: int = 8, **kwargs: Any) -> None:
        self.hour_dim = hour_dim  # before the rest, which makes the towers
        super().__init__(*args, **kwargs)

    def page_tower(self) -> keras.layers.Layer:
        """What the page says."""
        return HourOfDay(self.hour_dim, name="hour_of_day")

    def candidate_tower(self) -> keras.layers.Layer:
        """What it says of each candidate."""
        return DaysSinceClick(name="days_since_click")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "hour_dim": self.hour_dim}


def main(dataset: Path, output: Path, epochs: int = 7, config: RankerConfig | None = None) -> float:
    """Trains on `dataset`, writes the ranker to `output`, and returns the GAUC of the later pages."""
    train, later = Dataset(dataset).pages("train").split(0.9)
    ranker = MyRanker.adapt(train, config=config, hour_dim=4)
    ranker.compile(metrics=[GAUC()])
    ranker.fit(
        train.batches(64, shuffle=True),
        validation_data=later.batches(128),
        epochs=epochs,
        callbacks=[keras.callbacks.EarlyStopping("val_gauc", mode="max", patience=3, restore_best_weights=True)],
    )
    ranker.save(output)
    ranker = keras.models.load_model(output)
    return ranker.evaluate(later.batches(128), return_dict=True)["gauc"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("artifacts/dataset"))
    parser.add_argument("--output", type=Path, default=Path("artifacts/my_ranker.keras"))
    options = parser.parse_args()
    print(f"GAUC of later pages: {main(options.dataset, options.output):.4f}")
