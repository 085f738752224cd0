import numpy as np
import pytest

from models.pretraining.monitor.similarity_gauc import similarity_gauc


def reference(embeddings, pages, most_similar):
    areas = []
    for candidates, clicked, clicks in zip(
        *(pages[k] for k in ("candidate_picture", "clicked", "click_picture")), strict=True
    ):
        scores = {True: [], False: []}
        for candidate, label in zip(candidates, clicked, strict=True):
            if candidate >= 0:
                e = embeddings[candidate]
                cosines = [
                    e @ embeddings[k] / np.linalg.norm(e) / np.linalg.norm(embeddings[k]) for k in clicks if k >= 0
                ]
                scores[bool(label)].append(np.mean(sorted(cosines)[-most_similar:]))
        pairs = [float(p > n + 1e-9) + 0.5 * float(abs(p - n) < 1e-9) for p in scores[True] for n in scores[False]]
        if pairs:
            areas.append(np.mean(pairs))
    return np.mean(areas), len(areas)


def draw(pages=30, candidates=6, clicks=8, pictures=40, seed=0):
    rng = np.random.default_rng(seed)
    page = {
        "candidate_picture": rng.integers(-1, pictures, (pages, candidates)),
        "click_picture": np.where(
            np.arange(clicks) < rng.integers(1, clicks + 1, (pages, 1)), rng.integers(0, pictures, (pages, clicks)), -1
        ),
    }
    page["clicked"] = (rng.random((pages, candidates)) < 0.3) & (page["candidate_picture"] >= 0)
    return rng.normal(size=(pictures, 5)), page


@pytest.mark.parametrize("most_similar", [1, 3, 5])
def test_equals_plain_python(most_similar):
    embeddings, pages = draw()
    mean, compared = reference(embeddings, pages, most_similar)
    actual = similarity_gauc(embeddings, pages, most_similar=most_similar)
    assert actual.pages == compared
    assert actual.gauc_page_mean == pytest.approx(mean, abs=1e-12)


def test_long_embeddings_are_scored_in_parts():
    _, pages = draw(pages=12, pictures=15)
    embeddings = np.random.default_rng(2).normal(size=(15, 200_000)).astype(np.float32)
    mean, _ = reference(embeddings.astype(np.float64), pages, 5)
    assert similarity_gauc(embeddings, pages).gauc_page_mean == pytest.approx(mean, abs=1e-9)


def test_length_of_embeddings_does_not_matter_and_equal_pictures_are_chance():
    embeddings, pages = draw()
    scaled = embeddings * np.random.default_rng(1).uniform(0.1, 10, (40, 1))
    assert similarity_gauc(scaled, pages).gauc_page_mean == pytest.approx(similarity_gauc(embeddings, pages)[0])
    assert similarity_gauc(np.ones((40, 5)), pages).gauc_page_mean == 0.5


def test_clicked_candidates_that_look_like_the_history_are_perfect():
    style = np.arange(40) % 4
    pages = {
        "candidate_picture": np.array([[0, 1, 2, 3]] * 4),
        "click_picture": np.array([[4 + k, 8 + k] for k in range(4)]),
        "clicked": np.eye(4, dtype=bool),
    }
    assert similarity_gauc(np.eye(4)[style], pages).gauc_page_mean == 1.0
