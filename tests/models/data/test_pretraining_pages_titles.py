import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import ArtifactError
from models.data.pretraining_pages import divide_batches
from tests.models.picture_dataset import write_picture_dataset

TITLES = ["", "red", "blue", "green", "plum", None, "grey"]  # by item
PLACES = [(0, 0), (0, 0), (0, 0), (0, 1), (0, 2), (0, 3), (-1, -1)]
TITLE_OF_PICTURE = ["red", "green", "plum", ""]  # that of the first item with one


def tokenize(titles):
    """A token per letter, three at most."""
    tokens = np.full((len(titles), 3), -1, np.int32)
    for row, title in enumerate(titles):
        tokens[row, : len(title)] = [ord(letter) for letter in title[:3]]
    return tokens


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    shades = [np.full((6, 6, 3), 20 * shade, np.uint8) for shade in range(4)]
    records = [
        {"item": [n % 5, (n + 1) % 5, 6], "clicked": [1, 0, 0], "click_item": [5, n % 3], "timestamp": 100 + n}
        for n in range(12)
    ]
    directory = tmp_path_factory.mktemp("titles")
    return write_picture_dataset(directory / "data", [shades], PLACES, records, columns={"title": TITLES})


def test_each_picture_has_the_title_of_the_first_item_with_one(dataset):
    pages = dataset.pretraining((6, 6), candidates=2, clicks=2, tokenize=tokenize)
    seen = set()
    for batch in pages.batches(4).as_numpy_iterator():
        assert batch["tokens"].dtype == np.int32
        for number, tokens in zip(batch["picture_id"], batch["tokens"], strict=True):
            np.testing.assert_array_equal(tokens, tokenize([TITLE_OF_PICTURE[number] if number >= 0 else ""])[0])
            seen.add(int(number))
    assert seen >= {0, 1, 2, 3}


@pytest.mark.parametrize("replicas", [2, 4])
def test_titles_are_divided_with_their_pictures(dataset, replicas):
    pages = dataset.pretraining((6, 6), candidates=2, clicks=2, tokenize=tokenize)
    context = tf.distribute.InputContext(1, 0, replicas)
    divided = divide_batches(pages.training_batches(4).take(3), context).as_numpy_iterator()
    made = pages.training_batches(4, context=context).take(3 * replicas).as_numpy_iterator()
    for one, other in zip(divided, made, strict=True):
        np.testing.assert_array_equal(one["tokens"], other["tokens"])
        assert (one["tokens"].max(1) >= 0).sum() == ((one["picture_id"] >= 0) & (one["picture_id"] < 3)).sum()


@pytest.mark.parametrize(
    ("columns", "message"), [({}, "has no titles; build it"), ({"title": [None, None]}, "has no title of an item")]
)
def test_a_dataset_without_titles_is_refused(columns, message, tmp_path):
    page = {"item": [0, 1], "clicked": [1, 0], "click_item": [0], "timestamp": 1}
    pictures = [[np.zeros((4, 4, 3), np.uint8)] * 2]
    data = write_picture_dataset(tmp_path / "data", pictures, [(0, 0), (0, 1)], [page], columns=columns)
    with pytest.raises(ArtifactError, match=message):
        data.pretraining((4, 4), candidates=1, clicks=1, tokenize=tokenize)
