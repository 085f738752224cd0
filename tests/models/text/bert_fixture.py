"""What `transformers` computes for a few titles; `make_bert_fixtures.py` says how it was made."""

import json
from pathlib import Path

import numpy as np

DIRECTORY = Path(__file__).parents[1] / "fixtures" / "bert"
EXPECTED = json.loads(DIRECTORY.with_suffix(".json").read_text(encoding="utf-8"))
TITLES = EXPECTED["titles"]


def padded(tokens, length):
    rows = np.full((len(tokens), length), -1, np.int32)
    for row, numbers in enumerate(tokens):
        rows[row, : len(numbers)] = numbers
    return rows
