import json
import shutil

import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError
from models.text.bert import Bert
from models.text.bert_weights import load_bert_weights, read_architecture
from tests.models.text.bert_fixture import DIRECTORY, EXPECTED, padded


def test_states_are_those_of_transformers():
    bert = Bert(**read_architecture(DIRECTORY))
    load_bert_weights(bert, DIRECTORY)
    np.testing.assert_allclose(bert(padded(EXPECTED["tokens"], 20)), EXPECTED["states"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 1}, r"16 tensors have no place in this BERT: encoder\.layer\.1"),
        ({"layers": 3}, r"lacks encoder\.layer\.2"),
        ({"hidden": 10}, r"encoder\.layer\.0\.intermediate\.dense\.weight gives the shape \(8, 12\)"),
    ],
)
def test_weights_of_another_architecture_are_refused_and_change_nothing(change, message):
    bert = Bert(**{**read_architecture(DIRECTORY), **change})
    bert.build((None, None))
    before = bert.get_weights()
    with pytest.raises(ArtifactError, match=message):
        load_bert_weights(bert, DIRECTORY)
    assert all((a == b).all() for a, b in zip(before, bert.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', only 'bert' is known"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"vocab_size": None}, "lacks vocab_size"),
    ],
)
def test_other_architectures_are_refused(change, message, tmp_path):
    shutil.copytree(DIRECTORY, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ArtifactError, match=message):
        read_architecture(tmp_path)


def test_a_directory_of_something_else_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"no file .*config\.json"):
        read_architecture(tmp_path)
    with pytest.raises(ArtifactError, match=r"no weight file .*model\.safetensors"):
        load_bert_weights(Bert(5), tmp_path)
