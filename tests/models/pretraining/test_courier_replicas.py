import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.courier import Courier
from models.pretraining.official_code import OfficialCodeCourier
from models.pretraining.title_contrast import TitleContrast
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from tests.models.courier_batch import Table, TitleTable, dataset, draw_batch, mirrored, split_batch
from tests.models.pretraining.test_courier import reference_loss

VARIANTS = {
    "paper": Courier,
    "raw scores": lambda encoder: Courier(encoder, scores="raw"),
    "without click sequence": lambda encoder: Courier(encoder, click_sequence=False),
    "without contrast": lambda encoder: Courier(encoder, objective="similarity"),
    "hinge": lambda encoder: Courier(encoder, objective="hinge", margin=1.0),
    "without reconstruction": lambda encoder: Courier(encoder, reconstruction="self_attention"),
    "without negatives": lambda encoder: Courier(encoder, negative_candidates=False),
    "same item masked": lambda encoder: Courier(encoder, mask_same_item=True),
    "projection head": lambda encoder: Courier(encoder, projection_head=True),
    "titles": lambda encoder: Courier(encoder, titles=TitleContrast(TitleTable(), 0.2)),
    "official code": OfficialCodeCourier,
}


def make_model(make, strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make()
        # A graph would take longer than the few steps of the one that is compared with.
        eagerly = strategy.num_replicas_in_sync == 1
        model.compile(keras.optimizers.SGD(0.05), jit_compile=False, run_eagerly=eagerly)
    return model


def assert_equal_reports(reported, reported_2):
    assert reported.pop("pictures") <= reported_2.pop("pictures")  # a picture of both replicas counts twice
    assert {"page_view_loss", "positive_similarity", "negative_similarity"} <= reported.keys()
    for name, value in reported.items():
        assert float(reported_2[name]) == pytest.approx(float(value), rel=1e-5, abs=2e-6), name


def one_step(make, batch, replicas, graph):
    """What is reported of a step, its gradients, and what it changes besides weights (seeds, moving averages)."""
    strategy = mirrored([f"CPU:{i}" for i in range(replicas)])
    model = make_model(make, strategy)

    def step(part):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=part, y_pred=model(part, training=True), training=True)
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_weights)]
        return tf.distribute.get_replica_context().all_reduce("SUM", [loss, *gradients])

    parts = iter(strategy.distribute_datasets_from_function(lambda _: dataset(split_batch(batch, replicas))))
    run = lambda part: strategy.run(step, (part,))  # noqa: E731
    sums = (tf.function(run) if graph else run)(next(parts))
    loss, *gradients = (strategy.experimental_local_results(value)[0].numpy() for value in sums)
    states = [keras.ops.convert_to_numpy(state) for state in model.non_trainable_variables]
    return {"loss": loss, **model.get_metrics_result()}, gradients, states


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_of_two_replicas_are_those_of_one(variant):
    """Negatives, or what stands in for them, cross replicas in value and in gradient.

    Eagerly, which is quicker; graphs train below, except that of the official code.
    """
    graph = variant == "official code"
    batch = draw_batch(8, titles=variant == "titles")
    if variant != "titles":  # of which a picture has one
        batch["picture_id"][:10] = 0
    one, two = (one_step(lambda: VARIANTS[variant](Table()), batch, replicas, graph) for replicas in (1, 2))
    assert_equal_reports(one[0], two[0])
    for gradient, gradient_2 in zip(one[1], two[1], strict=True):
        np.testing.assert_allclose(gradient, gradient_2, rtol=1e-4, atol=1e-5)
    for state, state_2 in zip(one[2], two[2], strict=True):
        np.testing.assert_allclose(state, state_2, rtol=1e-5, atol=1e-6)
    assert np.abs(one[1][0]).max() > 1e-3


def train(make, batches, replicas, evaluate):
    """What evaluation, if any, and then training report, and the weights before and after."""
    strategy = mirrored([f"CPU:{i}" for i in range(replicas)])
    model = make_model(make, strategy)
    before = model.get_weights()
    parts = [part for batch in batches for part in split_batch(batch, replicas)]
    data = strategy.distribute_datasets_from_function(lambda _: dataset(parts))
    start = model.evaluate(data, steps=len(batches), verbose=0, return_dict=True) if evaluate else None
    fitted = model.fit(data, epochs=1, steps_per_epoch=len(batches), verbose=0, shuffle=False).history
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == len(batches)  # none was spent on tracing
    return start, {name: values[0] for name, values in fitted.items()}, before, model.get_weights()


@pytest.mark.parametrize(
    ("make", "evaluate"),
    [
        (lambda: Courier(Table()), True),
        (
            lambda: Courier(ImageEncoder(Swin(2, 4, (1,), (2,), 2, drop_path=0.0), 4), objective="hinge", margin=1.0),
            False,
        ),
    ],
    ids=["paper", "Swin and hinge"],
)
def test_two_replicas_train_as_one_does(make, evaluate):
    batches = [draw_batch(8, seed=seed) for seed in range(2)]
    (start, fitted, before, after), (start_2, fitted_2, _, after_2) = (
        train(make, batches, replicas, evaluate) for replicas in (1, 2)
    )
    assert_equal_reports(fitted, fitted_2)
    for weight, weight_2 in zip(after, after_2, strict=True):
        np.testing.assert_allclose(weight, weight_2, atol=2e-5)
    assert max(np.abs(b - a).max() for b, a in zip(before, after, strict=True)) > 1e-3
    if evaluate:  # of the table, whose losses are the equations'
        assert_equal_reports(start, start_2)
        expected = np.mean([sum(reference_loss(before[0], batch)) for batch in batches])
        assert start["loss"] == pytest.approx(expected, rel=1e-4)
