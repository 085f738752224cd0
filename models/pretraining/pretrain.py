"""Pre-trains an image encoder on the pages of a dataset: the whole recipe, from the data to a run directory."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from beam_pipelines.format.errors import ConfigurationError, InputError
from beam_pipelines.format.location import Location, as_location, is_remote
from beam_pipelines.format.manifest import PRETRAINING
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.progress import say
from models.config import load_config
from models.data.augmentation import flip_crop
from models.data.dataset import Dataset
from models.data.pretraining_pages import PretrainingPages
from models.pretraining.config import PretrainConfig
from models.pretraining.method import PretrainingMethod
from models.pretraining.methods import AS_PUBLISHED, METHODS, PRESETS, AnyEncoder, unused_sections
from models.pretraining.monitor.collapse import CollapseWarning
from models.pretraining.monitor.learning_figures import write_learning_figures
from models.pretraining.monitor.progress import Progress
from models.pretraining.monitor.tensorboard import TensorBoardCurves
from models.pretraining.monitor.validation import SimilarityValidation, Throughput
from models.text.config import build_tokenizer
from models.training.checkpoints import Checkpoints
from models.training.optimizer import build_optimizer
from models.training.replicas import ends_with_other_workers, is_chief, training_strategy
from models.training.resumable_fit import resumable_fit
from models.vision.config import PUBLISHED, build_encoder, load_pretrained
from models.vision.efficientnet_lite import EfficientNetLite
from models.vision.encoder import ImageEncoder
from models.vision.encoder_run import LOGS, EncoderRun
from models.vision.thawed_encoder import ThawedEncoder

_MAY_CHANGE = {"cache_megabytes", "checkpoint_minutes"}  # keys that make no difference to what is learnt
_VALIDATION_CLICKS = 50
_VALIDATION_PAGES = 2000


class Pretrained(NamedTuple):
    """What `pretrain` returns.

    Attributes:
        run: the encoder's run directory; `None` in a worker that is not the chief, which writes it.
        pages: number of pages that the encoder learned on.
    """

    run: EncoderRun | None
    pages: int


def pretrain(
    data: Dataset | Location | str | None,
    output: Location | str,
    *,
    config: PretrainConfig | str | None = None,
    method: str = "courier",
    restart: bool = False,
    overwrite: bool = False,
) -> Pretrained:
    """Pre-trains an image encoder on pages: what users click after what they clicked, or the pictures alone.

    Checkpoints are written beside `output`; the same call goes on where it was interrupted, and ends with the same
    encoder. Curves for TensorBoard can be watched in `OUTPUT.logs` meanwhile, those of a remote output in a directory
    of this machine, which it tells. With `TF_CONFIG` set, several workers train together, and each calls this function;
    otherwise all GPUs of the machine do.

    Args:
        data: the page dataset, or its directory; method `none` needs none.
        output: the run directory to write.
        config: how the encoder learns, or the name of a preset in `models/configs`, or a YAML file; by default the
            method's own preset.
        method: one of `METHODS`, or `none`, which trains nothing: the embeddings are the features of published weights.
        restart: throws away the checkpoints of an interrupted run instead of going on.
        overwrite: replaces the output if it exists.

    Raises:
        ArtifactError: there is nothing to learn on, `output` exists, or the checkpoints are of another run.
        ConfigurationError: the configuration does not fit the data or the devices.
        InputError: the loss or a weight is not finite any more.

    Example:
        >>> run = pretrain("artifacts/dataset", "artifacts/encoder", config="courier_cpu").run
        >>> encoder = run.encoder()
    """
    if method not in PRESETS:
        raise InputError(f"`method` must be one of {', '.join(PRESETS)}. Received: {method}")
    if not isinstance(config, PretrainConfig):
        config = load_config(PretrainConfig, config or PRESETS[method])
    if method == AS_PUBLISHED:
        return Pretrained(_write_as_published(as_location(output), config, overwrite), 0)
    if data is None:
        raise InputError(f"`data` must be given with `method` {method}. Received: None")
    unused = unused_sections(method)
    for section in sorted(unused):
        if getattr(config, section) != PretrainConfig.model_fields[section].default:
            raise ConfigurationError(f"{section}: is of no use to the method {method}")
    dataset = data if isinstance(data, Dataset) else Dataset(data)
    if METHODS[method].needs_unclicked and dataset.pretraining_view().kind == "causal":
        raise InputError(
            f"`method` must not be {method}, which learns from unclicked candidates, where there are none: "
            f"{dataset.path} was built with --pretraining-view causal"
        )
    output = as_location(output)
    strategy = training_strategy()
    if config.batch_size % strategy.num_replicas_in_sync:
        raise ConfigurationError(
            f"batch_size: must be a multiple of the {strategy.num_replicas_in_sync} devices. "
            f"Received: {config.batch_size}"
        )
    chief = is_chief(strategy)
    # Of several workers, one writes.
    whole = whole_directory(output, overwrite=overwrite, inputs=[dataset.path]) if chief else contextlib.nullcontext()
    with (
        ends_with_other_workers(strategy),
        whole as directory,
        _log_directory(output, writes=chief, restart=restart) as logs,
    ):
        if dataset.manifest.notice:
            say(f"notice: {dataset.manifest.notice}")
        keras.utils.set_random_seed(config.seed)
        pages = _open_pages(dataset, config, method, strategy)
        checkpoints = Checkpoints(
            output.with_name(f"{output.name}.checkpoints"),
            {
                **config.flat(exclude=_MAY_CHANGE | unused),
                "method": method,
                "dataset": dataset.manifest.digest(),
                "damaged shards": dataset.bad_shards,
            },
            writes=chief,
            restart=restart,
        )
        with checkpoints:
            model = _build(config, method, pages, strategy)
            similarity = _similarity_validation(model, pages, config.validation_share) if pages.validation else None
            history = _fit(model, config, pages, checkpoints, logs, similarity)
        if directory is None:
            return Pretrained(None, pages.training)
        if similarity is not None:
            write_learning_figures(directory, logs, similarity, model, dataset, pages.store.picture_of_item)
        shutil.move(logs, directory / LOGS)
        trained = build_encoder(config.encoder)  # in float32
        trained.set_weights(model.encoder.get_weights())
        run = EncoderRun.save(
            directory,
            trained,
            method=method,
            **pages.provenance,
            config=config.to_yaml(exclude=unused),
            history=history,
        )
    checkpoints.remove()
    return Pretrained(EncoderRun(output, run.metadata), pages.training)


@contextlib.contextmanager
def _log_directory(output: Location, *, writes: bool, restart: bool) -> Iterator[Path]:
    """Where curves can be watched while the run directory does not exist yet; they move into it at the end."""
    if is_remote(output):
        with tempfile.TemporaryDirectory() as scratch:
            logs = Path(scratch, LOGS)
            logs.mkdir()
            if writes:
                say(f"curves for TensorBoard are in {logs} until they are copied with the run")
            yield logs
        return
    logs = output.with_name(f"{output.name}.logs")
    if writes and restart:
        shutil.rmtree(logs, ignore_errors=True)
    yield logs


def _write_as_published(output: Location, config: PretrainConfig, overwrite: bool) -> EncoderRun:
    """The run directory of a published backbone whose features are the embeddings; it has seen no pages."""
    if config.encoder.weights is None:
        raise ConfigurationError("encoder.weights: must name published weights with `method` none. Received: null")
    if config.encoder.embedding_dim is not None:
        raise ConfigurationError(
            "encoder.embedding_dim: must be null with `method` none, which trains no projection. "
            f"Received: {config.encoder.embedding_dim}"
        )
    encoder = build_encoder(config.encoder)
    load_pretrained(encoder, config.encoder)
    with whole_directory(output, overwrite=overwrite) as directory:
        run = EncoderRun.save(
            directory, encoder, method=AS_PUBLISHED, image_size=config.image_size, config=config.to_yaml()
        )
    return EncoderRun(output, run.metadata)


def _open_pages(
    dataset: Dataset, config: PretrainConfig, method: str, strategy: tf.distribute.Strategy
) -> PretrainingPages:
    """Reads the pages, tells what there are, and refuses a configuration that asks for more."""
    pages = PretrainingPages(
        dataset,
        config.image_size,
        candidates=config.candidates,
        clicks=config.clicks,
        validation_share=config.validation_share,
        cache_megabytes=config.cache_megabytes,
        tokenize=build_tokenizer(config.text) if METHODS[method].reads_titles(config) else None,
    )
    say(
        f"{pages.counts['pages']} pages in the pre-training view `{pages.view.kind}`, {_losses_of_view(dataset)}\n"
        f"of these, {pages.counts['without_history_picture']} without a stored picture of a click before them, "
        f"{pages.counts['without_clicked_picture']} without a stored picture of a clicked candidate; "
        f"{pages.training} to learn from, {pages.validation} later ones for validation"
    )
    if pages.training < config.batch_size:
        raise ConfigurationError(
            f"batch_size: must be at most the {pages.training} pages to learn from. Received: {config.batch_size}"
        )
    if config.validation_share and pages.validation < strategy.num_replicas_in_sync:
        raise ConfigurationError(
            f"validation_share: keeps {pages.validation} of {pages.counts['usable']} pages for validation; raise it, "
            f"or 0 for none. Received: {config.validation_share}"
        )
    return pages


def _losses_of_view(dataset: Dataset) -> str:
    """What the build counted while it made the view, in words."""
    prefix = f"{PRETRAINING}."
    counted = {name.removeprefix(prefix): n for name, n in dataset.manifest.counters.items() if name.startswith(prefix)}
    made_from = counted.pop("pages", 0)
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counted.items())
    return f"made from {made_from} ({words})"


def _build(
    config: PretrainConfig, method: str, pages: PretrainingPages, strategy: tf.distribute.Strategy
) -> PretrainingMethod:
    """The model around a new encoder, compiled."""
    with strategy.scope():
        encoder = build_encoder(config.encoder, dtype=config.precision)
        loaded = load_pretrained(encoder, config.encoder)
        if loaded is not None:
            say(f"starts from {config.encoder.weights}: {loaded.variables} variables by {loaded.publisher}'s names")
        elif config.encoder.backbone.name in PUBLISHED:
            say("starts from random weights; published ones, which the paper starts from, are given by encoder.weights")
        model = METHODS[method].build(config, _thawed(encoder, config, method, pages))
        steps = pages.training // config.batch_size * config.epochs
        model.compile(build_optimizer(config.optimizer, steps))
    return model


def _thawed(encoder: ImageEncoder, config: PretrainConfig, method: str, pages: PretrainingPages) -> AnyEncoder:
    """The encoder, or what is behind its frozen stages if these may encode each picture once, which they then have."""
    frozen = isinstance(encoder.backbone, EfficientNetLite) and encoder.backbone.frozen_stages
    if not frozen or METHODS[method].changes_pictures or config.augmentation != "none":
        return encoder
    thawed = ThawedEncoder(encoder, config.image_size)
    return thawed if pages.keep_encoded(tf.function(thawed.frozen, reduce_retracing=True), thawed.length) else encoder


def _similarity_validation(model: PretrainingMethod, pages: PretrainingPages, share: float) -> SimilarityValidation:
    """What measures the encoder on whole later pages, after it has measured the untrained one."""
    later = pages.validation_pages(clicks=_VALIDATION_CLICKS, limit=_VALIDATION_PAGES)
    similarity = SimilarityValidation(later, pages.read)
    similarity.set_model(model)
    untrained = similarity.measure()
    if not untrained.pages:
        raise ConfigurationError(
            "validation_share: the pages kept for validation have none with a clicked and an unclicked picture; "
            f"raise it. Received: {share}"
        )
    say(f"similarity GAUC before training: {untrained.gauc_page_mean:.4f} on {untrained.pages} later pages")
    return similarity


def _fit(
    model: PretrainingMethod,
    config: PretrainConfig,
    pages: PretrainingPages,
    checkpoints: Checkpoints,
    logs: Path,
    similarity: SimilarityValidation | None,
) -> dict[str, list[float | None]]:
    """Trains; returns the logs of the epochs. With validation, the model gets the weights of its best epoch."""
    strategy = model.distribute_strategy
    augment = flip_crop(config.seed) if config.augmentation == "flip_crop" else None

    def training(first_step: int) -> tf.distribute.DistributedDataset:
        return strategy.distribute_datasets_from_function(
            lambda context: pages.training_batches(
                config.batch_size, seed=config.seed, augment=augment, first_step=first_step, context=context
            )
        )

    callbacks: list[keras.callbacks.Callback] = [Throughput()]
    validation: dict = {}
    if similarity is not None:
        replicas = strategy.num_replicas_in_sync
        batch_size = min(config.batch_size, pages.validation // replicas * replicas)
        validation = {
            "monitor": "val_similarity_gauc",
            "validation_data": strategy.distribute_datasets_from_function(
                lambda context: pages.endless_validation_batches(batch_size, context=context)
            ),
            "validation_steps": pages.validation // batch_size,
        }
        callbacks.append(similarity)
    callbacks += [TensorBoardCurves(logs), CollapseWarning(), Progress()]
    return resumable_fit(
        model,
        training,
        checkpoints,
        steps_per_epoch=pages.training // config.batch_size,
        epochs=config.epochs,
        checkpoint_minutes=config.checkpoint_minutes,
        own_progress=True,
        callbacks=callbacks,
        **validation,
    )
