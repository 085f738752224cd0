"""What an encoder learns on H&M: how well its embeddings order later pages, beside everything simpler.

    python -m benchmarks.encoder.quality [--source DIR] [--work-dir DIR] [--config NAME] [--test] [--quick]

Trains with `models.pretrain` and embeds with `models.embed`, both as a user would run them, then orders pages that lie
strictly after the pre-training window by SimScore: the mean of a candidate's 5 largest cosines to the user's last 50
clicks. All rows order the same pages:

- `raw pixels`: cosines of the pictures themselves, at the encoder's input size;
- `centred pixels`: the same less means; of six definitions the best on the validation split;
- `colour histogram`: 64 colours, less their mean;
- `attribute share`: share of the clicks with the candidate's catalogue value, averaged over the attributes;
- `attributes`: gradient boosting on these shares, trained on the pages of the pre-training window;
- `random init`: the same network before training;
- `courier`: trained.

`whitened` rows use uncorrelated components of unit variance, fitted on the items of the pre-training window. Nothing is
fitted on the pages that are ordered. Validation pages are for tuning; `--test` adds the later test pages. Intervals are
95 %, by a bootstrap over users, with seeds averaged. The figures of the result are those of the later of the two
splits.
"""

import argparse
import statistics

import keras
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from benchmarks.hm.runs import TEST, VALIDATION, open_dataset, run_study, study_parser, train_runs
from benchmarks.hm.similarity_pages import (
    Estimate,
    SimilarityPages,
    page_aucs,
    read_pages,
    similarity_aucs,
    user_bootstrap,
)
from models.config import load_config
from models.data.pages import PADDING
from models.data.picture_store import PictureStore
from models.embeddings.vectors import l2_normalize
from models.pretraining.config import PretrainConfig
from models.vision.config import build_encoder
from models.vision.encode import encode_function, encode_pictures

COMPARED = {  # by name in the result
    "random": "random init",
    "pixels": "raw pixels",
    "centred_pixels": "centred pixels",
    "attributes": "attributes",
}
SHRINK = (1, 2, 4)  # centred pixels are compared at the encoder's input size divided by these
COLOURS = 4  # per channel
COMPONENTS = 256  # of whitened embeddings, at most
BATCH = 256

Aucs = dict[str, np.ndarray]
"""By split: the AUC of each page."""


def pixel_vectors(pictures: np.ndarray, shrink: int) -> np.ndarray:
    """Pictures uint8 `(n, height, width, 3)`, shrunk, as vectors."""
    size = [max(1, side // shrink) for side in pictures.shape[1:3]]
    vectors = np.empty((len(pictures), size[0] * size[1] * 3), np.float32)
    for first in range(0, len(pictures), BATCH):
        resized = tf.image.resize(pictures[first : first + BATCH], size, antialias=True)
        vectors[first : first + BATCH] = resized.numpy().reshape(len(resized), -1)
    return vectors


def pixel_embeddings(pictures: np.ndarray, shrink: int) -> np.ndarray:
    """`pixel_vectors` less their own mean and of unit length."""
    vectors = pixel_vectors(pictures, shrink)
    return l2_normalize(vectors - vectors.mean(axis=1, keepdims=True))


def colour_histograms(pictures: np.ndarray) -> np.ndarray:
    """Square roots of the shares of each colour in pictures uint8 `(n, height, width, 3)`: float32 `(n, colours)`."""
    bins = COLOURS**3
    colour = pictures.reshape(len(pictures), -1, 3) // (256 // COLOURS) @ np.array([COLOURS**2, COLOURS, 1])
    numbered = colour + bins * np.arange(len(pictures))[:, None]
    counts = np.bincount(numbered.ravel(), minlength=bins * len(pictures)).reshape(len(pictures), bins)
    return np.sqrt(counts / colour.shape[1]).astype(np.float32)


def whiten(vectors: np.ndarray, fitted_on: np.ndarray, components: int = COMPONENTS) -> np.ndarray:
    """Uncorrelated components of unit variance, at most so many, fitted on rows `fitted_on`."""
    components = min(components, vectors.shape[1])
    pca = PCA(components, whiten=True, svd_solver="randomized", random_state=0).fit(vectors[fitted_on])
    return pca.transform(vectors)


def attribute_codes(items: pa.Table) -> np.ndarray:
    """The catalogue attributes, `category` and every `label_*`, as numbers: `(items, attributes)`."""
    names = ["category", *(name for name in items.column_names if name.startswith("label_"))]
    codes = [pc.fill_null(items[name].combine_chunks(), "").dictionary_encode().indices for name in names]
    return np.stack([column.to_numpy() for column in codes], axis=1)


def attribute_shares(codes: np.ndarray, pages: SimilarityPages) -> np.ndarray:
    """Share of the clicks that have the candidate's value, by attribute: `(pages, candidates, attributes)`."""
    valid = (pages.clicks != PADDING)[:, None]
    shared = [((of[pages.candidates][..., None] == of[pages.clicks][:, None]) & valid).sum(axis=2) for of in codes.T]
    return np.stack(shared, axis=2) / valid.sum(axis=2, keepdims=True)


def attribute_features(codes: np.ndarray, pages: SimilarityPages) -> np.ndarray:
    """`attribute_shares` and the number of clicks they are shares of."""
    shares = attribute_shares(codes, pages)
    clicks = np.broadcast_to((pages.clicks != PADDING).sum(axis=1)[:, None, None], (*shares.shape[:2], 1))
    return np.concatenate([shares, clicks], axis=2)


def boosted_attribute_aucs(codes: np.ndarray, training: SimilarityPages, splits: dict[str, SimilarityPages]) -> Aucs:
    """Orders pages by gradient boosting on `attribute_features`, trained on other pages."""
    valid = training.candidates != PADDING
    model = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=200, early_stopping=False, random_state=0
    )
    aucs = {}
    with threadpool_limits(1):  # more threads are slower on rows this few
        model.fit(attribute_features(codes, training)[valid], training.clicked[valid])
        for split, pages in splits.items():
            features = attribute_features(codes, pages)
            scores = model.predict_proba(features.reshape(-1, features.shape[2]))[:, 1]
            aucs[split] = page_aucs(scores.reshape(features.shape[:2]), pages)
    return aucs


def untrained_embeddings(config: PretrainConfig, seed: int, pictures: np.ndarray) -> np.ndarray:
    """What the encoder makes of pictures before it has learnt anything."""
    keras.utils.set_random_seed(seed)
    encode = encode_function(build_encoder(config.encoder), config.image_size)
    batches = (tf.constant(pictures[first : first + BATCH]) for first in range(0, len(pictures), BATCH))
    return encode_pictures(encode, batches)


def study(args: argparse.Namespace) -> dict:
    """Measures everything, prints the tables and returns the result."""
    dataset = open_dataset(args.source, args.work_dir)
    print(f"notice: {dataset.manifest.notice}", flush=True)
    config = load_config(PretrainConfig, args.config, args.set)
    store = PictureStore(dataset, config.image_size)
    has_image = store.picture_of_item >= 0
    names = {"validation": VALIDATION, "test": TEST} if args.test else {"validation": VALIDATION}
    splits = {name: read_pages(dataset, split, has_image) for name, split in names.items()}
    training = read_pages(dataset, "pretrain", has_image)
    window_items = np.setdiff1d(training.candidates, [PADDING])
    rows: dict[str, list[Aucs]] = {}

    def add(name: str, aucs: Aucs) -> None:
        rows.setdefault(name, []).append(aucs)
        print(f"{name}: " + ", ".join(f"{split} {aucs[split].mean():.4f}" for split in splits), flush=True)

    def similarity(embeddings: np.ndarray) -> Aucs:
        return {split: similarity_aucs(embeddings, pages) for split, pages in splits.items()}

    def add_embeddings(name: str, embeddings: np.ndarray) -> None:
        add(name, similarity(embeddings))
        add(f"{name}, whitened", similarity(whiten(embeddings, window_items)))

    pictures = store.read_all()
    best = -np.inf
    add_embeddings("raw pixels", pixel_vectors(pictures, 1)[store.picture_of_item])
    for shrink in SHRINK:
        vectors = pixel_embeddings(pictures, shrink)[store.picture_of_item]
        mean_picture = vectors[window_items].mean(axis=0)
        for removed in ("own mean", "own mean and mean picture"):
            if removed != "own mean":
                vectors = vectors - mean_picture
            gauc = similarity_aucs(vectors, splits["validation"]).mean()
            print(f"pixels, size / {shrink}, {removed} removed: validation {gauc:.4f}", flush=True)
            if gauc > best:
                best, definition, centred = gauc, f"size / {shrink}, {removed} removed", vectors
    add_embeddings("centred pixels", centred)
    histograms = colour_histograms(pictures)[store.picture_of_item]
    add_embeddings("colour histogram", histograms - histograms[window_items].mean(axis=0))
    codes = attribute_codes(dataset.items())
    shares = {split: attribute_shares(codes, pages).mean(axis=2) for split, pages in splits.items()}
    add("attribute share", {split: page_aucs(shares[split], pages) for split, pages in splits.items()})
    add("attributes", boosted_attribute_aucs(codes, training, splits))
    for seed in range(args.seeds):
        add_embeddings("random init", untrained_embeddings(config, seed, pictures)[store.picture_of_item])
    seconds = []
    for _, _, run in train_runs(dataset, args.work_dir, args.config, {"courier": args.set}, args.seeds, args.jobs):
        add_embeddings("courier", run.embeddings)
        seconds.append(round(run.seconds))

    figures = {split: _figures(split, pages, rows) for split, pages in splits.items()}
    print(
        f"centred pixels: {definition}\n"
        f"trained in {seconds} s per seed, {args.jobs} at a time; {dataset.manifest.notice}"
    )
    return {
        "notice": dataset.manifest.notice,
        "splits": list(splits),
        "seeds": args.seeds,
        "seconds": seconds,
        **figures[list(splits)[-1]],
        **({"validation": figures["validation"]} if args.test else {}),
    }


def _figures(split: str, pages: SimilarityPages, rows: dict[str, list[Aucs]]) -> dict:
    """Prints the table of a split and returns what it says of the rows that matter."""
    mean = {name: np.mean([aucs[split] for aucs in seeds], axis=0) for name, seeds in rows.items()}
    users = len(np.unique(pages.user))
    print(f"\n{split}: {len(pages.user)} pages of {users} users\n{'':28s}{'GAUC':26s}over seeds")
    for name, seeds in rows.items():
        of_seed = [aucs[split].mean() for aucs in seeds]
        spread = f"+- {statistics.stdev(of_seed):.4f}" if len(of_seed) > 1 else ""
        print(f"{name:28s}{user_bootstrap(mean[name], pages.user)!s:26s}{spread}")
    figures = {"pages": len(pages.user), "users": users}
    for name, row in {"courier": "courier", **COMPARED}.items():
        figures |= _named(f"gauc_{name}", user_bootstrap(mean[row], pages.user))
    for whitened in ("", ", whitened"):
        for name, row in COMPARED.items():
            other = row + whitened if row + whitened in mean else row
            gain = user_bootstrap(mean[f"courier{whitened}"] - mean[other], pages.user)
            print(f"{f'courier{whitened}':18s} - {other:25s}{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
            figures |= _named(f"{'whitened_' if whitened else ''}gain_over_{name}", gain)
    return figures


def _named(name: str, estimate: Estimate) -> dict[str, float | list[float]]:
    return {name: round(estimate.mean, 4), f"{name}_interval": [round(estimate.low, 4), round(estimate.high, 4)]}


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--test", action="store_true", help="measure on the test split, too")
    run_study("encoder_quality", study, parser)
