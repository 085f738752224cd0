import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.courier import Courier
from models.pretraining.reconstruction import UserIntentionReconstruction
from models.vision.encoder import SwinEncoder
from tests.models.test_contrastive_loss import reference as contrast_reference
from tests.models.test_reconstruction import reference as reconstruction_reference

DIM = 6


@keras.saving.register_keras_serializable(package="tests")
class Table(keras.Model):
    """Stands in for an encoder: the red value of a picture picks a row, so that embeddings can be set by hand."""

    def __init__(self, rows: int = 256, dim: int = DIM, **kwargs):
        super().__init__(**kwargs)
        self.table = keras.layers.Embedding(rows, dim, embeddings_initializer=keras.initializers.RandomNormal(seed=1))
        self.table.build((None,))
        self.built = True

    def call(self, pictures, training=False):
        return self.table(keras.ops.cast(pictures[:, 0, 0, 0], "int32"))


def draw_batch(pages: int, candidates: int = 4, clicks: int = 3, pictures: int = 30, seed: int = 0):
    """A batch as `distinct_pictures` makes it, with every kind of padding."""
    rng = np.random.default_rng(seed)
    batch = {
        "pictures": np.tile(rng.permutation(200)[:pictures, None, None, None], (1, 2, 2, 3)).astype(np.uint8),
        "candidate_picture": rng.integers(0, pictures, (pages, candidates)).astype(np.int32),
        "click_picture": rng.integers(0, pictures, (pages, clicks)).astype(np.int32),
        "clicked": rng.random((pages, candidates)) < 0.4,
    }
    batch["candidate_picture"][np.arange(candidates) >= rng.integers(1, candidates + 1, (pages, 1))] = -1
    batch["click_picture"][np.arange(clicks) >= rng.integers(0, clicks + 1, (pages, 1))] = -1
    batch["clicked"] &= batch["candidate_picture"] >= 0
    batch["clicked"][:, 0] = True
    return batch


def embeddings_of(table: np.ndarray, batch, name):
    picture = batch["pictures"][:, 0, 0, 0][np.maximum(batch[name], 0)]
    return table[picture]


def reference_loss(table, batch, temperature=0.05):
    """Equations 1-7 page by page in NumPy, each contrast a mean over its positives."""
    e, clicks = embeddings_of(table, batch, "candidate_picture"), embeddings_of(table, batch, "click_picture")
    valid, click_valid = batch["candidate_picture"] >= 0, batch["click_picture"] >= 0
    positive = batch["clicked"] & valid & click_valid.any(axis=1)[:, None]
    r = reconstruction_reference(e, clicks, click_valid, True)
    flat = lambda v: v.reshape(-1, v.shape[-1])  # noqa: E731
    page_view = contrast_reference(flat(e), flat(r), positive.ravel(), valid.ravel(), temperature) / positive.sum()
    two = click_valid.sum(axis=1) >= 2
    if not two.any():
        return page_view, 0.0
    target = clicks[two, :1]
    r = reconstruction_reference(target, clicks[two, 1:], click_valid[two, 1:], True)
    yes = np.ones(two.sum(), bool)
    return page_view, contrast_reference(target[:, 0], r[:, 0], yes, yes, temperature) / two.sum()


def courier() -> Courier:
    model = Courier(Table())
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    return model


def loss_of(model, batch):
    batch = {name: tf.constant(value) for name, value in batch.items()}
    return model.compute_loss(x=batch, y_pred=model(batch))


@pytest.mark.parametrize("shape", [(1, 4, 3), (6, 5, 5), (5, 1, 2), (3, 3, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_equals_the_equations(shape, seed):
    pages, candidates, clicks = shape
    batch = draw_batch(pages, candidates, clicks, seed=seed)
    batch["click_picture"][:, 0] = 0  # someone has a history
    model = courier()
    page_view, click_sequence = reference_loss(model.encoder.get_weights()[0], batch)
    assert float(loss_of(model, batch)) == pytest.approx(page_view + click_sequence, rel=1e-4)
    assert float(model.page_view_loss.result()) == pytest.approx(page_view, rel=1e-4)
    assert float(model.click_sequence_loss.result()) == pytest.approx(click_sequence, rel=1e-4, abs=1e-6)


def test_collapse_gives_the_logarithms_of_the_valid_rows():
    model = courier()
    model.encoder.set_weights([np.ones((256, DIM), np.float32)])
    batch = draw_batch(8)
    rows = (batch["candidate_picture"] >= 0).sum()
    users = ((batch["click_picture"] >= 0).sum(axis=1) >= 2).sum()
    assert float(loss_of(model, batch)) == pytest.approx(np.log(rows) + np.log(users), rel=1e-5)


def test_click_sequence_loss_is_the_page_view_loss_of_one_clicked_candidate():
    model = courier()
    batch = draw_batch(6, clicks=4)
    batch["click_picture"] = np.abs(batch["click_picture"])  # no padding
    loss_of(model, batch)
    click_sequence = float(model.click_sequence_loss.result())
    as_page = {
        **batch,
        "candidate_picture": batch["click_picture"][:, :1],
        "click_picture": batch["click_picture"][:, 1:],
        "clicked": np.ones((6, 1), bool),
    }
    model.page_view_loss.reset_state()
    loss_of(model, as_page)
    assert float(model.page_view_loss.result()) == pytest.approx(click_sequence, rel=1e-5)


def test_users_with_one_click_are_nobodys_negative_in_the_click_sequence():
    model = courier()
    batch = draw_batch(5)
    batch["click_picture"] = np.array([[1, 2, 3], [4, 5, -1], [6, -1, -1], [-1, -1, -1], [7, 8, 9]], np.int32)
    loss_of(model, batch)
    expected = float(model.click_sequence_loss.result())
    batch["click_picture"][2, 0] = 11
    model.click_sequence_loss.reset_state()
    loss_of(model, batch)
    assert float(model.click_sequence_loss.result()) == expected


def test_padding_unused_pictures_and_order_of_pages_do_not_matter():
    model = courier()
    batch = draw_batch(7)
    expected = float(loss_of(model, batch))
    used = np.union1d(batch["candidate_picture"], batch["click_picture"])
    others = np.setdiff1d(np.arange(30), used)
    assert len(others)
    changed = {**batch, "pictures": batch["pictures"].copy()}
    changed["pictures"][others] = 250
    assert float(loss_of(model, changed)) == expected
    order = np.random.default_rng(3).permutation(7)
    shuffled = {name: value if name == "pictures" else value[order] for name, value in batch.items()}
    assert float(loss_of(model, shuffled)) == pytest.approx(expected, rel=1e-5)


def test_a_page_without_history_has_no_positive_but_gives_negatives():
    model = courier()
    batch = draw_batch(3)
    batch["click_picture"] = np.array([[1, 2, 3], [4, 5, 6], [-1, -1, -1]], np.int32)
    batch["candidate_picture"] = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [20, 21, 22, 23]], np.int32)
    red = batch["pictures"][:, 0, 0, 0]
    batch_tensors = {name: tf.constant(value) for name, value in batch.items()}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=batch_tensors, y_pred=model(batch_tensors))
    gradient = tf.convert_to_tensor(tape.gradient(loss, model.encoder.trainable_weights[0]))
    assert (np.abs(gradient).max(axis=1)[red[20:24]] > 0).all()
    clicked = batch["clicked"].copy()
    clicked[2] = ~clicked[2]
    assert float(loss_of(model, {**batch, "clicked": clicked})) == pytest.approx(float(loss), rel=1e-6)


def mirrored(devices):
    """Without collective operations, whose keys clash when one process makes several strategies of the same devices."""
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())


def split_batch(batch, replicas):
    """The same pages as one batch per replica, each with its own distinct pictures."""
    parts = []
    for rows in np.array_split(np.arange(len(batch["clicked"])), replicas):
        both = np.concatenate([batch["candidate_picture"][rows], batch["click_picture"][rows]], axis=1)
        used, at = np.unique(both, return_inverse=True)
        at = at.reshape(both.shape) - (used[0] == -1)
        candidates = batch["clicked"].shape[1]
        parts.append(
            {
                "pictures": batch["pictures"][used[used >= 0]],
                "candidate_picture": at[:, :candidates].astype(np.int32),
                "click_picture": at[:, candidates:].astype(np.int32),
                "clicked": batch["clicked"][rows],
            }
        )
    return parts


def dataset(parts):
    signature = {
        "pictures": tf.TensorSpec((None, 2, 2, 3), tf.uint8),
        "candidate_picture": tf.TensorSpec((None, parts[0]["candidate_picture"].shape[1]), tf.int32),
        "click_picture": tf.TensorSpec((None, parts[0]["click_picture"].shape[1]), tf.int32),
        "clicked": tf.TensorSpec((None, parts[0]["clicked"].shape[1]), tf.bool),
    }
    return tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=signature)


@pytest.mark.parametrize("make_encoder", [Table, lambda: SwinEncoder(4, 2, 4, (2,), (2,), 2, drop_path=0.0)])
def test_two_replicas_train_as_one_does(make_encoder):
    """Reported losses and weights after three steps: negatives cross replicas, in value and in gradient."""
    batches = [draw_batch(8, seed=seed) for seed in range(3)]
    results = []
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        strategy = mirrored(devices)
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = Courier(make_encoder())
            model.compile(keras.optimizers.SGD(0.05), jit_compile=False)
        parts = [part for batch in batches for part in split_batch(batch, len(devices))]
        data = strategy.distribute_datasets_from_function(lambda _, parts=parts: dataset(parts))
        start = model.evaluate(data, steps=3, verbose=0, return_dict=True)
        fitted = model.fit(data, epochs=1, steps_per_epoch=3, verbose=0, shuffle=False).history
        assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 3  # no batch was spent on tracing
        results.append((start, fitted, model.encoder.get_weights()))
    (start, fitted, weights), (start_2, fitted_2, weights_2) = results
    for name in ("loss", "page_view_loss", "click_sequence_loss"):
        assert start_2[name] == pytest.approx(start[name], rel=1e-5)
        assert fitted_2[name] == pytest.approx(fitted[name], rel=1e-5)
    assert fitted["loss"][0] != pytest.approx(start["loss"], rel=1e-4)
    for one, two in zip(weights, weights_2, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)
    # Evaluation of the untrained table is also the mean of the three batches' losses by the equations.
    if make_encoder is Table:
        keras.utils.set_random_seed(0)
        table = Table().get_weights()[0]
        assert start["loss"] == pytest.approx(
            np.mean([sum(reference_loss(table, batch)) for batch in batches]), rel=1e-4
        )


def test_mixed_precision_trains_with_a_float32_loss():
    keras.utils.set_random_seed(0)
    model = Courier(SwinEncoder(4, 2, 4, (1,), (2,), 2, dtype="mixed_float16"), dtype="mixed_float16")
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    batch = draw_batch(4)
    assert loss_of(model, batch).dtype == tf.float32
    before = model.encoder.get_weights()[0]
    model.fit(dataset([batch]).repeat(20), steps_per_epoch=20, verbose=0, shuffle=False)
    assert np.isfinite(model.get_metrics_result()["loss"])
    assert np.abs(model.encoder.get_weights()[0] - before).max() > 0


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        Courier(Table(), temperature=0.0)
    assert isinstance(courier().reconstruction, UserIntentionReconstruction)
