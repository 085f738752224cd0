"""Pre-trains an image encoder on pages: `python -m models.pretrain`."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from beam_pipelines.format.manifest import PRETRAINING, file_sha256
from beam_pipelines.format.outputs import whole_directory
from beam_pipelines.shell.command import ArgumentParser, CommandError, run_command
from models.config import load_config
from models.data.augmentation import flip_crop
from models.data.dataset import Dataset
from models.data.picture_store import PictureStore
from models.data.pretraining_pages import PretrainingPages
from models.pretraining.config import PretrainConfig
from models.pretraining.courier_config import build_courier
from models.pretraining.monitor.collapse import CollapseWarning
from models.pretraining.monitor.learning_figures import write_learning_figures
from models.pretraining.monitor.progress import Progress
from models.pretraining.monitor.tensorboard import TensorBoardCurves
from models.pretraining.monitor.validation import SimilarityValidation, Throughput
from models.training.checkpoints import Checkpoints
from models.training.optimizer import build_optimizer
from models.training.replicas import ends_with_other_workers, is_chief, training_strategy, workers
from models.training.resumable_fit import resumable_fit
from models.vision.config import build_encoder, load_pretrained
from models.vision.encoder import ImageEncoder
from models.vision.encoder_run import ENCODER_FILE, LOGS, EncoderMetadata

_MAY_CHANGE = {"cache_megabytes", "checkpoint_minutes"}  # keys that make no difference to what is learnt
_VALIDATION_CLICKS = 50
_VALIDATION_PAGES = 2000


def main(argv: Sequence[str] | None = None) -> str:
    """Trains an encoder, writes its run directory and returns the closing line."""
    parser = ArgumentParser("Pre-trains an image encoder on what users click after what they clicked.")
    parser.add_argument("--data", type=Path, default=Path("artifacts/dataset"), help="from beam_pipelines.build")
    parser.add_argument("--output", type=Path, default=Path("artifacts/encoder"), help="run directory to write")
    parser.add_argument("--method", choices=["courier"], default="courier", help="how the encoder learns")
    parser.add_argument("--config", default="courier_cpu", help="YAML file, or a preset in models/configs")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="changes one configured value"
    )
    parser.add_argument(
        "--max-bad-shards", type=int, default=0, metavar="N", help="page shards that may be damaged and are left out"
    )
    parser.add_argument(
        "--restart", action="store_true", help="throw away the checkpoints of an interrupted run instead of going on"
    )
    parser.add_overwrite()
    args = parser.parse_args(argv)

    config = load_config(PretrainConfig, args.config, args.overrides)
    dataset = Dataset(args.data, args.max_bad_shards)
    strategy = training_strategy()
    store = PictureStore(dataset, config.image_size)
    if config.batch_size % strategy.num_replicas_in_sync:
        raise CommandError(
            f"batch_size: must be a multiple of the {strategy.num_replicas_in_sync} devices. "
            f"Received: {config.batch_size}"
        )
    chief = is_chief(strategy)
    # Of several workers, one writes.
    whole = whole_directory(args.output, overwrite=args.overwrite, inputs=[args.data])
    with ends_with_other_workers(strategy), whole if chief else contextlib.nullcontext() as output:
        if dataset.manifest.notice:
            print(f"notice: {dataset.manifest.notice}", flush=True)
        keras.utils.set_random_seed(config.seed)
        pages = PretrainingPages(
            dataset,
            store.picture_of_item,
            candidates=config.candidates,
            clicks=config.clicks,
            validation_share=config.validation_share,
        )
        print(
            f"{pages.counts['pages']} pages in the pre-training view `{pages.view.kind}`, {_left_out(dataset)}\n"
            f"of these, {pages.counts['without_history_picture']} without a stored picture of a click before them, "
            f"{pages.counts['without_clicked_picture']} without a stored picture of a clicked candidate; "
            f"{pages.training} to learn from, {pages.validation} later ones for validation",
            flush=True,
        )
        if pages.training < config.batch_size:
            raise CommandError(
                f"batch_size: must be at most the {pages.training} pages to learn from. Received: {config.batch_size}"
            )
        if config.validation_share and pages.validation < strategy.num_replicas_in_sync:
            raise CommandError(
                f"validation_share: keeps {pages.validation} of {pages.counts['usable']} pages for validation; raise "
                f"it, or 0 for none. Received: {config.validation_share}"
            )
        checkpoints = Checkpoints(
            args.output.with_name(f"{args.output.name}.checkpoints"),
            {
                **config.flat(exclude=_MAY_CHANGE),
                "method": args.method,
                "dataset": dataset.manifest.digest(),
                "damaged shards": dataset.bad_shards,
            },
            writes=chief,
            restart=args.restart,
        )
        # Curves can be watched while the run directory does not exist yet; they move into it at the end.
        logs = args.output.with_name(f"{args.output.name}.logs")
        if chief and args.restart:
            shutil.rmtree(logs, ignore_errors=True)
        with checkpoints:
            encoder, history = _train(config, pages, store, strategy, checkpoints, logs, output)
        if not chief:
            return f"did its part of the training; the chief of the {workers(strategy)} workers writes {args.output}"
        shutil.move(logs, output / LOGS)
        encoder.save(output / ENCODER_FILE)
        (output / "config.yaml").write_text(config.to_yaml())
        (output / "history.json").write_text(json.dumps(history, indent=2) + "\n")
        EncoderMetadata(
            method=args.method,
            image_size=config.image_size,
            embedding_dim=config.encoder.embedding_dim,
            weights_sha256=file_sha256(output / ENCODER_FILE),
            dataset_digest=dataset.manifest.digest(),
            window=pages.window,
            notice=dataset.manifest.notice,
        ).write(output)
    checkpoints.remove()
    best = ""
    if "val_similarity_gauc" in history:
        epoch = int(np.argmax(history["val_similarity_gauc"]))
        best = f", epoch {epoch + 1} with similarity GAUC {history['val_similarity_gauc'][epoch]:.4f} on later pages"
    left_out = f", {len(dataset.bad_shards)} damaged shards left out" if dataset.bad_shards else ""
    return f"wrote a {args.method} encoder to {args.output} ({pages.training} pages{left_out}{best})"


def _left_out(dataset: Dataset) -> str:
    """What the build counted while it made the view, in words."""
    prefix = f"{PRETRAINING}."
    counted = {name.removeprefix(prefix): n for name, n in dataset.manifest.counters.items() if name.startswith(prefix)}
    made_from = counted.pop("pages", 0)
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counted.items())
    return f"made from {made_from} ({words})"


def _train(
    config: PretrainConfig,
    pages: PretrainingPages,
    store: PictureStore,
    strategy: tf.distribute.Strategy,
    checkpoints: Checkpoints,
    logs: Path,
    output: Path | None,
) -> tuple[ImageEncoder, dict[str, list[float]]]:
    """Trains, and writes figures into `output`, if this process is the one that writes.

    Returns:
        The trained encoder in float32, and the logs of the epochs.
    """
    read = store.read
    if store.pictures * np.prod(config.image_size) * 3 <= config.cache_megabytes * 2**20:
        decoded = tf.constant(store.read_all())
        read = lambda numbers: tf.gather(decoded, numbers)  # noqa: E731
    steps = pages.training // config.batch_size
    with strategy.scope():
        encoder = build_encoder(config.encoder, dtype=config.precision)
        loaded = load_pretrained(encoder, config.encoder)
        if loaded is not None:
            print(
                f"starts from {config.encoder.weights}: {loaded.variables} variables by {loaded.publisher}'s names",
                flush=True,
            )
        courier = build_courier(config.courier, encoder, dtype=config.precision)
        # jit would compile anew for every number of distinct pictures.
        courier.compile(build_optimizer(config.optimizer, steps * config.epochs), jit_compile=False)

    augment = flip_crop(config.seed) if config.augmentation == "flip_crop" else None

    def training(first_step: int) -> tf.distribute.DistributedDataset:
        return strategy.distribute_datasets_from_function(
            lambda context: pages.training_batches(
                read,
                batch_size=config.batch_size,
                seed=config.seed,
                augment=augment,
                first_step=first_step,
                context=context,
            )
        )

    callbacks: list[keras.callbacks.Callback] = [Throughput()]
    validation: dict = {}
    if pages.validation:
        replicas = strategy.num_replicas_in_sync
        batch_size = min(config.batch_size, pages.validation // replicas * replicas)
        validation = {
            "monitor": "val_similarity_gauc",
            "validation_data": strategy.distribute_datasets_from_function(
                lambda context: pages.validation_batches(read, batch_size=batch_size, context=context)
            ),
            "validation_steps": pages.validation // batch_size,
        }
        later = pages.validation_pages(clicks=_VALIDATION_CLICKS, limit=_VALIDATION_PAGES)
        similarity = SimilarityValidation(later, read, config.image_size)
        similarity.set_model(courier)
        untrained = similarity.measure()
        if not untrained.pages:
            raise CommandError(
                "validation_share: the pages kept for validation have none with a clicked and an unclicked picture; "
                f"raise it. Received: {config.validation_share}"
            )
        print(
            f"similarity GAUC before training: {untrained.gauc_page_mean:.4f} on {untrained.pages} later pages",
            flush=True,
        )
        callbacks.append(similarity)
    callbacks += [TensorBoardCurves(logs), CollapseWarning(), Progress()]
    history = resumable_fit(
        courier,
        training,
        checkpoints,
        steps_per_epoch=steps,
        epochs=config.epochs,
        checkpoint_minutes=config.checkpoint_minutes,
        callbacks=callbacks,
        shuffle=False,  # the batches are shuffled already
        **validation,
    )
    if output is not None and pages.validation:
        write_learning_figures(output, logs, similarity, courier, pages.dataset, store.picture_of_item)
    trained = build_encoder(config.encoder)
    trained.set_weights(encoder.get_weights())
    return trained, history


if __name__ == "__main__":
    run_command(main)
