import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.losses import column_contrast, cosine, unit


def reference(embeddings, reconstructions, positive, valid, temperature, picture=None):
    """Equations 4-6 with explicit loops over columns and rows; `picture` leaves out other rows with the column's."""
    total = 0.0
    for j1 in np.flatnonzero(positive):
        rows = [j0 for j0 in np.flatnonzero(valid) if picture is None or j0 == j1 or picture[j0] != picture[j1]]
        similarity = []
        for j0 in rows:
            e, r = embeddings[j0], reconstructions[j1]
            similarity.append(e @ r / np.linalg.norm(e) / np.linalg.norm(r) / temperature)
        own = similarity[rows.index(j1)]
        total += -own + max(similarity) + np.log(np.sum(np.exp(np.array(similarity) - max(similarity))))
    return total


def contrast(embeddings, reconstructions, positive, valid=None, temperature=0.05, picture=None):
    valid = np.ones(len(positive), bool) if valid is None else valid
    return column_contrast(
        embeddings,
        reconstructions,
        positive,
        negatives=embeddings,
        negatives_valid=valid,
        temperature=temperature,
        same_item=None if picture is None else picture[:, None] == picture[None, :],
    )


def draw(rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    embeddings, reconstructions = rng.normal(size=(2, rows, dim)).astype(np.float32)
    valid = rng.random(rows) < 0.8
    return embeddings, reconstructions, valid & (rng.random(rows) < 0.5), valid


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("dim", [1, 3, 16])
@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_equals_the_equations(rows, dim, temperature):
    embeddings, reconstructions, positive, valid = draw(rows, dim, seed=rows)
    actual = contrast(embeddings, reconstructions, positive, valid, temperature)
    np.testing.assert_allclose(
        actual, reference(embeddings, reconstructions, positive, valid, temperature), rtol=2e-4, atol=1e-4
    )


def test_two_by_two_by_hand():
    # Sim: row 0 = [0.6, 1.0], row 1 = [0.8, 0.0]. Only column 0 is positive.
    embeddings = np.array([[1, 0], [0, 1]], np.float32)
    reconstructions = np.array([[0.6, 0.8], [2, 0]], np.float32)
    one = contrast(embeddings, reconstructions, np.array([True, False]), temperature=0.5)
    np.testing.assert_allclose(one, np.log(1 + np.exp((0.8 - 0.6) / 0.5)), rtol=1e-6)
    both = contrast(embeddings, reconstructions, np.array([True, True]), temperature=0.5)
    np.testing.assert_allclose(both, one + np.log(1 + np.exp((1.0 - 0.0) / 0.5)), rtol=1e-6)


def test_softmax_runs_over_rows_not_over_columns():
    embeddings, reconstructions, positive, _ = draw(6, 3)
    positive[0] = True
    valid = np.ones(6, bool)
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    logits = unit(embeddings) @ unit(reconstructions).T / 0.05
    row_wise = (np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))[positive].sum()
    actual = float(contrast(embeddings, reconstructions, positive))
    assert actual == pytest.approx(reference(embeddings, reconstructions, positive, valid, 0.05), rel=1e-4)
    assert abs(actual - row_wise) > 0.1


def test_collapse_is_the_logarithm_of_the_valid_rows():
    same = np.ones((9, 4), np.float32)
    valid = np.array([True] * 7 + [False] * 2)
    positive = np.array([True] * 3 + [False] * 6)
    np.testing.assert_allclose(contrast(same, same, positive, valid), 3 * np.log(7), rtol=1e-6)


def test_gradient_is_zero_exactly_where_it_must_be():
    embeddings, reconstructions, _, _ = draw(8, 5)
    positive = np.array([1, 0, 1, 0, 0, 0, 0, 0], bool)
    valid = np.array([1, 1, 1, 1, 1, 1, 0, 0], bool)
    embeddings, reconstructions = tf.Variable(embeddings), tf.Variable(reconstructions)
    with tf.GradientTape() as tape:
        loss = contrast(embeddings, reconstructions, positive, valid)
    by_row, by_column = tape.gradient(loss, [embeddings, reconstructions])
    rows, columns = np.abs(by_row).max(axis=1), np.abs(by_column).max(axis=1)
    assert (columns[~positive] == 0).all()  # not to be reconstructed
    assert (columns[positive] > 0).all()
    assert (rows[valid] > 0).all()  # unclicked candidates are pushed away
    assert (rows[~valid] == 0).all()  # padding is nobody's negative


def test_content_of_padding_and_order_of_rows_do_not_matter():
    embeddings, reconstructions, positive, valid = draw(12, 4)
    expected = float(contrast(embeddings, reconstructions, positive, valid))
    garbage = np.where(valid[:, None], embeddings, 1e4).astype(np.float32)
    assert float(contrast(garbage, reconstructions, positive, valid)) == expected
    order = np.random.default_rng(1).permutation(12)
    shuffled = contrast(embeddings[order], reconstructions[order], positive[order], valid[order])
    assert float(shuffled) == pytest.approx(expected, rel=1e-5)


def test_zero_vectors_and_no_positives_are_harmless():
    zero = tf.Variable(np.zeros((3, 4), np.float32))
    with tf.GradientTape() as tape:
        loss = contrast(zero, zero, np.array([True, False, False]))
    assert float(loss) == pytest.approx(np.log(3), rel=1e-6)
    assert np.isfinite(tape.gradient(loss, zero)).all()
    assert float(contrast(zero, zero, np.zeros(3, bool))) == 0.0
    assert float(contrast(zero, zero, np.zeros(3, bool), np.zeros(3, bool))) == 0.0


def test_half_precision_input_is_computed_in_float32():
    embeddings, reconstructions, positive, valid = draw(16, 8)
    half = [v.astype(np.float16) for v in (embeddings, reconstructions)]
    actual = contrast(*half, positive, valid)
    assert actual.dtype == tf.float32
    expected = reference(*(v.astype(np.float32) for v in half), positive, valid, 0.05)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_equals_the_cross_entropy_of_the_transposed_similarities():
    embeddings, reconstructions, _, _ = draw(7, 4)
    similarity = keras.ops.matmul(unit(reconstructions), keras.ops.transpose(unit(embeddings)))
    entropy = keras.ops.sparse_categorical_crossentropy(np.arange(7), similarity / 0.05, from_logits=True)
    positive = np.array([1, 0, 1, 1, 0, 0, 1], bool)
    assert float(contrast(embeddings, reconstructions, positive)) == pytest.approx(
        entropy.numpy()[positive].sum(), rel=1e-5
    )


def test_cosine_is_a_distance_of_unit_vectors():
    """Equations 9 and 10 of appendix B."""
    one, other, _, _ = draw(20, 6)
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    squares = lengths[0] ** 2 + lengths[1] ** 2 - ((one - other) ** 2).sum(axis=1)
    np.testing.assert_allclose(cosine(one, other), squares / (2 * lengths[0] * lengths[1]), atol=1e-6)
    apart = ((unit(one) - unit(other)).numpy() ** 2).sum(axis=1)
    np.testing.assert_allclose(cosine(one, other), (2 - apart) / 2, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("pictures", [1, 3, 1000])
def test_masking_the_same_item_equals_the_equations(rows, pictures):
    embeddings, reconstructions, positive, valid = draw(rows, 4, seed=rows)
    picture = np.random.default_rng(rows).integers(0, pictures, rows)
    actual = contrast(embeddings, reconstructions, positive, valid, picture=picture)
    expected = reference(embeddings, reconstructions, positive, valid, 0.05, picture)
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-4)


def test_same_item_rows_get_no_gradient_and_the_own_row_stays():
    embeddings, reconstructions, _, _ = draw(5, 3)
    embeddings = tf.Variable(embeddings)
    positive = np.array([True, False, False, False, False])
    picture = np.array([8, 8, 8, 2, 8])
    with tf.GradientTape() as tape:
        loss = contrast(embeddings, reconstructions, positive, picture=picture)
    gradient = np.abs(tf.convert_to_tensor(tape.gradient(loss, embeddings))).max(axis=1)
    assert (gradient[[1, 2, 4]] == 0).all()
    assert (gradient[[0, 3]] > 0).all()
    assert float(contrast(embeddings, reconstructions, positive, picture=np.full(5, 8))) == 0.0
    distinct = contrast(embeddings, reconstructions, positive, picture=np.arange(5))
    assert float(distinct) == pytest.approx(float(contrast(embeddings, reconstructions, positive)), rel=1e-6)


@pytest.mark.parametrize(("masked", "mass"), [(False, [0.5, 0.5, 0.0]), (True, [1 / 3, 2 / 3, 0.0])])
def test_conflicting_clicks_share_the_probability(masked, mass):
    """An item clicked on one page and passed over on the next is a positive and a negative at once.

    Two pages show the same three items to users with the same history; the first user clicks item 0, the second item
    1. As with a cross-entropy the conflict is harmless: the reconstruction's softmax ends with half of its mass on
    each clicked item and none on the third. The loss is then ln 2 for the conflict and ln 2 for the two copies of
    every item in the batch. Without the second copy of a column's own item, its row stands against two copies of the
    other one and gets a third.
    """
    items = tf.Variable(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
    history = tf.Variable(np.random.default_rng(1).normal(size=(1, 4)).astype(np.float32))
    picture = np.array([0, 1, 2, 0, 1, 2])
    positive = np.array([1, 0, 0, 0, 1, 0], bool)
    optimizer = keras.optimizers.Adam(0.05)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            rows = tf.gather(items, picture)
            loss = contrast(rows, tf.repeat(history, 6, 0), positive, picture=picture if masked else None) / 2
        variables = [items, history]
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    for _ in range(300):
        loss = step()
    scores = np.exp(20 * cosine(items, tf.repeat(history, 3, 0)).numpy())
    copies = np.array([1 if masked else 2, 2, 2])  # of each item in the softmax of the first column
    np.testing.assert_allclose(copies * scores / (copies * scores).sum(), mass, atol=0.01)
    assert float(loss) == pytest.approx(np.log(3 if masked else 4), abs=0.01)
