"""Directories of embeddings, as `embed` would write them of an encoder."""

from pathlib import Path

import numpy as np

from beam_pipelines.format.manifest import Window
from models.data.dataset import Dataset
from models.embeddings.embeddings import Embeddings
from models.vision.encoder_run import EncoderMetadata


def save_embeddings(
    path: Path, vectors: np.ndarray, has_image: np.ndarray | None = None, dataset: Dataset | None = None, **encoder
) -> Embeddings:
    """Saves vectors, float `(items, dim)`; those of items without a picture become zeros.

    Args:
        path: the directory.
        vectors: of the items.
        has_image: bool `(items,)`; all if it is left out.
        dataset: whose items these are; of no real one if it is left out.
        encoder: fields of `EncoderMetadata` that a test looks at.
    """
    has_image = np.ones(len(vectors), bool) if has_image is None else has_image
    made_by = {
        "method": "courier",
        "image_size": (8, 8),
        "embedding_dim": vectors.shape[1],
        "weights_sha256": "weights",
        "dataset_digest": "dataset",
        "window": Window(first=0, last=1),
        "notice": "",
    }
    with_pictures = dataset is not None and dataset.manifest.images is not None
    return Embeddings.save(
        path,
        np.where(has_image[:, None], vectors, 0).astype(vectors.dtype),
        has_image,
        encoder=EncoderMetadata(**{**made_by, **encoder}),
        item_ids_sha256="items" if dataset is None else dataset.manifest.items.ids_sha256,
        pictures_sha256="" if dataset is None else dataset.manifest.pictures_sha256,
        picture_hashes=dataset.picture_hashes() if with_pictures else None,
    )
