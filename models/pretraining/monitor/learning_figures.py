"""What a trained encoder sees, to look at: the attention figure and TensorBoard's embedding projector."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.data.dataset import Dataset
from models.data.pages import PADDING
from models.data.shown_pictures import ShownPictures
from models.pretraining.courier import Courier
from models.pretraining.method import PretrainingMethod
from models.pretraining.monitor.attention_figure import attention_figure
from models.pretraining.monitor.embedding_projector import SPRITE_SIDE, write_embedding_projector
from models.pretraining.monitor.validation import SimilarityValidation

ATTENTION_FILE = "attention.html"
_PROJECTED = 3000  # pictures in the projector, which runs in a browser
_PAGES = 8
_CLICKED, _UNCLICKED = 2, 1  # candidates shown of a page
_CLICKS = 10
_FEWEST_CLICKS = 4  # of a page that is shown: with fewer there is little to choose from
_SIDE = 200  # of the pictures in the figure, in pixels


def write_learning_figures(
    run: Path,
    logs: Path,
    validation: SimilarityValidation,
    model: PretrainingMethod,
    dataset: Dataset,
    picture_of_item: np.ndarray,
) -> None:
    """Writes the embedding projector into `logs`, and for COURIER `attention.html` into `run`, as the encoder is now.

    The figure's pages are spread evenly over all with enough clicks: they are not chosen by how well they come out.

    Args:
        run: run directory.
        logs: log directory of TensorBoard; the projector goes to its run `validation`.
        validation: has the encoder and the pages.
        model: what the encoder learnt with.
        dataset: has the pictures and the items.
        picture_of_item: see `PictureStore`.
    """
    embeddings = validation.embed()
    shown = ShownPictures(dataset, picture_of_item)
    if isinstance(model, Courier):
        figure = _attention_figure(embeddings, validation, model, shown)
        (run / ATTENTION_FILE).write_text(figure, encoding="utf-8")
    rows = np.unique(np.linspace(0, len(embeddings) - 1, min(_PROJECTED, len(embeddings))).round().astype(int))
    numbers = validation.pictures[rows]
    write_embedding_projector(
        logs / "validation", embeddings[rows], shown.read(numbers, SPRITE_SIDE), shown.columns(numbers)
    )


def _attention_figure(
    embeddings: np.ndarray,
    validation: SimilarityValidation,
    courier: Courier,
    shown: ShownPictures,
) -> str:
    pages = _choose(validation.pages)
    candidates, clicks = pages["candidate_picture"], pages["click_picture"]
    weights, cosines = _attend(courier, embeddings, candidates, clicks)
    rows = np.unique(np.concatenate([candidates, clicks], axis=1))
    rows = rows[rows != PADDING]
    numbers = validation.pictures[rows]
    columns = shown.columns(numbers)

    def places(of: np.ndarray) -> np.ndarray:
        return np.where(of == PADDING, PADDING, np.searchsorted(rows, of))

    return attention_figure(
        {
            "candidate_picture": places(candidates),
            "click_picture": places(clicks),
            "clicked": pages["clicked"],
        },
        list(shown.read(numbers, _SIDE)),
        columns.get("title") or columns["item_id"],
        weights,
        cosines,
    )


def _choose(pages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A few pages, of each a few candidates, clicked ones first, and the latest clicks."""
    clicks = pages["click_picture"][:, :_CLICKS]
    distinct = np.array([len(np.unique(row[row != PADDING])) for row in clicks])
    enough = np.flatnonzero(distinct >= min(_FEWEST_CLICKS, distinct.max()))
    chosen = enough[np.unique(np.linspace(0, len(enough) - 1, _PAGES).round().astype(int))]
    candidates = np.full((len(chosen), _CLICKED + _UNCLICKED), PADDING)
    clicked = np.zeros(candidates.shape, bool)
    for i, page in enumerate(chosen):
        valid, was_clicked = pages["candidate_picture"][page] != PADDING, pages["clicked"][page]
        yes = np.flatnonzero(valid & was_clicked)[:_CLICKED]
        no = np.flatnonzero(valid & ~was_clicked)[:_UNCLICKED]
        some = np.concatenate([yes, no])
        candidates[i, : len(some)] = pages["candidate_picture"][page, some]
        clicked[i, : len(yes)] = True
    return {"candidate_picture": candidates, "clicked": clicked, "click_picture": clicks[chosen]}


def _attend(
    courier: Courier, embeddings: np.ndarray, candidates: np.ndarray, clicks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The model's weights, and the cosine of each candidate with its reconstruction."""
    compared = np.asarray(courier.compared(embeddings))
    candidate, click = compared[np.maximum(candidates, 0)], compared[np.maximum(clicks, 0)]
    arguments = (candidate, click, clicks != PADDING)
    weights = np.asarray(courier.reconstruction.attention_weights(*arguments))
    reconstructed = np.asarray(courier.reconstruction(*arguments))
    lengths = np.linalg.norm(candidate, axis=-1) * np.linalg.norm(reconstructed, axis=-1)
    return weights, (candidate * reconstructed).sum(axis=-1) / np.maximum(lengths, 1e-12)
