import numpy as np

from benchmarks.retrieval.amazon import users_by_published_rule
from models.retrieval.interactions import Interactions, Pairs


def parts(*numbers):
    """Users with so many interactions to learn from, to validate and to test."""
    users = [np.repeat(np.arange(len(numbers)), [each[part] for each in numbers]) for part in range(3)]
    first = np.cumsum([[0] * len(numbers), *(np.array(numbers).T[:2])], axis=0)
    items = [
        np.concatenate([first[part][user] + np.arange(each[part]) for user, each in enumerate(numbers)])
        for part in range(3)
    ]
    pairs = [Pairs(user.astype(np.int32), item.astype(np.int32)) for user, item in zip(users, items, strict=True)]
    return Interactions.of([str(user) for user in range(len(numbers))], [str(item) for item in range(99)], *pairs)


def test_users_are_split_by_the_published_rule_or_not():
    assert users_by_published_rule(parts((3, 1, 1), (7, 1, 1), (8, 1, 1), (12, 2, 1), (16, 2, 2), (24, 3, 3))) == 1
    assert users_by_published_rule(parts((3, 1, 1), (12, 1, 2), (3, 2, 0), (9, 3, 3))) == 0.25
