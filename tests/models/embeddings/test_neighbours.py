import numpy as np
import pytest

from models.embeddings.neighbours import Neighbours, largest_k


def brute_force(embeddings, has_image, metric, seed, k):
    """Plain Python: distance to every other item, nearest first, the lower row first on ties."""
    found = []
    for row in np.flatnonzero(has_image):
        if row == seed:
            continue
        a, b = embeddings[seed].astype(np.float64), embeddings[row].astype(np.float64)
        if metric == "euclidean":
            distance = float(np.sqrt(((a - b) ** 2).sum()))
        else:
            distance = 1 - float(a @ b / np.sqrt((a @ a) * (b @ b)))
        found.append((distance, int(row)))
    return sorted(found)[:k]


def draw(items=300, dim=7, seed=0, missing=0.2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(items, dim)).astype(np.float32), rng.random(items) >= missing


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("items", "dim", "k"), [(12, 1, 3), (50, 3, 1), (300, 16, 25)])
def test_equals_brute_force(metric, items, dim, k):
    embeddings, has_image = draw(items, dim)
    embeddings += 0.5 if dim > 1 else 0
    seeds = np.flatnonzero(has_image)[:9]
    nearest = Neighbours(embeddings, has_image, metric).search(seeds, k)
    for seed, rows, distances in zip(*nearest, strict=True):
        expected = brute_force(embeddings, has_image, metric, seed, k)
        np.testing.assert_allclose(distances, [d for d, _ in expected], atol=1e-5)
        if dim > 1:  # in one dimension all cosines are ties
            assert rows.tolist() == [row for _, row in expected]


def test_neither_the_item_itself_nor_one_without_picture_is_a_neighbour():
    embeddings, has_image = draw()
    embeddings[~has_image] = embeddings[np.flatnonzero(has_image)[0]]  # nearest of all, if it counted
    seeds = np.flatnonzero(has_image)
    nearest = Neighbours(embeddings, has_image).search(seeds, largest_k(len(seeds)))
    for seed, rows in zip(seeds, nearest.rows, strict=True):
        assert sorted([*rows, seed]) == seeds.tolist()


def test_equal_items_come_in_the_order_of_their_rows_at_distance_zero():
    embeddings, _ = draw(40)
    embeddings[[3, 8, 21, 30]] = embeddings[0]
    nearest = Neighbours(embeddings, np.ones(40, bool)).search(np.array([0, 8]), 4)
    assert nearest.rows.tolist() == [[3, 8, 21, 30], [0, 3, 21, 30]]
    assert (nearest.distances == 0).all()


def test_item_is_left_out_even_if_more_items_equal_it_than_are_looked_at():
    embeddings = np.ones((200, 4), np.float32)
    nearest = Neighbours(embeddings, np.ones(200, bool)).search(np.arange(200), 5)
    assert (nearest.rows != np.arange(200)[:, None]).all()
    assert all(len(set(rows)) == 5 for rows in nearest.rows.tolist())


def test_cosine_ignores_lengths_and_distance_does_not():
    embeddings = np.array([[1, 0], [10, 0], [1, 0.5]], np.float32)
    everything = np.ones(3, bool)
    assert Neighbours(embeddings, everything, "cosine").search(np.array([0]), 2).rows.tolist() == [[1, 2]]
    assert Neighbours(embeddings, everything, "euclidean").search(np.array([0]), 2).rows.tolist() == [[2, 1]]


def test_blocks_are_parts_of_the_search():
    embeddings, has_image = draw(1000, 2000, missing=0)  # 1 << 25 elements hold 621 seeds of 27 candidates
    index, seeds = Neighbours(embeddings, has_image), np.arange(999, -1, -1)
    blocks = list(index.blocks(seeds, 10))
    assert [len(block.seeds) for block in blocks] == [621, 379]
    whole = index.search(seeds, 10)
    assert whole.seeds.tolist() == seeds.tolist()
    np.testing.assert_array_equal(np.concatenate([block.rows for block in blocks]), whole.rows)
    assert index.search(seeds[:0], 10).rows.shape == (0, 10)


def test_half_precision_on_disk_gives_the_neighbours_of_what_it_holds(tmp_path):
    embeddings, has_image = draw(100, 8)
    np.save(tmp_path / "embeddings.npy", embeddings.astype(np.float16))
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    seeds = np.flatnonzero(has_image)
    found = Neighbours(mapped, has_image).search(seeds, 5)
    expected = Neighbours(mapped.astype(np.float32), has_image).search(seeds, 5)
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_partitioned_index_is_close_to_brute_force():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(500, 16))
    embeddings = (centres[rng.integers(500, size=60_000)] + 0.3 * rng.normal(size=(60_000, 16))).astype(np.float32)
    seeds = np.arange(0, 60_000, 600)
    nearest = Neighbours(embeddings, np.ones(60_000, bool)).search(seeds, 10)
    recall = []
    for seed, rows, distances in zip(*nearest, strict=True):
        exact = np.linalg.norm(embeddings - embeddings[seed], axis=1)
        exact[seed] = np.inf
        np.testing.assert_allclose(distances, exact[rows], rtol=1e-5)
        recall.append(len(set(rows) & set(np.argsort(exact)[:10])) / 10)
    assert np.mean(recall) > 0.99


def test_mistakes_are_clear():
    embeddings, has_image = draw(20, missing=0)
    has_image[[2, 5]] = False
    index = Neighbours(embeddings, has_image)
    with pytest.raises(ValueError, match=r"`k` must be between 1 and 17. Received: 18"):
        index.search(np.array([0]), 18)
    for seed in (5, -1, 20):
        with pytest.raises(ValueError, match=f"`seeds` must be rows of items with a picture. Received: {seed}"):
            index.search(np.array([0, seed]), 3)
    with pytest.raises(ValueError, match="`metric` must be one of"):
        Neighbours(embeddings, has_image, "dot")
    with pytest.raises(ValueError, match="true for some item"):
        Neighbours(embeddings, np.zeros(20, bool))
    with pytest.raises(ValueError, match=r"must have shape .* Received: \(20, 7\) and \(19,\)"):
        Neighbours(embeddings, has_image[1:])
    embeddings[2] = np.nan  # of an item without picture: it does not matter
    Neighbours(embeddings, has_image)
    embeddings[7] = 0
    Neighbours(embeddings, has_image)
    with pytest.raises(ValueError, match=r"finite and not zero. Received: 1 other rows, the first is row 7"):
        Neighbours(embeddings, has_image, "cosine")
    embeddings[9] = np.inf
    with pytest.raises(ValueError, match=r"must be finite. Received: 1 other rows, the first is row 9"):
        Neighbours(embeddings, has_image)
