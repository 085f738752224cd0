import numpy as np

from beam_pipelines.datasets.basket_pages import BasketPages, Candidates, Purchases


def test_sampled_articles_are_on_sale_and_as_popular():
    rng = np.random.default_rng(0)
    rows = np.stack(
        [rng.integers(0, 400, 6000), rng.integers(0, 60, 6000), (rng.pareto(1, 6000) * 20).astype(int) % 900]
    )
    purchases = Purchases(*np.unique(rows, axis=1))
    builder = BasketPages(rng.integers(0, 4, 900), 10, np.random.default_rng(1))
    days = list(builder.build(purchases))
    assert all(len(np.unique(part.day)) == 1 for part in days)
    candidates = Candidates(*(np.concatenate(column) for column in zip(*days, strict=True)))
    for page in np.unique(candidates.page)[::7]:
        rows = candidates.page == page
        day = candidates.day[rows][0]
        popularity = {}
        for article, clicked in zip(candidates.article[rows], candidates.clicked[rows], strict=True):
            days = purchases.day[purchases.article == article]
            assert (np.abs(days - day) <= 60).any()
            recent = ((days < day) & (days >= day - 28)).sum()
            popularity.setdefault(clicked, set()).add(
                (np.searchsorted((1, 2, 3, 4, 6, 9, 14), recent, "right"), (days < day).any())
            )
        assert popularity.get(0, set()) <= popularity[1]
    assert builder.counters["pages without a sampled article"] < 0.05 * len(np.unique(candidates.page))
