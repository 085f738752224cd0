import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.courier import Courier
from models.pretraining.title_contrast import TitleContrast, has_title
from models.text.bert import Bert
from models.text.encoder import TextEncoder
from tests.models.courier_batch import DIM, Table, TitleTable, check_resumption, draw_batch, loss_of


def reference(pictures, titles, tokens, counted, temperature, mask):
    """The mean of the two cross-entropies, pair by pair."""
    rows = np.flatnonzero(counted)
    one, other = (v.astype(float) / np.linalg.norm(v, axis=1, keepdims=True) for v in (pictures, titles))
    losses = []
    for mine, theirs in ((one, other), (other, one)):
        for i in rows:
            rivals = [j for j in rows if j == i or not (mask and (tokens[i] == tokens[j]).all())]
            scores = np.array([mine[i] @ theirs[j] for j in rivals]) / temperature
            losses.append(np.log(np.exp(scores).sum()) - mine[i] @ theirs[i] / temperature)
    return np.mean(losses) if losses else 0.0


def draw(rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    pictures, titles = rng.normal(size=(2, rows, dim)).astype(np.float32)
    return pictures, titles, rng.integers(0, 4, (rows, 1)).astype(np.int32), rng.random(rows) < 0.7


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("mask", [True, False])
def test_equals_two_cross_entropies(rows, dim, temperature, mask):
    arguments = draw(rows, dim, rows)
    contrast = TitleContrast(TitleTable(), temperature, mask_same_title=mask)
    expected = reference(*arguments, temperature, mask)
    assert float(contrast.loss_part(*arguments)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_collapse_is_the_logarithm_of_the_pairs():
    same, tokens = np.ones((9, 4), np.float32), np.arange(9, dtype=np.int32)[:, None]
    contrast = TitleContrast(TitleTable())
    assert float(contrast.loss_part(same, same, tokens, np.arange(9) < 7)) == pytest.approx(np.log(7), rel=1e-6)
    # What cannot be told apart is not asked for: of two titles in common, each loses a rival.
    tokens[1] = tokens[0]
    shared = (2 * np.log(6) + 5 * np.log(7)) / 7
    assert float(contrast.loss_part(same, same, tokens, np.arange(9) < 7)) == pytest.approx(shared, rel=1e-6)


def test_pictures_and_titles_may_change_places_and_pairs_their_order():
    pictures, titles, tokens, counted = draw(12, 4)
    contrast = TitleContrast(TitleTable())
    expected = float(contrast.loss_part(pictures, titles, tokens, counted))
    assert float(contrast.loss_part(titles, pictures, tokens, counted)) == pytest.approx(expected, rel=1e-5)
    order = np.random.default_rng(1).permutation(12)
    moved = [values[order] for values in (pictures, titles, tokens, counted)]
    assert float(contrast.loss_part(*moved)) == pytest.approx(expected, rel=1e-5)


def test_pairs_that_do_not_count_have_no_gradient_and_no_part():
    pictures, titles, tokens, _ = draw(6, 3)
    counted = np.array([1, 1, 1, 1, 0, 0], bool)
    pictures, titles = tf.Variable(pictures), tf.Variable(titles)
    contrast = TitleContrast(TitleTable(), mask_same_title=False)
    with tf.GradientTape() as tape:
        loss = contrast.loss_part(pictures, titles, tokens, counted)
    for gradient in tape.gradient(loss, [pictures, titles]):
        largest = np.abs(tf.convert_to_tensor(gradient)).max(axis=1)
        assert (largest[counted] > 0).all()
        assert (largest[~counted] == 0).all()
    assert float(contrast.loss_part(pictures, titles, tokens, np.zeros(6, bool))) == 0.0


def test_gradients_are_the_slopes_of_the_equation():
    """Those of negatives too."""
    pictures, titles, tokens, counted = draw(7, 4)
    contrast = TitleContrast(TitleTable(), 0.2)
    one, other = tf.Variable(pictures), tf.Variable(titles)
    with tf.GradientTape() as tape:
        loss = contrast.loss_part(one, other, tokens, counted)
    found = [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(loss, [one, other])]
    rng = np.random.default_rng(3)
    for _ in range(4):
        move, move_2 = rng.normal(size=(2, 7, 4))
        ends = [
            reference(pictures + step * move, titles + step * move_2, tokens, counted, 0.2, True)
            for step in (-1e-4, 1e-4)
        ]
        slope = (found[0] * move).sum() + (found[1] * move_2).sum()
        assert slope == pytest.approx((ends[1] - ends[0]) / 2e-4, rel=1e-3, abs=1e-4)


def test_a_learned_temperature_begins_where_it_is_told_and_stays_within_bounds():
    arguments = draw(8, 4)
    fixed, learned = TitleContrast(TitleTable(), 0.2), TitleContrast(TitleTable(), 0.2, learned_temperature=True)
    assert float(learned.loss_part(*arguments)) == pytest.approx(float(fixed.loss_part(*arguments)), rel=1e-5)
    with tf.GradientTape() as tape:
        loss = learned.loss_part(*arguments)
    assert abs(float(tape.gradient(loss, learned.log_scale.value))) > 0
    learned.log_scale.assign(20.0)
    bound = TitleContrast(TitleTable(), 0.01).loss_part(*arguments)
    assert float(learned.loss_part(*arguments)) == pytest.approx(float(bound), rel=1e-5)


def test_courier_with_titles_adds_their_loss():
    batch = draw_batch(6, titles=True)
    titles = TitleContrast(TitleTable(), 0.2)
    encoder = Table()
    both, alone = Courier(encoder, titles=titles), Courier(encoder)
    table = np.asarray(encoder.table.embeddings)[batch["pictures"][:, 0, 0, 0]]
    counted = has_title(batch["tokens"]).numpy()
    assert 0 < counted.sum() < len(counted)
    expected = reference(table, titles(batch["tokens"]).numpy(), batch["tokens"], counted, 0.2, True)
    assert float(loss_of(both, batch)) == pytest.approx(float(loss_of(alone, batch)) + expected, rel=1e-5)
    assert float(both.get_metrics_result()["title_loss"]) == pytest.approx(expected, rel=1e-4)
    assert "title_loss" not in alone.get_metrics_result()
    assert keras.ops.shape(both(batch)["titles"]) == (30, 8)


def test_an_interrupted_run_of_courier_with_titles_goes_on_exactly():
    """Dropped parts of titles, the learned temperature and both moments of Adam go on as if nothing had happened."""

    def make():
        keras.utils.set_random_seed(0)
        text_encoder = TextEncoder(Bert(12, 1, 8, 2, positions=3, dropout=0.5), DIM)
        model = Courier(Table(), titles=TitleContrast(text_encoder, 0.2, learned_temperature=True))
        model.compile(keras.optimizers.Adam(0.05), run_eagerly=True)
        return model

    state, end = check_resumption(make, lambda seed: draw_batch(5, seed=seed, titles=True))
    assert any("title" in name and (state[name] != value).any() for name, value in end.items())
