import numpy as np
import pytest

from models.embeddings.probes import ProbeSplit, knn_probe, linear_probe, probe_split


def planted(classes=6, items=600, dim=12, spread=0.2, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, items)
    centres = rng.normal(size=(classes, dim))
    return (centres[labels] + spread * rng.normal(size=(items, dim))).astype(np.float32), labels


def own_groups(labels):
    return np.arange(len(labels))


def test_groups_stay_together_and_items_without_label_stay_out():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(-1, 4, 400), rng.integers(0, 90, 400)
    split = probe_split(labels, groups)
    assert sorted(np.concatenate(split)) == np.flatnonzero(labels >= 0).tolist()
    train, validation, test = (set(groups[rows]) for rows in split)
    assert not train & validation
    assert not (train | validation) & test
    again, other = probe_split(labels, groups), probe_split(labels, groups, seed=1)
    assert again.test.tolist() == split.test.tolist() != other.test.tolist()


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_separate_classes_are_known_and_shuffled_labels_are_chance(probe):
    embeddings, labels = planted(items=1200)
    split = probe_split(labels, own_groups(labels))
    known = probe(embeddings, labels, split)
    assert (known.top1, known.top5, known.standard_error) == (1.0, 1.0, 0.0)
    assert (known.train_items, known.test_items, known.classes) == (720, 300, 6)
    shuffled = np.random.default_rng(1).permutation(labels)
    chance = probe(embeddings, shuffled, probe_split(shuffled, own_groups(labels)))
    assert chance.top1 == pytest.approx(1 / 6, abs=0.07)
    assert chance.standard_error == pytest.approx(np.sqrt(chance.top1 * (1 - chance.top1) / 300))


def test_linear_probe_is_the_same_for_every_affine_map():
    embeddings, labels = planted(spread=1.0)
    split = probe_split(labels, own_groups(labels))
    rng = np.random.default_rng(1)
    mapped = embeddings @ rng.normal(size=(12, 12)).astype(np.float32) + 3
    plain, changed = linear_probe(embeddings, labels, split), linear_probe(mapped, labels, split)
    assert 0.5 < plain.top1 < 0.99
    assert changed.top1 == pytest.approx(plain.top1, abs=0.015)


def test_linear_probe_of_dimensions_that_repeat_others():
    embeddings, labels = planted()
    split = probe_split(labels, own_groups(labels))
    wide = np.concatenate([embeddings, embeddings, np.zeros_like(embeddings)], axis=1)
    assert linear_probe(wide, labels, split).top1 == pytest.approx(1.0, abs=0.02)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_equal_embeddings_know_nothing(probe):
    labels = np.random.default_rng(0).integers(0, 4, 200)
    known = probe(np.ones((200, 5), np.float32), labels, probe_split(labels, own_groups(labels)))
    assert 0 <= known.top1 < 0.5


def test_knn_probe_equals_a_loop_over_votes():
    embeddings, labels = planted(spread=1.0)
    split = probe_split(labels, own_groups(labels))
    hits = {1: 0, 5: 0}
    for row in split.test:
        distances = np.linalg.norm(embeddings[split.train].astype(np.float64) - embeddings[row], axis=1)
        nearest = np.argsort(distances)[:7]
        votes = np.bincount(labels[split.train][nearest], 1 / distances[nearest], minlength=6)
        for k in hits:
            hits[k] += (votes >= votes[labels[row]]).sum() <= k
    result = knn_probe(embeddings, labels, split, k=7)
    assert result.top1 == pytest.approx(hits[1] / len(split.test))
    assert result.top5 == pytest.approx(hits[5] / len(split.test))


def test_labels_without_a_vote_are_not_among_the_five_best():
    """One neighbour votes; the true label is one of seven without a vote."""
    embeddings = np.array([[0.0], [1], [2], [3], [4], [5], [6], [7], [0.1]])
    labels = np.array([0, 1, 2, 3, 4, 5, 6, 7, 1])
    split = ProbeSplit(np.arange(8), np.array([0]), np.array([8]))
    assert knn_probe(embeddings, labels, split, k=1)[:2] == (0.0, 0.0)


def test_test_label_that_no_train_item_has_counts_as_wrong():
    embeddings, labels = planted()
    split = probe_split(labels, own_groups(labels))
    labels[split.test[:30]] = 99
    for probe in (linear_probe, knn_probe):
        result = probe(embeddings, labels, split)
        assert result.top1 == pytest.approx(1 - 30 / len(split.test))
        assert result.classes == 6


def test_cosine_votes_ignore_lengths():
    embeddings, labels = planted()
    split = probe_split(labels, own_groups(labels))
    scaled = embeddings * np.random.default_rng(0).uniform(0.1, 10, (len(labels), 1))
    plain, changed = (knn_probe(e, labels, split, metric="cosine") for e in (embeddings, scaled))
    assert plain.top1 == changed.top1


def test_labels_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match="three groups"):
        probe_split(np.array([0, 1, 0, -1]), np.array([0, 0, 1, 2]))
    with pytest.raises(ValueError, match="two values"):
        probe_split(np.zeros(20, np.int64), np.arange(20))
