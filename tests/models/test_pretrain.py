import contextlib
import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from beam_pipelines.build import main as build_command
from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.manifest import Manifest, Window
from beam_pipelines.shell.command import CommandError
from models.artifact import read_metadata
from models.config import PRESETS, load_config
from models.data.dataset import Dataset
from models.data.pretraining_pages import PretrainingPages
from models.embeddings.embed import embed
from models.embeddings.whiten import whiten
from models.pretrain import _METHODS, main
from models.pretraining.config import PretrainConfig
from models.pretraining.courier import Courier
from models.pretraining.courier_config import CourierConfig
from models.pretraining.methods import METHODS, unused_sections
from models.pretraining.methods import PRESETS as PRESETS_OF_METHODS
from models.pretraining.pretrain import pretrain
from models.training.optimizer import OptimizerConfig, build_optimizer
from models.vision.config import EncoderConfig, build_encoder
from models.vision.efficientnet_lite import EfficientNetLite
from models.vision.efficientnet_lite_weights import load_efficientnet_lite_weights
from models.vision.encoder_run import EncoderMetadata, EncoderRun
from tests.models.courier_batch import mirrored
from tests.models.taste_dataset import write_taste_dataset

SMALL = [
    "image_size=[16, 16]",
    "encoder.embedding_dim=8",
    "encoder.backbone={name: swin, patch_size: 8, dim: 8, depths: [1], num_heads: [2]}",
    "batch_size=16",
    "validation_share=0.2",
    "optimizer.learning_rate=0.01",
    "augmentation=none",
    "epochs=6",
]


def small(**changes) -> list[str]:
    values = dict(text.split("=", 1) for text in SMALL) | {key: str(value) for key, value in changes.items()}
    return [argument for key, value in values.items() for argument in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_taste_dataset(tmp_path_factory.mktemp("shop") / "data").path


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """The output directory, the closing line, and what was printed before it."""
    output = tmp_path_factory.mktemp("runs") / "encoder"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        closing = main(["--data", str(dataset), "--output", str(output), *small()])
    return output, closing, printed.getvalue()


def test_encoder_learns_the_taste(run):
    output, closing, _ = run
    history = json.loads((output / "history.json").read_text())
    best = max(history["val_similarity_gauc"])
    assert best > 0.9
    assert f"{best:.4f}" in closing
    assert str(output) in closing
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert {"loss", "page_view_loss", "click_sequence_loss", "images_per_second"} <= history.keys()
    for total, *parts in zip(
        *(history[name] for name in ("loss", "page_view_loss", "click_sequence_loss")), strict=True
    ):
        assert total == pytest.approx(sum(parts), rel=1e-5)


def test_run_directory_describes_itself(run, dataset):
    output, _, _ = run
    assert sorted(path.name for path in output.iterdir()) == [
        "attention.html",
        "config.yaml",
        "encoder.keras",
        "history.json",
        "logs",
        "metadata.json",
    ]
    metadata = read_metadata(EncoderMetadata, output, "models.pretrain")
    manifest = Dataset(dataset).manifest
    assert metadata.dataset_digest == manifest.digest()
    assert metadata.window == manifest.splits["pretrain"].window
    assert (metadata.image_size, metadata.embedding_dim, metadata.method) == ((16, 16), 8, "courier")
    assert metadata.notice == "made up for a test"
    assert metadata.weights_sha256 == file_sha256(output / "encoder.keras")
    assert yaml.safe_load((output / "config.yaml").read_text())["encoder"]["backbone"]["dim"] == 8


def test_equal_seeds_give_equal_encoders(run, dataset, tmp_path, capsys):
    main(["--data", str(dataset), "--output", str(tmp_path / "again"), *small()])
    assert "made up for a test" in capsys.readouterr().out
    histories = [json.loads((path / "history.json").read_text()) for path in (run[0], tmp_path / "again")]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-5)


def test_a_script_learns_what_the_recipe_learns(dataset, tmp_path, capsys):
    """Without validation, which also is a fault of before: layers that no validation had built were missing."""
    config = load_config(
        PretrainConfig,
        None,
        [
            "image_size=[16, 16]",
            "encoder={embedding_dim: 8, backbone: {name: convnet, widths: [8], depths: [1], grid: [2, 2]}}",
            "batch_size=48",
            "validation_share=0",
            "epochs=2",
        ],
    )
    made = pretrain(dataset, tmp_path / "encoder", config=config)
    assert capsys.readouterr().out == ""  # a library
    assert sorted(made.run.history) == sorted(
        [
            "click_sequence_loss",
            "images_per_second",
            "loss",
            "negative_similarity",
            "page_view_loss",
            "positive_similarity",
            "valid_rows",
        ]
    )

    pages = Dataset(dataset).pretraining(image_size=(16, 16))
    assert pages.training == made.pages
    batches = pages.batches(48, seed=config.seed)
    weights = {}
    for replicas in (1, 2):
        keras.utils.set_random_seed(config.seed)
        with mirrored([f"CPU:{n}" for n in range(replicas)]).scope():
            courier = Courier(build_encoder(config.encoder))
            # Steps of the second one are few: a graph would take longer, and its last bits may differ.
            optimizer = build_optimizer(config.optimizer, int(batches.cardinality()) * config.epochs)
            courier.compile(optimizer, run_eagerly=replicas == 2)
        history = courier.fit(pages.batches(48, seed=config.seed), epochs=config.epochs, verbose=0).history
        weights[replicas] = courier.encoder.get_weights()
        np.testing.assert_allclose(history["loss"], made.run.history["loss"], rtol=1e-6 if replicas == 1 else 1e-4)
    for script, recipe, shared in zip(weights[1], made.run.encoder().get_weights(), weights[2], strict=True):
        np.testing.assert_array_equal(script, recipe)
        np.testing.assert_allclose(script, shared, atol=2e-5)


AS_PUBLISHED = ["--method", "none", "--config", "efficientnet_lite0", "--set", "image_size=[32, 32]"]


def test_a_published_encoder_is_embedded_whitened_and_has_seen_no_pages(dataset, tmp_path):
    """Of a dataset it needs nothing, so the pages of any ranker are later than what it has seen: nothing."""
    output = tmp_path / "encoder"
    options = [*AS_PUBLISHED, "--set", "encoder.backbone.stages=[2, 3]"]
    closing = main(["--data", str(tmp_path / "nowhere"), "--output", str(output), *options])
    assert closing == f"wrote the published encoder efficientnet_lite0 as it is to {output}"
    run = EncoderRun.load(output)
    metadata = run.metadata
    assert (metadata.method, metadata.embedding_dim, metadata.image_size) == ("none", 64, (32, 32))
    assert (metadata.window, metadata.dataset_digest, metadata.notice, run.history) == (None, None, "", {})
    config = load_config(PretrainConfig, str(output / "config.yaml"))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    published = EfficientNetLite(stages=config.encoder.backbone.stages)
    load_efficientnet_lite_weights(published, "efficientnet_lite0")
    np.testing.assert_allclose(
        run.encoder()(pictures), published((pictures.astype(np.float32) - 127) / 128), rtol=1e-4, atol=1e-5
    )
    embeddings = embed(dataset, run, tmp_path / "embeddings")
    embeddings.metadata.check_no_leakage(Dataset(dataset), "pretrain")
    whitened = whiten(embeddings, tmp_path / "whitened", data=dataset, dim=8)
    assert whitened.metadata.whitening is not None


def test_a_script_publishes_what_the_command_does(tmp_path):
    config = load_config(PretrainConfig, "efficientnet_lite0", ["encoder.backbone.stages=[1]", "image_size=[32, 32]"])
    made = pretrain(None, tmp_path / "encoder", config=config, method="none")
    assert (made.pages, made.run.metadata.embedding_dim) == (0, 16)
    with pytest.raises(ArtifactError, match="exists"):
        pretrain(None, tmp_path / "encoder", config=config, method="none")
    with pytest.raises(InputError, match=r"`data` must be given with `method` courier"):
        pretrain(None, tmp_path / "trained", config=config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["encoder.embedding_dim=8"], "encoder.embedding_dim: must be null with --method none.* Received: 8"),
        (["encoder.weights=null"], "encoder.weights: must name published weights with --method none. Received: null"),
        (["encoder.weights=nowhere.pth"], "no weight file nowhere.pth"),
    ],
)
def test_what_is_not_published_is_refused_with_method_none(tmp_path, changes, message):
    changes = [argument for change in changes for argument in ("--set", change)]
    with pytest.raises(CommandError, match=message):
        main(["--output", str(tmp_path / "encoder"), *AS_PUBLISHED, *changes])
    assert list(tmp_path.iterdir()) == []


SMALLER: dict[str, dict] = {
    "simclr": {"simclr.hidden_dim": 16},
    "simsiam": {"simsiam.projection_dim": 16},
    "moco_v2": {"moco_v2.queue_length": 64},
    "swav": {"swav.prototypes": 8, "swav.freeze_steps": 1, "swav.small_crops": 1},
    "clip": {"text.layers": 1, "text.width": 8, "text.heads": 2, "text.buckets": 50},
    "maskclip": {
        "maskclip.hidden_dim": 8,
        "text.layers": 1,
        "text.width": 8,
        "text.heads": 2,
        "text.buckets": 50,
    },
    "m6_moe": {
        "encoder.backbone": "{name: m6, width: 8, layers: 1, heads: 2, experts: 3, hidden: 6, vocabulary: 50}",
        "text.buckets": 50,
    },
}
"""Settings of methods that make a training quick."""


@pytest.mark.parametrize("method", [method for method in METHODS if method != "courier"])
def test_every_method_trains_by_the_command(dataset, tmp_path, capsys, method):
    """The steps are few: what each learns is measured by a benchmark, what its loss is elsewhere."""
    output = tmp_path / "encoder"
    backbone = "{name: convnet, widths: [8], depths: [1], kernel: 3, grid: [2, 2]}"
    options = small(**{"encoder.backbone": backbone, "epochs": 1, "batch_size": 40, **SMALLER.get(method, {})})
    closing = main(["--data", str(dataset), "--output", str(output), "--method", method, *options])
    assert closing.startswith(f"wrote a {method} encoder to {output}")
    history = json.loads((output / "history.json").read_text())
    assert {"loss", "val_loss", "positive_similarity", "val_similarity_gauc", "images_per_second"} <= history.keys()
    assert np.isfinite([values[0] for values in history.values()]).all()
    assert "similarity " in capsys.readouterr().out
    assert EncoderRun.load(output).metadata.method == method
    assert sorted(path.name for path in output.iterdir()) == [
        "config.yaml",
        "encoder.keras",
        "history.json",
        "logs",
        "metadata.json",
    ]
    written = yaml.safe_load((output / "config.yaml").read_text())
    assert set(METHODS[method].sections) <= written.keys()
    assert "courier" not in written


def test_sections_of_other_methods_are_refused(dataset, tmp_path):
    options = ["--data", str(dataset), "--output", str(tmp_path / "encoder"), "--method", "simclr"]
    with pytest.raises(CommandError, match="courier: is of no use to the method simclr"):
        main([*options, *small(**{"courier.temperature": 0.1})])
    with pytest.raises(CommandError, match=r"unknown key simclr.temperatur .known: .*temperature"):
        main([*options, *small(**{"simclr.temperatur": 0.1})])


def test_methods_of_the_command_are_those_of_the_library():
    assert list(PRESETS_OF_METHODS) == _METHODS


def test_presets_are_complete_and_the_paper_preset_is_swin_tiny():
    presets = {preset: "courier" for preset in ("efficientnet_lite0", "courier_swin_tiny_224", "courier_official_code")}
    for name, method in {**presets, **{made.preset: method for method, made in METHODS.items()}}.items():
        config = load_config(PretrainConfig, name)
        written = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
        assert written.keys() == PretrainConfig.model_fields.keys() - unused_sections(method)
        for section in set(METHODS[method].sections) - {"courier"}:
            assert written[section].keys() == type(getattr(config, section)).model_fields.keys()
        assert written["encoder"].keys() == EncoderConfig.model_fields.keys()
        assert written["encoder"]["backbone"].keys() == type(config.encoder.backbone).model_fields.keys()
        assert written["optimizer"].keys() == OptimizerConfig.model_fields.keys()
        if "courier" in written and name != "courier_official_code":  # takes no other value
            assert written["courier"].keys() == CourierConfig.model_fields.keys()
    config = load_config(PretrainConfig, "courier_swin_tiny_224")
    assert build_encoder(config.encoder.model_copy(update={"embedding_dim": 1000})).count_params() == 28_288_354
    assert (config.courier, config.optimizer, config.batch_size) == (CourierConfig(), OptimizerConfig(), 3072)
    assert load_config(PretrainConfig, None) == load_config(PretrainConfig, "courier_cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "float16"}, "precision: .*mixed_float16"),
        ({"bath_size": 3}, "unknown key bath_size"),
        ({"encoder.backbone.depth": 3}, "unknown key encoder.backbone.depth .known: .*depths"),
        ({"courier.temperature": 0}, "courier.temperature"),
        ({"encoder.backbone.num_heads": [3]}, "num_heads"),
        ({"encoder.backbone.num_heads": [2, 2]}, "num_heads"),
        ({"batch_size": 1000}, "batch_size: must be at most"),
        ({"validation_share": 0.001}, "validation_share"),
        ({"candidates": 7}, "candidates: must be at most the 6 .* --pretraining-candidates 7"),
    ],
)
def test_mistakes_are_one_clear_line_and_leave_nothing_behind(dataset, tmp_path, changes, message):
    with pytest.raises(CommandError, match=message):
        main(["--data", str(dataset), "--output", str(tmp_path / "encoder"), *small(**changes)])
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept_unless_told_otherwise(run, dataset):
    with pytest.raises(CommandError, match="--overwrite"):
        main(["--data", str(dataset), "--output", str(run[0]), *small()])


@pytest.fixture(scope="module")
def causal(sample_logs, sample_dataset, tmp_path_factory):
    """The sample, split where it was split, with every click as the target of those before it."""
    splits = Manifest.read(sample_dataset).splits
    ends = f"{splits['train'].window.first},{splits['test'].window.first}"
    output = tmp_path_factory.mktemp("causal") / "data"
    options = ["--pretraining-view", "causal", "--split-by-time", ends]
    build_command(["--logs", str(sample_logs), "--output", str(output), *options])
    return output


def test_pages_without_negatives_teach_through_those_of_the_batch(causal):
    dataset = Dataset(causal)
    pages = dataset.pretraining(image_size=(16, 16))
    (batch,) = pages.training_batches(32).take(1)
    np.testing.assert_array_equal(batch["clicked"], batch["candidate_picture"] >= 0)

    keras.utils.set_random_seed(0)
    courier = Courier(build_encoder(load_config(PretrainConfig, None, SMALL).encoder))
    courier.compile(keras.optimizers.Adam(0.003), jit_compile=False)
    single = int(np.flatnonzero(batch["clicked"].numpy().sum(axis=1) == 1)[0])
    pages_of = ("candidate_picture", "click_picture", "clicked")
    alone = {name: value[single : single + 1] if name in pages_of else value for name, value in batch.items()}
    courier.compute_loss(x=alone, y_pred=courier(alone))
    assert float(courier.page_view_loss.result()) == pytest.approx(0, abs=1e-4)  # there is nothing to tell it from

    same = tf.data.Dataset.from_tensors(batch).repeat()
    losses = courier.fit(same, steps_per_epoch=1, epochs=3, shuffle=False, verbose=0).history["page_view_loss"]
    assert np.isfinite(losses).all()
    assert losses[0] > losses[1] > losses[2] > 0


def test_supervised_is_refused_where_everything_is_clicked(causal, tmp_path):
    with pytest.raises(CommandError, match=r"--method must not be supervised, .* built with --pretraining-view causal"):
        main(["--data", str(causal), "--output", str(tmp_path / "encoder"), "--method", "supervised"])
    assert list(tmp_path.iterdir()) == []


def test_the_causal_view_trains_an_encoder_that_the_ranker_accepts(causal, tmp_path, capsys):
    output = tmp_path / "encoder"
    main(["--data", str(causal), "--output", str(output), *small(epochs=1, validation_share=0.1)])
    printed = capsys.readouterr().out
    manifest = Manifest.read(causal)
    view, counters = manifest.pretraining, manifest.counters
    assert (
        f"{view.pages} pages in the pre-training view `causal`, made from {counters['pretraining.pages']} "
        f"({counters['pretraining.without_history']} without history, "
        f"{counters['pretraining.without_positive']} without positive)" in printed
    )
    assert counters["pretraining.without_history"] > 0
    history = json.loads((output / "history.json").read_text())
    assert np.isfinite([*history["loss"], *history["val_loss"], *history["val_similarity_gauc"]]).all()
    window = read_metadata(EncoderMetadata, output, "models.pretrain").window
    whole = manifest.splits["pretrain"].window
    assert window == Window(first=view.window.first, last=max(view.window.last, whole.last))
    assert not window.overlaps(manifest.splits["train"].window)


def test_pictures_that_are_missing_from_the_store_are_counted(run, dataset):
    counts = PretrainingPages(Dataset(dataset), (16, 16), validation_share=0.2).counts
    assert counts["without_clicked_picture"] > 0
    line = next(line for line in run[2].splitlines() if line.startswith("of these, "))
    figures = [int(word) for word in line.split() if word.isdigit()]
    assert figures[:2] == [counts["without_history_picture"], counts["without_clicked_picture"]]
    assert sum(figures) == 200


def test_frozen_stages_encode_each_picture_once_and_nothing_else_changes(dataset, tmp_path, capsys):
    backbone = "{name: efficientnet_lite, stages: [1, 2], frozen_stages: 1}"
    options = small(**{"encoder.backbone": backbone, "epochs": 1, "optimizer.learning_rate": 0.001})
    trained = {}
    for megabytes in (0, 64):
        output = tmp_path / f"encoder_{megabytes}"
        main(["--data", str(dataset), "--output", str(output), *options, "--set", f"cache_megabytes={megabytes}"])
        assert ("encoding pictures by the frozen stages" in capsys.readouterr().err) == bool(megabytes)
        trained[megabytes] = EncoderRun.load(output).encoder().get_weights()
    for one, other in zip(trained[0], trained[64], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)
