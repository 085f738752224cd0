"""One encoder of the study: trained, embedded, whitened, clustered and measured."""

import hashlib
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.clustering.label_consistency import LABELS, K
from benchmarks.hm.similarity_pages import SimilarityPages, similarity_aucs
from benchmarks.study.plan import AS_PUBLISHED, FORMS, PUBLISHED_START, UNTRAINED, WHITENED_DIM, Encoder
from models.clustering.cluster import cluster
from models.config import load_config
from models.data.dataset import Dataset
from models.embeddings.embed import embed
from models.embeddings.embeddings import Embeddings
from models.embeddings.label_consistency import label_codes, label_consistency, label_shares, title_groups
from models.embeddings.neighbours import Neighbours
from models.embeddings.page_contents import item_texts
from models.embeddings.probes import linear_probe, probe_split
from models.embeddings.whiten import whiten
from models.pretraining.config import PretrainConfig
from models.pretraining.methods import PRESETS
from models.pretraining.pretrain import pretrain


class Trained(NamedTuple):
    """An encoder's embeddings and what training it took.

    Attributes:
        path: holds `encoder`, and for each form `FORM/embeddings` and `FORM/clusters`.
        seconds: of the training.
        overrides: of its preset.
    """

    path: Path
    seconds: float
    overrides: list[str]

    def embeddings(self, form: str) -> Embeddings:
        """The embeddings, `raw` or `whitened`."""
        return Embeddings.load(self.path / form / "embeddings")


def overrides_of(encoder: Encoder, changes: tuple[str, ...], seed: int, epochs: int) -> list[str]:
    """The configuration of an encoder, less its method's preset.

    Args:
        encoder: of the plan.
        changes: what tuning has chosen, and the encoder's own.
        seed: of everything random.
        epochs: passes over the pages.
    """
    start = PUBLISHED_START if encoder.start == "published" else ()
    frozen = ("epochs=1", "optimizer.learning_rate=1e-12") if encoder.method == UNTRAINED else (f"epochs={epochs}",)
    # The published start has no projection unless something after it says so.
    projection = ("encoder.embedding_dim=null",) if start else ()
    return [*start, *projection, *frozen, *changes, f"seed={seed}"]


def train(
    dataset: Dataset, directory: Path, encoder: Encoder, changes: tuple[str, ...], seed: int, epochs: int
) -> Trained:
    """Trains an encoder, embeds all items and whitens; what is there already is kept.

    Args:
        dataset: with the pre-training view that the encoder needs.
        directory: keeps encoders, by all that decides what they are.
        encoder, changes, seed, epochs: see `overrides_of`.
    """
    overrides = overrides_of(encoder, changes, seed, epochs)
    # What is whitened, embedded and learned on hangs on the dataset; an equal encoder of another cell is this one.
    text = "\n".join([dataset.manifest.digest(), encoder.method, *overrides])
    path = directory / f"{encoder.method}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    path.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    if not (path / "encoder").exists():
        if encoder.method == AS_PUBLISHED:
            pretrain(None, path / "encoder", method="none")
        else:
            method = "courier" if encoder.method == UNTRAINED else encoder.method
            config = load_config(PretrainConfig, PRESETS[method], overrides)
            pretrain(dataset, path / "encoder", config=config, method=method)
        (path / "seconds").write_text(f"{time.monotonic() - start:.1f}\n")
    if not (path / "raw/embeddings").exists():
        (path / "raw").mkdir(exist_ok=True)
        embed(dataset, path / "encoder", path / "raw/embeddings")
    raw = Embeddings.load(path / "raw/embeddings")
    if not (path / "whitened/embeddings").exists():
        (path / "whitened").mkdir(exist_ok=True)
        whiten(raw, path / "whitened/embeddings", data=dataset, dim=min(WHITENED_DIM, raw.dim), l2=True)
    return Trained(path, float((path / "seconds").read_text()), overrides)


def make_clusters(trained: Trained, form: str) -> Path:
    """Clusters the embeddings of a form, unless that is done."""
    path = trained.path / form / "clusters"
    if not path.exists():
        cluster(trained.embeddings(form), path)
    return path


def similarity(trained: Trained, pages: SimilarityPages) -> dict[str, np.ndarray]:
    """AUC of SimScore on each page, by form."""
    return {form: similarity_aucs(np.asarray(trained.embeddings(form).vectors), pages) for form in FORMS}


def label_consistencies(trained: Trained, dataset: Dataset) -> dict[str, dict[str, list[float]]]:
    """How well neighbours agree on labels: label, then form, to mean and standard error over products."""
    labels, products, seeds = _labels(trained, dataset)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in labels}
    for form in FORMS:
        vectors = np.asarray(trained.embeddings(form).vectors)
        neighbours = Neighbours(vectors, trained.embeddings(form).has_image, "euclidean")
        rows = np.concatenate([block.rows for block in neighbours.blocks(seeds, K)])
        for name, codes in labels.items():
            of_label = label_consistency(label_shares(codes[seeds], codes[rows]), products[seeds])
            found[name][form] = [round(of_label.mean, 4), round(of_label.standard_error, 4)]
    return found


def type_probe(trained: Trained, dataset: Dataset) -> dict[str, float]:
    """How well a linear probe of the raw embeddings tells the product type: top-1, top-5, standard error of top-1."""
    labels, products, seeds = _labels(trained, dataset)
    vectors, codes = np.asarray(trained.embeddings("raw").vectors)[seeds], labels["type"][seeds]
    probe = linear_probe(vectors, codes, probe_split(codes, products[seeds]))
    return {name: round(getattr(probe, name), 4) for name in ("top1", "top5", "standard_error")}


def _labels(trained: Trained, dataset: Dataset) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Codes of labels and the product by item row, and the rows that have a picture."""
    items = dataset.items()
    labels = {name: label_codes(item_texts(items, column)) for name, column in LABELS.items()}
    products = title_groups(label_codes(item_texts(items, "title")))
    return labels, products, np.flatnonzero(trained.embeddings("raw").has_image)
