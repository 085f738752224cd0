"""Trains a pre-trained image encoder on for classification or image search, and measures it on held-out products."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError, InputError, about
from beam_pipelines.format.location import Location, as_location
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.format.text_file import write_json
from beam_pipelines.shell.progress import say
from models.config import load_config
from models.data.augmentation import flip_crop
from models.data.dataset import Dataset
from models.embeddings.identity_recall import RANKS
from models.finetuning.batches import PictureSteps, ProductSteps, training_batches
from models.finetuning.config import FinetuneConfig
from models.finetuning.labelled_pictures import ARCHIVE_FILE, NO_LABEL, LabelledPictures
from models.finetuning.picture_classifier import PictureClassifier, label_ranks
from models.finetuning.product_encoder import ProductEncoder
from models.finetuning.product_search import SearchSplit, identity_recalls, search_split
from models.metrics.bootstrap import bootstrap_counts, interval, resampled_sums
from models.training.checkpoints import Checkpoints
from models.training.optimizer import build_optimizer
from models.training.replicas import mirrored_strategy
from models.training.resumable_fit import resumable_fit
from models.vision.config import build_encoder, load_pretrained
from models.vision.encode import encode_function, encode_pictures
from models.vision.encoder_run import EncoderRun

Task = Literal["classify", "retrieve"]
Encode = Callable[[tf.Tensor], tf.Tensor]
METRICS_FILE = "metrics.json"
MEASURED_FILE = "measured.npz"
_MAY_CHANGE = {"checkpoint_minutes"}
_TOP = (1, 5)
_ENCODE_TOGETHER = 256


class Finetuned(NamedTuple):
    """What `finetune` returns.

    Attributes:
        run: the encoder's run directory.
        metrics: what `metrics.json` holds.
    """

    run: EncoderRun
    metrics: dict[str, Any]


class _Task(NamedTuple):
    """What is learned, and how it is measured."""

    steps: PictureSteps
    targets: np.ndarray
    validation: Any
    test: Any


def finetune(
    data: Dataset | Location | str,
    output: Location | str,
    *,
    task: Task,
    encoder: EncoderRun | Location | str | None = None,
    label: str = "category",
    product: str = "item_id",
    product_digits: int | None = None,
    config: FinetuneConfig | str | None = None,
    restart: bool = False,
    overwrite: bool = False,
) -> Finetuned:
    """Trains an image encoder on and measures it on pictures of products that it has not learned on.

    Checkpoints are written beside `output`; the same call goes on where it was interrupted, and ends with the same
    encoder. All GPUs of the machine train together.

    Args:
        data: a page dataset, or its directory; or a directory with `images.zip` and `labels.csv`, see
            `LabelledPictures.of_archive`.
        output: the run directory to write: that of an encoder, which `embed` takes, with `metrics.json`, and
            `measured.npz`, what was measured of each held-out picture.
        task: `classify` learns a label, with one more layer; measured are top-1 and top-5. `retrieve` learns which
            pictures show the same product; measured is Identity Recall@1, 5, 10, 15, 20: of each held-out product with
            several pictures, one is searched with, and the others are in the gallery, beside all pictures of the
            held-out products that have only one.
        encoder: an encoder's run to start from; `None` for what the configuration says: random or published weights.
        label: of a dataset, the column of the items that is learned.
        product, product_digits: of a dataset, the column of the items, and how many of its first characters, that are
            the same for pictures of one product; `None` for all.
        config: how it learns, or a YAML file; by default that of `FinetuneConfig`.
        restart: throws away the checkpoints of an interrupted run instead of going on.
        overwrite: replaces the output if it exists.

    Raises:
        ArtifactError: there is nothing to learn on, `output` exists, or the checkpoints are of another run.
        ConfigurationError: the configuration does not fit the data.
        InputError: the loss or a weight is not finite any more.

    Example:
        >>> finetune("artifacts/dataset", "artifacts/search", task="retrieve", encoder="artifacts/encoder").metrics
    """
    if not isinstance(config, FinetuneConfig):
        config = load_config(FinetuneConfig, config)
    if task not in ("classify", "retrieve"):
        raise InputError(f"`task` must be classify or retrieve. Received: {task}")
    start = encoder
    if start is not None and not isinstance(start, EncoderRun):
        with about("encoder"):
            start = EncoderRun.load(start)
    image_size = config.image_size if start is None else start.metadata.image_size
    with about("data"):
        known, inputs = _pictures(data, image_size, label, product, product_digits)
    if known.notice:
        say(f"notice: {known.notice}")
    output = as_location(output)
    with whole_directory(output, overwrite=overwrite, inputs=inputs) as directory:
        keras.utils.set_random_seed(config.seed)
        what = _classification(known, config) if task == "classify" else _retrieval(known, config)
        if not what.steps.per_epoch:
            raise ConfigurationError(
                f"batch_size: must be at most what there is to learn on. Received: {config.batch_size}"
            )
        checkpoints = Checkpoints(
            output.with_name(f"{output.name}.checkpoints"),
            {
                **config.flat(exclude=_MAY_CHANGE),
                "task": task,
                "label": label,
                "product": [product, product_digits],
                "pictures": known.digest,
                "encoder": None if start is None else start.metadata.weights_sha256,
            },
            restart=restart,
        )
        with checkpoints:
            strategy = mirrored_strategy()
            with strategy.scope():
                model = _model(task, start, config, len(known.names))
                model.compile(build_optimizer(config.optimizer, what.steps.per_epoch * config.epochs))
            history = _fit(model, task, known, what, config, checkpoints)
        measured = _measure(model, task, known, what.test)
        metrics = {"task": task, **_sizes(task, what, known), **_summary(measured, task)}
        write_json(directory / METRICS_FILE, metrics)
        np.savez(directory / MEASURED_FILE, **measured)
        trained = model.encoder if config.precision == "float32" else model.encoder.with_precision("float32")
        seen = None if start is None else start.metadata
        run = EncoderRun.save(
            directory,
            trained,
            method=task if seen is None else f"{seen.method}, {task}",
            image_size=image_size,
            dataset_digest=known.digest,
            window=None if seen is None else seen.window,
            notice=known.notice,
            config=config.to_yaml(),
            history=history,
        )
    checkpoints.remove()
    return Finetuned(EncoderRun(output, run.metadata), metrics)


def _pictures(
    data: Dataset | Location | str, image_size: tuple[int, int], label: str, product: str, product_digits: int | None
) -> tuple[LabelledPictures, list[Location]]:
    if not isinstance(data, Dataset):
        place = as_location(data)
        if isinstance(place, Path) and (place / ARCHIVE_FILE).is_file():
            return LabelledPictures.of_archive(place, image_size), [place]
        data = Dataset(place)
    return LabelledPictures.of_dataset(data, image_size, label, product, product_digits), [data.path]


def _classification(known: LabelledPictures, config: FinetuneConfig) -> _Task:
    labelled = known.labels != NO_LABEL
    test = known.held_out
    if test is None:
        test = _drawn(known.products, config.held_out_share, config.split_seed)
    rest = np.flatnonzero(labelled & ~test)
    is_validation = _drawn(known.products, config.validation_share, config.split_seed + 1)[rest]
    train, validation, test = rest[~is_validation], rest[is_validation], np.flatnonzero(labelled & test)
    if len(known.names) < 2 or not len(test) or len(np.unique(known.labels[train])) < 2:
        raise ConfigurationError("held_out_share: there must be two labels to learn, and pictures to measure them on")
    return _Task(PictureSteps(train, config.batch_size, config.seed), known.labels, validation, test)


def _retrieval(known: LabelledPictures, config: FinetuneConfig) -> _Task:
    if config.batch_size % 2:
        raise ConfigurationError(
            f"batch_size: must be even, two pictures of each product. Received: {config.batch_size}"
        )
    test = search_split(known.products, config.held_out_share, config.split_seed)
    rest = np.setdiff1d(np.arange(len(known.products)), np.concatenate([test.query, test.gallery]))
    inner = search_split(known.products[rest], config.validation_share, config.split_seed + 1)
    train, *validation = (rest[rows] for rows in inner)
    if not len(test.query) or not len(train):
        raise ConfigurationError("held_out_share: there must be products with two pictures, to learn on and to search")
    steps = ProductSteps(train, known.products, config.batch_size, config.seed)
    return _Task(steps, known.products, SearchSplit(train, *validation), test)


def _drawn(products: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which pictures are of a share of the products: bool `(pictures,)`."""
    names, product = np.unique(products, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(names))[: round(share * len(names))]
    return np.isin(product, chosen)


def _model(task: Task, start: EncoderRun | None, config: FinetuneConfig, classes: int) -> Any:
    if start is not None:
        encoder = start.encoder(config.precision)
    else:
        encoder = build_encoder(config.encoder, dtype=config.precision)
        load_pretrained(encoder, config.encoder)
    if task == "classify":
        return PictureClassifier(encoder, classes, dtype=config.precision)
    return ProductEncoder(encoder, config.retrieve.temperature, dtype=config.precision)


class _SearchValidation(keras.callbacks.Callback):
    """Adds Identity Recall@1 of the validation products to an epoch's logs."""

    def __init__(self, known: LabelledPictures, split: SearchSplit) -> None:
        super().__init__()
        self._known, self._split = known, split

    def set_model(self, model: Any) -> None:
        """Keras' hook."""
        super().set_model(model)
        self._encode = _encode(model, self._known)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keras' hook: completes the logs."""
        found = _search(self._encode, self._known, self._split)
        logs["val_recall_1"] = float(found[:, 0].mean())


def _fit(
    model: Any, task: Task, known: LabelledPictures, what: _Task, config: FinetuneConfig, checkpoints: Checkpoints
) -> dict[str, list[float | None]]:
    augment = flip_crop(config.seed) if config.augmentation == "flip_crop" else None
    with tf.device("CPU"):
        pictures = tf.constant(known.pictures)
    validation: dict[str, Any] = {}
    callbacks: list[keras.callbacks.Callback] = []
    if task == "classify" and len(what.validation):
        rows = what.validation
        chosen = tf.data.Dataset.from_tensor_slices(rows).batch(config.batch_size)
        labels = tf.constant(known.labels)
        validation = {
            "validation_data": chosen.map(lambda rows: (tf.gather(pictures, rows), tf.gather(labels, rows))),
            "monitor": "val_top1",
        }
    if task == "retrieve" and len(what.validation.query):
        callbacks.append(_SearchValidation(known, what.validation))
        validation = {"monitor": "val_recall_1"}
    return resumable_fit(
        model,
        lambda step: training_batches(what.steps, pictures, what.targets, augment, step, config.epochs),
        checkpoints,
        steps_per_epoch=what.steps.per_epoch,
        epochs=config.epochs,
        checkpoint_minutes=config.checkpoint_minutes,
        own_progress=True,
        callbacks=[*callbacks, _Lines()],
        **validation,
    )


class _Lines(keras.callbacks.Callback):
    """Tells of each epoch in a line."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Keras' hook."""
        say(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in sorted(logs.items())))


def _encode(model: Any, known: LabelledPictures) -> Encode:
    """The model's encoder as one graph."""
    _, height, width, _ = known.pictures.shape
    return encode_function(model.encoder, (height, width))


def _embed(encode: Encode, pictures: np.ndarray) -> np.ndarray:
    return encode_pictures(encode, tf.data.Dataset.from_tensor_slices(pictures).batch(_ENCODE_TOGETHER))


def _search(encode: Encode, known: LabelledPictures, split: SearchSplit) -> np.ndarray:
    query, gallery = (_embed(encode, known.pictures[rows]) for rows in (split.query, split.gallery))
    return identity_recalls(query, known.products[split.query], gallery, known.products[split.gallery])


def _measure(model: Any, task: Task, known: LabelledPictures, test: Any) -> dict[str, np.ndarray]:
    """What is found of each held-out picture: `hits`, `(pictures, measures)`, and their `products`."""
    if task == "retrieve":
        return {
            "hits": _search(_encode(model, known), known, test),
            "products": known.products[test.query],
        }
    logits = model.logits(_embed(_encode(model, known), known.pictures[test]))
    ranks = label_ranks(logits, tf.constant(known.labels[test])).numpy()
    return {"hits": np.stack([(ranks <= k).astype(np.float64) for k in _TOP], axis=1), "products": known.products[test]}


def _sizes(task: Task, what: _Task, known: LabelledPictures) -> dict[str, int]:
    if task == "retrieve":
        return {"queries": len(what.test.query), "gallery": len(what.test.gallery)}
    return {"pictures": len(what.test), "classes": len(known.names)}


def _summary(measured: dict[str, np.ndarray], task: Task) -> dict[str, list[float]]:
    """Each measure, with the ends of its interval over products."""
    names = [f"recall_{k}" for k in RANKS] if task == "retrieve" else [f"top{k}" for k in _TOP]
    product = np.unique(measured["products"], return_inverse=True)[1]
    counts = bootstrap_counts(int(product.max()) + 1)
    sums = resampled_sums(np.stack([np.ones(len(product)), *measured["hits"].T]), counts, product)
    shares = sums[1:] / sums[:1]
    low, high = interval(shares[:, 1:])
    return {name: [float(shares[n, 0]), float(low[n]), float(high[n])] for n, name in enumerate(names)}
