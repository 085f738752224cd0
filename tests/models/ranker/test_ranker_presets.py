"""The rankers of the presets, written down in NumPy from what the tables hold.

`paper_ctr` is the paper's appendix A, `din_ctr` Zhou et al., Deep Interest Network (KDD 2018).
"""

import numpy as np
import pytest
import tensorflow as tf

from models.config import load_config
from models.data.pages import PADDING
from models.layers.text_embedding import hash_tokens
from models.ranker.config import RankerLengths, TrainingConfig
from tests.models.ranker.ranker_pages import CONFIG, ctr, inputs_of, sigmoid

HISTORIES = ("click", "pay", "cart")


def make_preset(make, name, image_feature, **attention):
    preset = load_config(TrainingConfig, name).ranker
    small = {
        "lengths": RankerLengths(candidates=6, click=5, pay=4, cart=3),
        "embedding_dim": 4,
        "attention": preset.attention.model_copy(update=attention),
        "mlp_units": (12, 10, 8, 6),
        "token_buckets": CONFIG.token_buckets,
        "query_tokens": CONFIG.query_tokens,
    }
    ranker = make(image_feature, preset.model_copy(update=small))
    rng = np.random.default_rng(0)
    for variable in ranker.trainable_variables:  # no bias may hide behind a zero
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return ranker


@pytest.fixture(scope="module")
def presets(make):
    return {
        "paper_ctr": make_preset(make, "paper_ctr", "cluster_id", heads=2, head_dim=3),
        "din_ctr": make_preset(make, "din_ctr", "none", units=7),
    }


@pytest.fixture(params=["paper_ctr", "din_ctr"])
def preset(presets, request):
    return presets[request.param]


def rows_of(table, layer, name, rows):
    values = table.tables[name].numpy()[rows]
    if name in layer.embeddings:
        return layer.embeddings[name].embeddings.numpy()[values]
    if values.ndim == 2:
        return np.array([mean_token(layer.text, tokens) for tokens in values]).reshape(-1, layer.dim)
    return values[:, None]


def mean_token(text, tokens):
    known = tokens[tokens != PADDING]
    return text.embeddings.numpy()[known].mean(axis=0) if len(known) else np.zeros(text.dim)


def item_network(ranker, rows):
    rows = np.where(rows < 0, ranker.sizes.items, rows)
    tower = ranker.members[0].items
    parts = [rows_of(ranker.items.features, tower.features, name, rows) for name in tower.features.features]
    if tower.picture_encoder is not None:
        clusters = ranker.items.pictures.tables["cluster"].numpy()[rows]
        parts.append(tower.picture_encoder.embeddings.numpy()[clusters])
    return np.concatenate(parts, axis=1)


def user_encoder(layer, steps):
    """Self-attention, layer norm, mean, projection."""
    if not len(steps):
        return np.zeros(layer.units)
    weights = (weight.numpy() for weight in layer.attention.weights)
    query, query_bias, key, key_bias, value, value_bias, output, output_bias = weights
    attended = np.tile(output_bias, (len(steps), 1))
    for head in range(layer.heads):
        q, k = steps @ query[:, head] + query_bias[head], steps @ key[:, head] + key_bias[head]
        weights = np.exp(q @ k.T / np.sqrt(layer.head_dim))
        weights /= weights.sum(axis=1, keepdims=True)
        attended += weights @ (steps @ value[:, head] + value_bias[head]) @ output[head]
    hidden = steps + attended
    gamma, beta = (weight.numpy() for weight in layer.norm.weights)
    deviation = np.sqrt(hidden.var(axis=1, keepdims=True) + layer.norm.epsilon)
    normed = (hidden - hidden.mean(axis=1, keepdims=True)) / deviation * gamma + beta
    return normed.mean(axis=0) @ layer.projection.kernel.numpy()


def activation_unit(layer, candidate, steps):
    """DIN's sum of the steps, weighed by a small network of the candidate and each step."""
    candidates = np.tile(candidate, (len(steps), 1))
    inputs = np.concatenate([candidates, steps, candidates - steps, candidates * steps], axis=1)
    hidden = np.maximum(inputs @ layer.kernel.numpy() + layer.bias.numpy(), 0)
    return (hidden @ layer.score_kernel.numpy() + layer.score_bias.numpy()) @ steps


def reference(ranker, page):
    """Click probabilities of a batch of pages, a candidate at a time."""
    member, config = ranker.members[0], ranker.config
    tokens = hash_tokens(page["query"], config.token_buckets, config.query_tokens).numpy()
    dense = ranker.dense(page).numpy()
    scores = np.zeros(page["item"].shape)
    for p, c in np.argwhere(page["item"].numpy() != PADDING):
        user = page["user"].numpy()[p : p + 1]
        users = [rows_of(ranker.users, member.users, name, user)[0] for name in member.users.features]
        item = item_network(ranker, page["item"].numpy()[p, c : c + 1])[0]
        attended, encoded = [], []
        for name in HISTORIES:
            rows = page[f"{name}_item"].numpy()[p][: getattr(config.lengths, name)]
            steps = item_network(ranker, rows[rows != PADDING])
            if name in member.recent_attention:
                attended.append(activation_unit(member.recent_attention[name], item, steps))
            else:
                encoded.append(user_encoder(member.encoders[name], steps))
        candidate = np.concatenate([item, dense[p, c], *attended])
        whole = np.concatenate([*users, mean_token(member.text, tokens[p]), *encoded])
        hidden = candidate @ member.mlp_candidate.kernel.numpy() + member.mlp_candidate.bias.numpy()
        hidden = np.maximum(hidden + whole @ member.mlp_page.kernel.numpy(), 0)
        for layer in member.mlp_rest:
            hidden = np.maximum(hidden @ layer.kernel.numpy() + layer.bias.numpy(), 0)
        head = member.heads["ctr"]
        scores[p, c] = sigmoid((hidden @ head.kernel.numpy() + head.bias.numpy())[0])
    return scores


def test_the_preset_is_the_model_of_its_paper(preset, page):
    few = {name: values[-6:] for name, values in page.items()}
    few["query"] = tf.constant(["linen dress", "", "shirt", "red", "coat coat", "linen"])
    few["user"] = tf.concat([few["user"][:5], [-1]], axis=0)
    expected = reference(preset, few | {"user": tf.where(few["user"] < 0, preset.sizes.users, few["user"])})
    assert np.ptp(expected[expected > 0]) > 0.01
    np.testing.assert_allclose(ctr(preset, few), expected, rtol=2e-4, atol=1e-6)
    assert len(preset.members) == 1
    assert [*preset.task_weights] == ["ctr"]
    assert len(preset.config.mlp_units) + 1 == 5


def test_the_preset_reads_neither_times_nor_the_order_of_steps(preset, page):
    scores, other = ctr(preset, page), dict(page)
    for name in HISTORIES:
        read = getattr(preset.config.lengths, name)
        steps = page[f"{name}_item"][:, :read]
        order = np.argsort(np.random.default_rng(1).random(steps.shape[1]))
        other[f"{name}_item"] = tf.gather(steps, order, axis=1)  # padding among the steps
        other[f"{name}_time"] = tf.zeros_like(page[f"{name}_time"][:, :read])
    np.testing.assert_allclose(ctr(preset, other), scores, rtol=1e-4, atol=1e-6)
    assert inputs_of(page).keys() == inputs_of(other).keys()
