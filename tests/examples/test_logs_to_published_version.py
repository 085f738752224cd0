import json
import re

import tensorflow as tf


def test_logs_become_a_version_that_answers(published_sample):
    version = published_sample / "serving" / "1"
    request = json.loads((version / "assets.extra" / "example_request.json").read_text())
    row = request["instances"][0]
    ranker = tf.saved_model.load(str(version)).signatures["serving_default"]
    inputs = {}
    for name, spec in ranker.structured_input_signature[1].items():
        inputs[name] = tf.constant([row[name]], spec.dtype) if row[name] != [] else tf.zeros((1, 0), spec.dtype)
    (scores,) = ranker(**inputs)["ctr"].numpy()
    assert len(scores) == len(row["item_id"])
    assert ((scores > 0) & (scores < 1)).all()
    lines = (published_sample / "printed").read_text().splitlines()  # of the example: a library prints nothing
    assert [re.sub(r"0\.\d{4}", "0.xxxx", line) for line in lines] == [
        "ranker_without_pictures: GAUC 0.xxxx on test pages",
        "ranker: GAUC 0.xxxx on test pages",
    ]
    card = json.loads((version / "assets.extra" / "model_card.json").read_text())
    assert card
