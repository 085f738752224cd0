import numpy as np

from benchmarks.retrieval.with_courier import metrics_of_users
from models.retrieval.interactions import Interactions, Pairs


def test_new_items_are_looked_for_among_all_and_among_new_ones():
    random = np.random.default_rng(0)
    users, items = random.normal(size=(6, 3)).astype(np.float32), random.normal(size=(400, 3)).astype(np.float32)
    drawn = [np.argwhere(random.random((6, size)) < share) for size, share in ((150, 0.1), (400, 0.05))]
    train, test = (Pairs(*pairs.T.astype(np.int32)) for pairs in drawn)
    train = train.take(train.users != 5)  # who has nothing is not asked
    nothing = Pairs(np.empty(0, np.int32), np.empty(0, np.int32))
    names = [str(row) for row in range(400)]
    interactions = Interactions.of(names[:6], names, train, nothing, test)
    found = metrics_of_users(users, items, interactions)
    is_new = ~np.isin(np.arange(400), interactions.train.items)
    scores = users @ items.T
    assert found["new_users"].tolist() == [0, 1, 2, 3, 4]
    for user in range(5):
        wanted = interactions.test.items[interactions.test.users == user]
        wanted = wanted[is_new[wanted]]
        known = interactions.train.items[interactions.train.users == user]
        of_all = scores[user].copy()
        of_all[known] = -np.inf
        of_new = np.where(is_new, scores[user], -np.inf)
        for name, of_user in (("new_recall", of_all), ("among_new_recall", of_new)):
            best = np.argsort(-of_user)[:100]
            assert found[name][user] == np.isin(wanted, best).mean()
