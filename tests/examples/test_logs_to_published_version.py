import json

import tensorflow as tf

from beam_pipelines import BuildOptions
from examples import logs_to_published_version


def test_logs_become_a_version_that_answers(sample_logs, tmp_path, capsys):
    options = BuildOptions(page_buckets=2)
    version = logs_to_published_version.main(sample_logs, tmp_path, options, encoder_epochs=1, ranker_epochs=1)
    assert version == tmp_path / "serving" / "1"
    request = json.loads((version / "assets.extra" / "example_request.json").read_text())
    row = request["instances"][0]
    ranker = tf.saved_model.load(str(version)).signatures["serving_default"]
    inputs = {}
    for name, spec in ranker.structured_input_signature[1].items():
        inputs[name] = tf.constant([row[name]], spec.dtype) if row[name] != [] else tf.zeros((1, 0), spec.dtype)
    (scores,) = ranker(**inputs)["ctr"].numpy()
    assert len(scores) == len(row["item_id"])
    assert ((scores > 0) & (scores < 1)).all()
    assert "ranker_without_pictures: GAUC 0." in capsys.readouterr().out
    card = json.loads((version / "assets.extra" / "model_card.json").read_text())
    assert card
