"""Pre-trains an image encoder on pages: `python -m models.pretrain`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from beam_pipelines.command import ArgumentParser, CommandError, run_command, whole_directory
from beam_pipelines.manifest import PRETRAINING, file_sha256
from models.artifacts import EncoderMetadata
from models.config import load_config
from models.data.augmentation import flip_crop
from models.data.dataset import Dataset
from models.data.images import PictureStore
from models.data.pretraining_pages import PretrainingPages
from models.pretraining.config import PretrainConfig
from models.pretraining.courier import Courier
from models.pretraining.validation import SimilarityValidation, Throughput
from models.training.replicas import mirrored_strategy
from models.vision.encoder import SwinEncoder

ENCODER_FILE = "encoder.keras"
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
    parser.add_overwrite()
    args = parser.parse_args(argv)

    config = load_config(PretrainConfig, args.config, args.overrides)
    dataset = Dataset(args.data, args.max_bad_shards)
    store = PictureStore(dataset, config.image_size)
    strategy = mirrored_strategy()
    if config.batch_size % strategy.num_replicas_in_sync:
        raise CommandError(
            f"batch_size: must be a multiple of the {strategy.num_replicas_in_sync} devices. "
            f"Received: {config.batch_size}"
        )
    with whole_directory(args.output, overwrite=args.overwrite, inputs=[args.data]) as output:
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
        encoder, history = _train(config, pages, store, strategy)
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
    config: PretrainConfig, pages: PretrainingPages, store: PictureStore, strategy: tf.distribute.Strategy
) -> tuple[SwinEncoder, dict[str, list[float]]]:
    """Returns the trained encoder in float32, and what `fit` recorded per epoch."""
    read = store.read
    if store.pictures * np.prod(config.image_size) * 3 <= config.cache_megabytes * 2**20:
        decoded = tf.constant(store.read_all())
        read = lambda numbers: tf.gather(decoded, numbers)  # noqa: E731
    steps = pages.training // config.batch_size
    policy = "mixed_float16" if config.mixed_precision else "float32"
    with strategy.scope():
        encoder = SwinEncoder(**config.encoder.model_dump(), dtype=policy)
        courier = Courier(encoder, config.temperature, config.scores, dtype=policy)
        # jit would compile anew for every number of distinct pictures.
        courier.compile(keras.optimizers.Adam(_learning_rate(config, steps)), jit_compile=False)

    def distributed(batches: tf.data.Dataset) -> tf.distribute.DistributedDataset:
        # Batches are made per device: their number of pictures differs, so that no batch could be split.
        return strategy.distribute_datasets_from_function(lambda _: batches)

    replicas = strategy.num_replicas_in_sync
    augment = flip_crop(config.seed) if config.augmentation == "flip_crop" else None
    training = pages.training_batches(read, batch_size=config.batch_size // replicas, seed=config.seed, augment=augment)
    callbacks: list[keras.callbacks.Callback] = [Throughput()]
    validation: dict = {}
    if pages.validation:
        batch_size = min(config.batch_size, pages.validation) // replicas
        validation = {
            "validation_data": distributed(pages.validation_batches(read, batch_size=batch_size)),
            "validation_steps": pages.validation // (batch_size * replicas),
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
        keep_best = keras.callbacks.EarlyStopping(
            monitor="val_similarity_gauc", mode="max", patience=config.epochs, restore_best_weights=True
        )
        callbacks += [similarity, keep_best]
    history = courier.fit(
        distributed(training),
        epochs=config.epochs,
        steps_per_epoch=steps,
        callbacks=callbacks,
        shuffle=False,  # the batches are shuffled already
        verbose=1 if sys.stdout.isatty() else 2,
        **validation,
    ).history
    trained = SwinEncoder(**config.encoder.model_dump())
    trained.set_weights(encoder.get_weights())
    return trained, {name: [float(value) for value in values] for name, values in history.items()}


def _learning_rate(config: PretrainConfig, steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if config.schedule == "constant":
        return config.learning_rate
    total = steps * config.epochs
    warmup = max(1, total // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, total - warmup), warmup_target=config.learning_rate, warmup_steps=warmup
    )


if __name__ == "__main__":
    run_command(main)
