"""Exports DeepCTR's DIN of `benchmarks.ranker` as a SavedModel, for `load.py`.

Runs in the environment of `make bench-env`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.ranker.peers.deepctr_din import build


def main() -> None:
    """Writes the SavedModel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True, help="weights and a page, written by load.py")
    parser.add_argument("--steps", type=int, required=True, help="length of the history")
    parser.add_argument("--output", type=Path, required=True, help="the version's directory")
    args = parser.parse_args()
    model = build(dict(np.load(args.work_dir / "weights.npz")), args.steps)
    rows = dict(np.load(args.work_dir / "page.npz"))
    specs = {name: tf.TensorSpec([None, *values.shape[1:]], values.dtype) for name, values in rows.items()}

    @tf.function
    def score(**inputs: Any) -> dict[str, Any]:
        return {"ctr": model(inputs, training=False)}

    signature = score.get_concrete_function(**specs)
    tf.saved_model.save(model, str(args.output), signatures={"serving_default": signature})


if __name__ == "__main__":
    main()
