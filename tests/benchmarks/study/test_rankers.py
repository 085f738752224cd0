import numpy as np

from benchmarks.pictures.hm import Pages
from benchmarks.study.rankers import TestPages as StudyPages


def draw(rng, users, missing) -> Pages:
    """Pages of four candidates, the last user's of three; in one draw a click is missing, another page has no other."""
    item = np.stack([rng.permutation(100)[:4] for _ in users])
    item[:, 0] = np.array(users) * 7
    clicked = np.zeros(item.shape, bool)
    clicked[:, 0] = True
    item[-1, 3] = -1
    clicked[missing, 0] = False
    clicked[0, :] = True
    empty = np.zeros((len(users), 0), int)
    return Pages(np.array(users) * 10, np.array(users), item, clicked, (empty, empty), np.zeros((*item.shape, 0)))


def test_placements_of_clicks_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    pages = [draw(rng, [1, 2, 3, 4], missing=1), draw(rng, [1, 2, 3, 4], missing=2)]
    tests = StudyPages.of([], pages, measurement=None)
    scores = [rng.integers(0, 3, each.valid.sum()).astype(float) for each in pages]
    expected: dict = {}
    for each, of_draw in zip(pages, scores, strict=True):
        dense = np.full(each.valid.shape, np.nan)
        dense[each.valid] = of_draw
        for row, (user, moment) in enumerate(zip(each.user, each.timestamp, strict=True)):
            others = dense[row][each.valid[row] & ~each.clicked[row]]
            for column in np.flatnonzero(each.valid[row] & each.clicked[row]) if len(others) else []:
                won = [1.0 if dense[row, column] > other else 0.5 * (dense[row, column] == other) for other in others]
                expected.setdefault((user, moment, each.item[row, column]), []).append(np.mean(won))
    assert [tuple(click) for click in tests.clicks] == sorted(expected)
    assert {len(values) for values in expected.values()} == {1, 2}
    np.testing.assert_allclose(tests.placements_of_clicks(scores), [np.mean(expected[key]) for key in sorted(expected)])
