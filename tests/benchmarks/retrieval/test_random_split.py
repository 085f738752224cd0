import numpy as np

from benchmarks.retrieval.random_split import divide_by_user
from models.retrieval.interactions import Interactions, Pairs


def test_a_tenth_of_each_users_items_is_asked_for_in_validation_and_in_test():
    counts = np.array([1, 2, 3, 10, 11, 40])
    random = np.random.default_rng(0)
    pairs = [(user, item) for user, count in enumerate(counts) for item in random.permutation(50)[:count]]
    label = random.integers(0, 3, len(pairs))
    label[0] = 0
    parts = [Pairs(*np.array(pairs, np.int32)[label == part].T) for part in range(3)]
    names = [str(row) for row in range(50)]
    before = Interactions.of(names[:6], names, *parts)
    after = divide_by_user(before, seed=1)
    of_users = [np.bincount(part.users, minlength=6).tolist() for part in (after.train, after.validation, after.test)]
    assert of_users == [[1, 2, 1, 8, 7, 32], [0, 0, 1, 1, 2, 4], [0, 0, 1, 1, 2, 4]]
    both = (after.train, after.validation, after.test)
    found = {(int(user), int(item)) for part in both for user, item in zip(part.users, part.items, strict=True)}
    assert found == {(user, int(item)) for user, item in pairs}
    assert after.digest() == divide_by_user(before, seed=1).digest() != divide_by_user(before, seed=2).digest()
