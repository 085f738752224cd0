"""COURIER fine-tuned from published weights: is it ahead of the published features, whitened, on later pages of H&M?

    python -m benchmarks.encoder.fine_tuning [--source DIR] [--work-dir DIR] [--quick]

Every try begins at the best row of `encoder_published`: the averages of all stages of EfficientNet-Lite0, whitened to
64 on the items of the pre-training window. COURIER then trains on the pages of that window, by one of:

- a head on frozen features: `linear` adds to the whitened components a matrix that starts at zero, `weights`
  learns one factor for each component;
- the last stages behind frozen ones, whose maps are computed once per picture; the whitening stays as it was fitted, so
  that training begins at the published features exactly.

Embeddings are compared after every epoch by SimScore, as they were learned, whitened anew (where stages learned), and
beside the published features (`mixed`: the sum of the two cosines). Epoch and form of each try, and the best try of
all, are chosen on the validation split; this one alone is measured on the test split, once. Intervals are 95 %, by a
bootstrap over users, paired. The tries that are done are kept under the work directory and not repeated.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from sklearn.decomposition import PCA

from beam_pipelines.format.text_file import write_json
from benchmarks.base import use_two_cores
from benchmarks.hm.runs import TEST, VALIDATION, open_dataset, run_study, study_parser
from benchmarks.hm.similarity_pages import Estimate, SimilarityPages, read_pages, similarity_aucs, user_bootstrap
from models.config import load_config
from models.data.dataset import Dataset
from models.data.pages import PADDING
from models.data.picture_store import PictureStore
from models.embeddings.vectors import l2_normalize
from models.pretraining.config import PretrainConfig
from models.pretraining.courier import Courier
from models.training.optimizer import OptimizerConfig, build_optimizer
from models.vision.config import build_encoder, load_pretrained
from models.vision.efficientnet_lite import EfficientNetLite
from models.vision.encoder import ImageEncoder

PRESET = "efficientnet_lite0"
COMPONENTS = 64
STAGES = 8
WIDTH = 10  # candidates of a page, and its clicks
BATCH = 256
PUBLISHED = "published, whitened to 64"


class Try(NamedTuple):
    """One way to fine-tune.

    Attributes:
        head: `fixed` (the whitening as it was fitted), `linear` or `weights`.
        frozen: stages that stay as published; fewer than 8 for a `fixed` head alone.
        components: whitened ones that the head reads.
        learning_rate, weight_decay, epochs: of AdamW with a cosine schedule.
        temperature: of COURIER.
        batch: pages per step.
    """

    head: str
    frozen: int = STAGES
    components: int = COMPONENTS
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 6
    temperature: float = 0.05
    batch: int = 256


TRIES = {
    "weights of 64 components": Try("weights"),
    "weights of 256 components": Try("weights", components=256),
    "weights of 256, temperature 0.2": Try("weights", components=256, temperature=0.2),
    "linear, 64 to 64": Try("linear"),
    "linear, 64 to 64, slow": Try("linear", learning_rate=1e-4),
    "linear, 64 to 64, temperature 0.2": Try("linear", temperature=0.2),
    "linear, 64 to 64, decay": Try("linear", weight_decay=1.0),
    "stages 7 and 8": Try("fixed", frozen=6, learning_rate=3e-5, epochs=3, batch=64),
}


class Published(NamedTuple):
    """What is computed once per picture.

    Attributes:
        features: `(pictures, features)` of all stages.
        maps: by number of frozen stages, float16 `(pictures, height, width, channels)` behind them.
        fitted_on: picture numbers of the items of the pre-training window; an item has one row.
    """

    features: np.ndarray
    maps: dict[int, np.ndarray]
    fitted_on: np.ndarray


class CachedEncoder(keras.Model):
    """Picture numbers to embeddings: the layers that learn, behind what was computed once.

    Args:
        plan: what learns.
        published: of the pictures.
        network: whose last stages are used and trained, if any.
    """

    def __init__(self, plan: Try, published: Published, network: EfficientNetLite) -> None:
        super().__init__()
        self.plan = plan
        whitening = fit_whitening(published.features[published.fitted_on], plan.components)
        self.mean, self.map = (tf.constant(values, tf.float32) for values in whitening)
        self.embedding_dim = plan.components if plan.head in ("fixed", "weights") else COMPONENTS
        self.cached = tf.constant(published.features)
        self.maps = None
        self.tuned: list[Any] = []
        if plan.frozen < STAGES:
            self.maps = tf.constant(published.maps[plan.frozen])
            self.stages = [*network.blocks[plan.frozen :], [network.head]]
            self.tuned = [block for blocks in self.stages for block in blocks]
            widths = [blocks[-1].filters for blocks in self.stages]
            self.cached = self.cached[:, : -sum(widths)]
        zeros = {"initializer": "zeros"}
        if plan.head == "weights":
            self.factors = self.add_weight(name="factors", shape=(plan.components,), **zeros)
        elif plan.head == "linear":
            self.matrix = self.add_weight(name="matrix", shape=(plan.components, COMPONENTS), **zeros)
        self.built = True

    def features(self, numbers: Any) -> Any:
        """Features of all stages, `(n, features)`."""
        features = tf.gather(self.cached, numbers)
        if self.maps is None:
            return features
        x = ops.cast(tf.gather(self.maps, numbers), "float32")
        averages = [features]
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
            averages.append(ops.mean(x, axis=(1, 2)))
        return ops.concatenate(averages, axis=-1)

    def call(self, numbers: Any, training: bool = False) -> Any:
        """See the class."""
        x = (self.features(numbers) - self.mean) @ self.map
        if self.plan.head == "fixed":
            return x
        if self.plan.head == "weights":
            return x * ops.exp(self.factors)
        return x[:, :COMPONENTS] + x @ self.matrix


def fit_whitening(vectors: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and matrix that make uncorrelated components of unit variance."""
    pca = PCA(components, svd_solver="randomized", random_state=0).fit(vectors)
    return pca.mean_, (pca.components_ / np.sqrt(pca.explained_variance_)[:, None]).T


def compute_published(encoder: ImageEncoder, store: PictureStore, folder: Path) -> dict[str, np.ndarray]:
    """Features of all stages and the maps behind stage 6, from the folder if they are there."""
    path = folder / "published.npz"
    if not path.exists():
        network = encoder.backbone

        @tf.function(autograph=False)
        def compute(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
            x = network.stem(encoder.normalize(pictures))
            averages, maps = [], {}
            for number, blocks in enumerate(network.blocks, 1):
                for block in blocks:
                    x = block(x)
                averages.append(ops.mean(x, axis=(1, 2)))
                if number == 6:
                    maps[str(number)] = ops.cast(x, "float16")
            averages.append(ops.mean(network.head(x), axis=(1, 2)))
            return {"features": ops.concatenate(averages, axis=-1), **maps}

        parts = [compute(batch) for batch in store.batches(BATCH)]
        np.savez(path, **{name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]})
    with np.load(path) as file:
        return dict(file)


def file_name(name: str) -> str:
    """Of a try's files, without the ending."""
    return name.replace(" ", "_").replace(",", "")


def embed(function: Any, pictures: int) -> np.ndarray:
    """A function of picture numbers over all pictures."""
    starts = range(0, pictures, BATCH)
    return np.concatenate([function(tf.range(first, min(first + BATCH, pictures))).numpy() for first in starts])


def run_try(
    plan: Try, dataset: Dataset, published: Published, base: np.ndarray, row: np.ndarray, pages: SimilarityPages
) -> tuple[dict[str, Any], np.ndarray]:
    """Trains; gives what was measured on the validation pages, and the embeddings of the best epoch and form."""
    keras.utils.set_random_seed(0)
    config = load_config(PretrainConfig, PRESET)
    start = time.monotonic()
    encoder = build_encoder(config.encoder)
    load_pretrained(encoder, config.encoder)
    cached = CachedEncoder(plan, published, encoder.backbone)
    courier = Courier(cached, temperature=plan.temperature)
    source = dataset.pretraining(image_size=config.image_size, candidates=WIDTH, clicks=WIDTH)
    source.read = lambda numbers: numbers  # what the encoder takes instead of pixels
    batches = source.batches(plan.batch)
    optimizer = OptimizerConfig(
        learning_rate=plan.learning_rate,
        schedule="cosine",
        weight_decay=plan.weight_decay,
        weight_decay_kind="decoupled",
        clip_norm=1.0,
    )
    courier.compile(build_optimizer(optimizer, plan.epochs * len(batches)), jit_compile=False)
    number = [tf.TensorSpec((None,), tf.int32)]
    embeddings = tf.function(lambda numbers: cached(numbers), input_signature=number, autograph=False)
    features = tf.function(lambda numbers: cached.features(numbers), input_signature=number, autograph=False)
    best, chosen, found = -np.inf, base, {}
    losses = []
    for epoch in range(plan.epochs):
        losses.append(courier.fit(batches, verbose=0).history["page_view_loss"][0])
        forms = {"as learned": embed(embeddings, len(base))}
        if plan.frozen < STAGES:
            tuned = embed(features, len(base))
            mean, matrix = fit_whitening(tuned[published.fitted_on], COMPONENTS)
            forms["whitened anew"] = (tuned - mean) @ matrix
        forms["mixed"] = np.concatenate([l2_normalize(base), l2_normalize(forms["as learned"])], axis=1)
        gauc = {form: float(similarity_aucs(vectors[row], pages).mean()) for form, vectors in forms.items()}
        form = max(gauc, key=lambda name: gauc[name])
        if gauc[form] > best:
            best, chosen, found = gauc[form], forms[form], {"epoch": epoch + 1, "form": form}
    result = {
        **plan._asdict(),
        **found,
        "validation_gauc": best,
        "last_epoch": gauc,
        "losses": losses,
        "seconds": time.monotonic() - start,
    }
    return result, chosen


def study(args: argparse.Namespace) -> dict:
    """Runs the tries that are not there yet, measures the best one on the test pages and returns the result."""
    use_two_cores()
    dataset = open_dataset(args.source, args.work_dir)
    print(f"notice: {dataset.manifest.notice}", flush=True)
    folder = args.work_dir / "fine_tuning"
    folder.mkdir(exist_ok=True)
    config = load_config(PretrainConfig, PRESET)
    encoder = build_encoder(config.encoder)
    load_pretrained(encoder, config.encoder)
    store = PictureStore(dataset, config.image_size)
    row = store.picture_of_item
    values = compute_published(encoder, store, folder)
    window = np.setdiff1d(read_pages(dataset, "pretrain", row >= 0).candidates, [PADDING])
    maps = {int(name): array for name, array in values.items() if name != "features"}
    published = Published(values["features"], maps, row[window])
    mean, matrix = fit_whitening(published.features[published.fitted_on], COMPONENTS)
    base = ((published.features - mean) @ matrix).astype(np.float32)
    pages = read_pages(dataset, VALIDATION, row >= 0)
    of_base = similarity_aucs(base[row], pages)
    print(f"{PUBLISHED}: validation {of_base.mean():.4f}", flush=True)
    rows = {}
    for name, plan in list(TRIES.items())[: 2 if args.quick else None]:
        path = folder / f"{file_name(name)}.json"
        vectors_path = path.with_suffix(".npy")
        if not path.exists():
            result, vectors = run_try(plan, dataset, published, base, row, pages)
            np.save(vectors_path, vectors)
            gain = user_bootstrap(similarity_aucs(vectors[row], pages) - of_base, pages.user)
            write_json(path, {**result, "validation_gain": listed(gain)})
        rows[name] = json.loads(path.read_text())
        found = rows[name]
        print(
            f"{name}: validation {found['validation_gauc']:.4f} ({found['form']}, epoch {found['epoch']}), last epoch "
            f"{found['last_epoch']}, gain {found['validation_gain']}, {found['seconds']:.0f} s",
            flush=True,
        )
    best = max(rows, key=lambda name: rows[name]["validation_gauc"])
    vectors = np.load(folder / f"{file_name(best)}.npy")
    test = read_pages(dataset, TEST, row >= 0)
    tested = {name: similarity_aucs(each[row], test) for name, each in ((PUBLISHED, base), (best, vectors))}
    gain = user_bootstrap(tested[best] - tested[PUBLISHED], test.user)
    print(f"test, {len(test.user)} pages: {PUBLISHED} {tested[PUBLISHED].mean():.4f}; {best} {tested[best].mean():.4f}")
    print(f"gain: {gain}")
    return {
        "notice": dataset.manifest.notice,
        "validation": {
            "pages": len(pages.user),
            PUBLISHED: listed(user_bootstrap(of_base, pages.user)),
            "tries": rows,
        },
        "test": {
            "pages": len(test.user),
            "users": len(np.unique(test.user)),
            "best": best,
            "published": listed(user_bootstrap(tested[PUBLISHED], test.user)),
            "gauc": listed(user_bootstrap(tested[best], test.user)),
            "gain": listed(gain),
        },
    }


def listed(estimate: Estimate) -> list[float]:
    """An estimate as JSON has it."""
    return [round(value, 4) for value in estimate]


if __name__ == "__main__":
    run_study("encoder_fine_tuning", study, study_parser(__doc__))
