import html
import re

import keras
import numpy as np
import pytest
from PIL import Image

from models.data.pretraining_pages import PretrainingPages
from models.pretraining.courier import Courier
from models.pretraining.monitor.attention_figure import attention_figure
from models.pretraining.monitor.learning_figures import write_learning_figures
from models.pretraining.monitor.validation import SimilarityValidation
from tests.browser import check_self_contained
from tests.models.picture_dataset import write_picture_dataset

SIDE = 6
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (250, 0, 250), (0, 250, 250)]


def percents(figure):
    """The numbers of each candidate's bars."""
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', figure)
    return [[int(n) for n in re.findall(r"<b>(\d+)%</b>", row)] for row in rows]


def draw(**changes):
    arguments = {
        "pages": {
            "candidate_picture": np.array([[0, 1], [2, -1]]),
            "click_picture": np.array([[3, 4, -1], [4, -1, -1]]),
            "clicked": np.array([[True, False], [True, False]]),
        },
        "pictures": [np.full((9, 6, 3), colour, np.uint8) for colour in COLOURS[:5]],
        "captions": ["red", '<green> & "co"', "blue", "yellow", "pink"],
        "weights": np.array([[[0.25, 0.75, 0], [0.9, 0.1, 0]], [[1, 0, 0], [0, 0, 0]]]),
        "cosines": np.array([[0.5, -0.25], [1.0, 0.0]]),
    }
    return attention_figure(**{**arguments, **changes})


def test_every_weight_is_a_bar_and_padding_is_not_shown():
    figure = draw()
    assert percents(figure) == [[25, 75], [90, 10], [100]]
    assert re.findall(r"height:([\d.]+%)", figure) == ["25.0%", "75.0%", "90.0%", "10.0%", "100.0%"]
    assert re.findall(r"fit (-?[\d.]+)", figure) == ["0.50", "-0.25", "1.00"]
    assert re.findall(r'<span class="mark.*?">([a-z ]+)</span>', figure)[1:] == ["clicked", "not clicked", "clicked"]


def test_the_click_with_the_largest_weight_stands_beside_its_candidate():
    pairs = re.findall(r'class="pair"><div><img .*?title="(.*?)">.*?class="closest"><img .*?title="(.*?)">', draw())
    assert [tuple(map(html.unescape, pair)) for pair in pairs] == [
        ("red", "pink"),
        ('<green> & "co"', "yellow"),
        ("blue", "pink"),
    ]


def test_it_needs_nothing_else():
    figure = draw()
    assert len(check_self_contained(figure).of("img")) == 9
    assert "<green>" not in figure  # captions are text
    assert not re.findall("https?:", figure)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`weights` must have shape \(2, 2, 3\) .* Received: \(2, 2, 2\)"):
        draw(weights=np.zeros((2, 2, 2)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twelve pages; each has one clicked candidate, which is the same colour as one of five clicks."""
    rng = np.random.default_rng(0)
    pages = [
        {
            "item": [wanted := int(rng.integers(6)), (wanted + 1) % 6],
            "clicked": [1, 0],
            "click_item": [int(item) for item in rng.permutation(6)],
            "timestamp": 1000 + number,
        }
        for number in range(12)
    ]
    pictures = [np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in COLOURS]
    root = tmp_path_factory.mktemp("dataset") / "dataset"
    return write_picture_dataset(root, [pictures], [(0, i) for i in range(6)], pages, image_format="webp"), pages


def colour_encoder():
    """The embedding of a picture is its mean colour: pictures of one colour are most similar to themselves."""
    inputs = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(8 / 255)(inputs))
    return keras.Model(inputs, x)


@pytest.mark.parametrize("scores", ["scaled", "raw"])
def test_figures_of_an_encoder(dataset, tmp_path, scores):
    dataset, pages = dataset
    view = PretrainingPages(dataset, (SIDE, SIDE), candidates=2, clicks=6, validation_share=0.5)
    validation = SimilarityValidation(view.validation_pages(clicks=6, limit=5), view.read)
    courier = Courier(colour_encoder(), scores=scores)
    validation.set_model(courier)
    write_learning_figures(tmp_path, tmp_path / "logs", validation, courier, dataset, view.store.picture_of_item)

    # The weights of a plain computation, page by page, in the order of the clicks.
    expected = []
    embeddings = np.array(COLOURS) * 8 / 255
    for page in pages[6:11]:
        for item in page["item"]:
            s = np.array([embeddings[item] @ embeddings[click] for click in page["click_item"]])
            weights = np.exp((s - s.max()) / (3**0.5 if scores == "scaled" else 1))
            expected.append(weights / weights.sum())
    actual = percents((tmp_path / "attention.html").read_text())
    np.testing.assert_allclose(actual, 100 * np.array(expected), atol=1)

    metadata = (tmp_path / "logs/validation/metadata.tsv").read_text().split()
    assert metadata == [f"i{row}" for row in range(6)]
    with Image.open(tmp_path / "logs/validation/sprite.png") as sprite:
        assert np.abs(np.asarray(sprite)[31, 31].astype(int) - COLOURS[0]).max() < 20
