"""One ranker of the study: trained with an encoder's pictures and measured on the draws of the test pages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beam_pipelines.format.errors import InputError
from benchmarks.hm.runs import TEST
from benchmarks.hm.similarity_pages import read_pages as similarity_pages
from benchmarks.pictures.hm import ATTRIBUTES, CONFIG, Measurement, Pages, item_features, read_pages
from benchmarks.study.encoders import Trained, make_clusters
from benchmarks.study.plan import RANKER_FEATURES
from models.clustering.clusters import Clusters
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import GROUPS, page_batches
from models.embeddings.embeddings import Embeddings
from models.embeddings.page_contents import item_texts
from models.evaluation.scored_pages import TASKS, score_pages
from models.metrics.auc import group_auc, placements
from models.ranker.config import TrainingConfig
from models.ranker.train import train_ranker

MEMBERS = 2
QUICK = ("ranker.members=1", "epochs=1")


class TestPages(NamedTuple):
    """The draws of the test pages.

    Attributes:
        draws: the datasets.
        pages: of each draw.
        measurement: turns scores into AUCs of pages.
        users: users of the pages, ascending: the rows of the sums that the AUC is made of.
        clicks: user, moment and item row of the candidates that were clicked on pages with unclicked ones, of all
            draws, `(clicks, 3)`.
    """

    draws: Sequence[Dataset]
    pages: Sequence[Pages]
    measurement: Measurement
    users: np.ndarray
    clicks: np.ndarray

    @classmethod
    def read(cls, draws: Sequence[Dataset]) -> "TestPages":
        """Reads the test pages of all draws."""
        pages = [read_pages(draw, TEST) for draw in draws]
        learned = read_pages(draws[0], "train")
        seen = np.unique(np.concatenate([learned.item.ravel(), *(steps.ravel() for steps in learned.histories)]))
        measurement = Measurement(pages, [~np.isin(each.item[each.valid], seen) for each in pages])
        return cls.of(draws, pages, measurement)

    @classmethod
    def of(cls, draws: Sequence[Dataset], pages: Sequence[Pages], measurement: Measurement) -> "TestPages":
        """Completes what is known of the pages."""
        clicks = np.unique(np.concatenate([_clicks(each) for each in pages]), axis=0)
        return cls(draws, pages, measurement, np.unique(pages[0].user), clicks)

    def described(self, dataset: Dataset) -> dict[str, Any]:
        """What the values of all cells belong to: users of pages, their candidates, and the clicked ones' category."""
        pages = self.pages[0]
        rows = np.searchsorted(self.users, np.repeat(pages.user, pages.valid.sum(axis=1)))
        clicked = pages.clicked[pages.valid]
        has_image = dataset.image_index()["shard"].to_numpy() >= 0
        categories = np.array(item_texts(dataset.items(), "category"))
        return {
            "similarity_user": similarity_pages(dataset, TEST, has_image).user.tolist(),
            "ranker_user": {part: user.tolist() for part, user in self.measurement.user.items()},
            "users": self.users.tolist(),
            "candidates": [np.bincount(rows, chosen, len(self.users)).tolist() for chosen in (clicked, ~clicked)],
            "click_user": self.clicks[:, 0].tolist(),
            "click_category": categories[self.clicks[:, 2]].tolist(),
        }

    def placements_of_clicks(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """The share of its page's unclicked candidates that each clicked one is scored above, ties half: `(clicks,)`.

        Args:
            scores: of the candidates of each draw.

        Returns:
            Means over the draws that have it.
        """
        total, draws = np.zeros((2, len(self.clicks)))
        for pages, of_draw in zip(self.pages, scores, strict=True):
            dense = np.zeros(pages.valid.shape)
            dense[pages.valid] = of_draw
            above = (np.sign(dense[:, :, None] - dense[:, None, :]) + 1) / 2
            other = _unclicked(pages)
            won = (above * other[:, None, :]).sum(axis=2) / np.maximum(1, other.sum(axis=1))[:, None]
            ordered, row = np.unique(np.concatenate([self.clicks, _clicks(pages)]), axis=0, return_inverse=True)
            assert len(ordered) == len(self.clicks)
            row = row.reshape(-1)[len(self.clicks) :]
            total[row] += won[_measured_clicks(pages)]
            draws[row] += 1
        return total / draws


def _unclicked(pages: Pages) -> np.ndarray:
    return pages.valid & ~pages.clicked


def _measured_clicks(pages: Pages) -> np.ndarray:
    return pages.valid & pages.clicked & _unclicked(pages).any(axis=1)[:, None]


def _clicks(pages: Pages) -> np.ndarray:
    """User, moment and item row of the candidates that were clicked on pages with unclicked ones."""
    row, column = np.nonzero(_measured_clicks(pages))
    return np.stack([pages.user[row], pages.timestamp[row], pages.item[row, column]], axis=1)


def train(
    dataset: Dataset, path: Path, feature: str, trained: Trained | None, form: str, seed: int, quick: bool
) -> None:
    """Trains a ranker, unless it is there.

    Args:
        dataset: to learn on.
        path: run directory.
        feature: of `RANKER_FEATURES`, or `none`.
        trained: the encoder, `None` for none.
        form: of its embeddings.
        seed: of the ranker.
        quick: whether it has one member and one epoch.
    """
    if path.exists():
        return
    name, changes = RANKER_FEATURES.get(feature, ("none", ()))
    pictures: list[Embeddings | Clusters] = []
    if trained is not None:
        clustered = name == "cluster_id"
        pictures = [Clusters.load(make_clusters(trained, form)) if clustered else trained.embeddings(form)]
    settings = [*CONFIG, item_features("category", *ATTRIBUTES), f"ranker.members={MEMBERS}", *changes]
    settings += QUICK if quick else []
    path.parent.mkdir(parents=True, exist_ok=True)
    config = load_config(TrainingConfig, None, settings)
    train_ranker(dataset, path, pictures=pictures, image_feature=name, config=config, seed=seed)


def train_without_ids(
    dataset: Dataset, path: Path, trained: Trained | None, form: str, seed: int, quick: bool, three_tasks: bool
) -> None:
    """Trains a ranker by `simscore`, or without pictures, unless it is there.

    It has no IDs: each is on so few pages that it is learned by heart. `three_tasks`: it also predicts orders and long
    visits.
    """
    if path.exists():
        return
    more = ", ctcvr: 0.5, long_visit: 0.5" if three_tasks else ""
    settings = [
        "ranker.features.user={}",
        item_features("category"),
        f"ranker.tasks={{ctr: 1.0, pairwise: 1.0{more}}}",
    ]
    settings += QUICK if quick else []
    pictures = None if trained is None else trained.embeddings(form)
    path.parent.mkdir(parents=True, exist_ok=True)
    config, name = load_config(TrainingConfig, None, settings), "none" if trained is None else "simscore"
    train_ranker(dataset, path, pictures=pictures, image_feature=name, config=config, seed=seed)


def measure_pages(ranker: Any, dataset: Dataset, three_tasks: bool) -> dict[str, Any]:
    """AUC of each test page that has one, and its user.

    Returns:
        `pages` and `user`; with `three_tasks` also `tasks`: of clicks, orders and long visits, and of clicks on items
        that no train page shows, `auc`, and by user the summed `placements` and the number of `candidates`, of those
        with the outcome and of the others.
    """
    lengths = ranker.config.lengths
    scored = score_pages(ranker, page_batches(dataset, TEST, lengths, batch_size=128, to_longest=GROUPS))
    found = group_auc(scored.ctr, scored.clicked, scored.page)
    user = scored.user[np.unique(scored.page, return_index=True)[1]]
    figures: dict[str, Any] = {
        "pages": np.round(found.auc[found.valid], 4).tolist(),
        "user": user[found.valid].tolist(),
    }
    if three_tasks:
        everything = np.ones(len(scored.item), bool)
        new = ~np.isin(scored.item, np.unique(read_pages(dataset, "train").item))
        outcomes = {
            "click": (scored.ctr, scored.clicked, everything),
            "click, new items": (scored.ctr, scored.clicked, new),
        }
        for task in TASKS:
            outcomes[task] = (getattr(scored, task), *scored.outcome(task))
        figures["tasks"] = {
            task: _task_figures(scores[known], happened[known], scored.user[known])
            for task, (scores, happened, known) in outcomes.items()
        }
    return figures


def _task_figures(scores: np.ndarray, happened: np.ndarray, user: np.ndarray) -> dict[str, Any]:
    placement, (users, row) = placements(scores, happened), np.unique(user, return_inverse=True)
    sides = (happened, ~happened)
    return {
        "auc": round(float(placement[happened].mean()), 5),
        "placements": [np.round(np.bincount(row, placement * side, len(users)), 3).tolist() for side in sides],
        "candidates": [np.bincount(row, side, len(users)).astype(int).tolist() for side in sides],
    }


def measure(ranker: Any, tests: TestPages) -> dict[str, Any]:
    """Scores all draws and measures.

    Returns:
        `pages`: AUC of each page, of `all` and of `unseen` candidates; `placements`: by user the summed placements of
        clicked and of unclicked candidates among the others, a mean over draws; `auc`: over all candidates; `clicks`:
        of each clicked candidate `placements_of_clicks`, a mean over draws.
    """
    scores, sums, aucs = [], [], []
    for draw, pages in zip(tests.draws, tests.pages, strict=True):
        lengths = ranker.config.lengths
        scored = score_pages(ranker, page_batches(draw, TEST, lengths, batch_size=128, to_longest=GROUPS))
        if not np.array_equal(scored.item, pages.item[pages.valid]):
            raise InputError("the scores are of other candidates, or in another order")
        scores.append(scored.ctr)
        placement, row = placements(scored.ctr, scored.clicked), np.searchsorted(tests.users, scored.user)
        sums.append(
            [np.bincount(row, placement * chosen, len(tests.users)) for chosen in (scored.clicked, ~scored.clicked)]
        )
        aucs.append(placement[scored.clicked].mean())
    return {
        "auc": round(float(np.mean(aucs)), 5),
        "pages": {part: np.round(values, 4).tolist() for part, values in tests.measurement.aucs(scores).items()},
        "placements": np.round(np.mean(sums, axis=0), 3).tolist(),
        "clicks": np.round(tests.placements_of_clicks(scores), 4).tolist(),
    }
