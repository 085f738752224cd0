import json
import threading

import numpy as np
import pytest

from beam_pipelines.format.errors import ArtifactError, ConfigurationError, InputError
from models.config import load_config
from models.embeddings.embed import embed
from models.finetuning.config import FinetuneConfig
from models.finetuning.finetune import finetune
from models.vision.encoder_run import EncoderRun
from tests.models.picture_dataset import write_picture_dataset
from tests.models.training.command_process import terminate_at

SMALL = [
    "image_size=[12, 8]",
    "encoder={embedding_dim: 8, backbone: {name: convnet, widths: [8, 16], depths: [0, 0], kernel: 3, grid: [2, 1]}}",
    "optimizer.learning_rate=0.01",
    "augmentation=none",
    "batch_size=16",
]


def config_of(*overrides):
    return load_config(FinetuneConfig, None, [*SMALL, *overrides])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """60 products in two or three pictures and 20 in one; a product is two colours, and the first its label.

    Each picture is taken in a light of its own.
    """
    random = np.random.default_rng(0)
    pictures, labels, products = [], [], []
    for product in range(80):
        top, bottom = random.integers(0, 6), random.integers(0, 256, 3)
        for _ in range(1 if product >= 60 else 2 + product % 2):
            picture = np.empty((24, 16, 3), np.uint8)
            picture[:12], picture[12:] = 50 * top, bottom
            light = random.integers(-60, 61, 3)  # which the untrained take for the product
            noise = random.integers(-9, 10, picture.shape)
            pictures.append(np.clip(picture + light + noise, 0, 255).astype(np.uint8))
            labels.append(f"shade {top}")
            products.append(product)
    places = [(0, n) for n in range(len(pictures))]
    columns = {"label_shade": labels, "category": [f"{product:02d}" for product in products]}
    return write_picture_dataset(tmp_path_factory.mktemp("shades") / "data", [pictures], places, columns=columns)


def test_a_classifier_learns_what_held_out_pictures_show(dataset, tmp_path):
    config = config_of("epochs=12")
    output = tmp_path / "classifier"
    run, metrics = finetune(dataset, output, task="classify", label="label_shade", config=config)
    assert metrics == json.loads((output / "metrics.json").read_text())
    assert metrics["classes"] == 6
    assert metrics["top1"][0] > 0.4  # chance gives a sixth
    assert metrics["top5"][0] >= metrics["top1"][0]
    assert metrics["top1"][1] <= metrics["top1"][0] <= metrics["top1"][2]
    assert len(run.history["val_top1"]) == 12
    embeddings = embed(dataset, run.path, tmp_path / "embeddings")  # it is an encoder as any other
    assert embeddings.dim == 8
    with np.load(output / "measured.npz") as measured:
        assert measured["hits"].shape == (metrics["pictures"], 2)
        assert measured["hits"][:, 0].mean() == pytest.approx(metrics["top1"][0])


def test_search_learns_from_an_encoder_and_finds_products_that_it_has_not_seen(dataset, tmp_path):
    start = finetune(
        dataset, tmp_path / "start", task="classify", label="label_shade", config=config_of("epochs=1")
    ).run
    search = {"task": "retrieve", "product": "category", "encoder": start}
    hardly = config_of("epochs=1", "optimizer.learning_rate=1e-9")
    before = finetune(dataset, tmp_path / "before", config=hardly, **search).metrics
    run, metrics = finetune(dataset, tmp_path / "search", config=config_of("epochs=12"), **search)
    assert (metrics["queries"], metrics["gallery"]) == (before["queries"], before["gallery"])
    assert metrics["gallery"] > metrics["queries"]
    assert metrics["recall_1"][0] > before["recall_1"][0] + 0.1
    recalls = [metrics[f"recall_{k}"][0] for k in (1, 5, 10, 15, 20)]
    assert recalls == sorted(recalls)
    assert run.metadata.method == "classify, retrieve"
    assert run.metadata.image_size == (12, 8)


def test_a_run_that_was_stopped_ends_like_one_that_was_not(dataset, tmp_path):
    config = config_of("epochs=3", "checkpoint_minutes=0", "augmentation=flip_crop")
    arguments = {"task": "classify", "label": "label_shade"}
    terminator = threading.Thread(target=terminate_at, args=(tmp_path / "stopped", 9))
    terminator.start()
    with pytest.raises(SystemExit) as left:
        finetune(dataset, tmp_path / "stopped", config=config, **arguments)
    terminator.join()
    assert left.value.code == 143
    assert [path.name for path in tmp_path.iterdir()] == ["stopped.checkpoints"]
    with pytest.raises(ArtifactError, match="of another run"):
        finetune(dataset, tmp_path / "stopped", config=config, task="classify")
    for name in ("stopped", "whole"):
        finetune(dataset, tmp_path / name, config=config, **arguments)
    one, other = (EncoderRun.load(tmp_path / name) for name in ("stopped", "whole"))
    assert one.history == other.history
    for actual, expected in zip(one.encoder().get_weights(), other.encoder().get_weights(), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "whole"]


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (InputError, {"task": "sort"}, "`task` must be classify or retrieve"),
        (InputError, {"label": "label_size"}, "`data`: `label` must be a column"),
        (ArtifactError, {"encoder": "nowhere"}, "`encoder`: "),
        (ConfigurationError, {"config": config_of("batch_size=999")}, "batch_size: must be at most"),
        (ConfigurationError, {"task": "retrieve", "config": config_of("batch_size=3")}, "batch_size: must be even"),
        (ConfigurationError, {"task": "retrieve"}, "held_out_share: there must be products with two pictures"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(dataset, tmp_path, error, arguments, message):
    given = {"task": "classify", "label": "label_shade", "config": config_of(), **arguments}
    with pytest.raises(error, match=message):
        finetune(dataset, tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []
