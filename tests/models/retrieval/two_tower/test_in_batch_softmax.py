import itertools

import numpy as np
import pytest
import tensorflow as tf

from models.retrieval.two_tower.in_batch_softmax import in_batch_softmax


def draw(users, pairs, catalogue, dim=3, seed=0):
    """Vectors and rows of a batch; every user has a pair if there are enough of them."""
    random = np.random.default_rng(seed)
    user_rows = np.concatenate([np.arange(users), random.integers(0, users, pairs)])[:pairs].astype(np.int32)
    return {
        "users": random.normal(size=(users, dim)).astype(np.float32),
        "items": random.normal(size=(pairs, dim)).astype(np.float32),
        "user_rows": user_rows,
        "item_rows": random.integers(0, catalogue, pairs),
        "log_frequencies": np.log(random.random(pairs)).astype(np.float32),
        "temperature": 0.3,
    }


def expected(users, items, user_rows, item_rows, log_frequencies, temperature):
    losses = []
    for n, (user, item) in enumerate(zip(user_rows, item_rows, strict=True)):
        chosen = {i for u, i in zip(user_rows, item_rows, strict=True) if u == user}
        kept = [m for m in range(len(items)) if m == n or item_rows[m] not in chosen]
        logits = {m: users[user] @ items[m] / temperature - log_frequencies[m] for m in kept}
        losses.append(np.log(sum(np.exp(logit) for logit in logits.values())) - logits[n])
        assert item in chosen
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize(("users", "pairs", "catalogue"), itertools.product((1, 4), (0, 1, 7), (2, 30)))
def test_the_loss_is_that_of_numpy(users, pairs, catalogue):
    batch = draw(users, pairs, catalogue)
    assert float(in_batch_softmax(**batch)) == pytest.approx(expected(**batch), rel=1e-4, abs=1e-6)


def test_items_that_are_all_alike_have_the_loss_of_chance():
    batch = draw(5, 5, 30)
    batch |= {"items": np.ones((5, 3), np.float32), "item_rows": np.arange(5), "log_frequencies": np.zeros(5)}
    batch["log_frequencies"] = batch["log_frequencies"].astype(np.float32)
    assert float(in_batch_softmax(**batch)) == pytest.approx(np.log(5), rel=1e-6)
    # One that comes into a batch twice as often as the others counts as half an item.
    batch["log_frequencies"] = np.log(np.array([2, 1, 1, 1, 1], np.float32))
    surprises = np.log(4.5) + np.array([np.log(2), 0, 0, 0, 0])
    assert float(in_batch_softmax(**batch)) == pytest.approx(surprises.mean(), rel=1e-6)


def test_only_proportions_of_frequencies_matter():
    batch = draw(4, 9, 30)
    loss = float(in_batch_softmax(**batch))
    shifted = {**batch, "log_frequencies": batch["log_frequencies"] + np.float32(3)}
    assert float(in_batch_softmax(**shifted)) == pytest.approx(loss, rel=1e-5)
    other = {**batch, "log_frequencies": batch["log_frequencies"] * np.float32(2)}
    assert float(in_batch_softmax(**other)) != pytest.approx(loss, rel=1e-2)


def test_what_a_user_has_chosen_gives_the_user_no_gradient():
    batch = draw(2, 4, 30)
    # User 0 has items 5 and 6, user 1 item 5, in another pair, and 7.
    batch |= {"user_rows": np.int32([0, 0, 1, 1]), "item_rows": np.array([5, 6, 5, 7])}
    items = tf.constant(batch["items"])
    users = tf.constant(batch["users"] * np.float32([[1], [0]]))  # user 1's scores are all 0
    with tf.GradientTape() as tape:
        tape.watch([items, users])
        loss = in_batch_softmax(**{**batch, "items": items, "users": users})
    of_items, of_users = (each.numpy() for each in tape.gradient(loss, [items, users]))
    assert (of_items[2] == 0).all()  # a second pair of item 5 is no negative of user 0, and user 1 has length 0
    assert of_items[[0, 1, 3]].any(axis=1).all()
    others = {**batch, "items": batch["items"].copy(), "users": users.numpy()}
    others["items"][2] = 77
    with tf.GradientTape() as tape:
        tape.watch(users)
        loss = in_batch_softmax(**{**others, "users": users})
    np.testing.assert_array_equal(tape.gradient(loss, users)[0], of_users[0])


def test_a_pair_without_negatives_teaches_nothing():
    batch = draw(1, 3, 30)
    users = tf.constant(batch["users"])
    with tf.GradientTape() as tape:
        tape.watch(users)
        loss = in_batch_softmax(**{**batch, "users": users})
    assert float(loss) == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(tape.gradient(loss, users), np.zeros((1, 3)))
