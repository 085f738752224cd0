import keras
import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.format.errors import InputError
from models.config import load_config
from models.training.adam import Adam
from models.training.optimizer import OptimizerConfig, ReplicaLossScaleOptimizer, build_optimizer
from tests.models.courier_batch import mirrored

RATE, DECAY = 0.1, 0.3


def torch_adam(weight, gradients, decay, decoupled, clip=None):
    """`torch.optim.Adam` (coupled) and `torch.optim.AdamW` (decoupled), as their documentation writes them."""
    m, v = np.zeros_like(weight), np.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        if clip is not None:
            gradient = gradient * min(1.0, clip / np.linalg.norm(gradient))
        if decoupled:
            weight = weight - RATE * decay * weight
        else:
            gradient = gradient + decay * weight
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        weight = weight - RATE * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return weight


def draw(steps=5, shape=(4, 3)):
    rng = np.random.default_rng(0)
    return rng.normal(size=shape).astype(np.float32), rng.normal(size=(steps, *shape)).astype(np.float32)


def train(optimizer, weight, gradients):
    variable = keras.Variable(weight)
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [variable])
    return variable.numpy()


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_equals_torch(kind, decay, clip):
    weight, gradients = draw()
    optimizer = Adam(RATE, weight_decay=decay, weight_decay_kind=kind, global_clipnorm=clip)
    expected = torch_adam(weight, gradients, decay, kind == "decoupled", clip)
    np.testing.assert_allclose(train(optimizer, weight, gradients), expected, rtol=1e-4, atol=1e-5)


def test_the_kinds_differ_in_what_they_do_without_gradients():
    weight, gradients = draw()
    still = np.zeros_like(gradients)
    coupled = train(Adam(RATE, weight_decay=DECAY), weight, still[:1])
    np.testing.assert_allclose(coupled, weight - RATE * np.sign(weight), atol=1e-4)  # a full step, however small DECAY
    decoupled = train(Adam(RATE, weight_decay=DECAY, weight_decay_kind="decoupled"), weight, still)
    np.testing.assert_allclose(decoupled, weight * (1 - RATE * DECAY) ** 5, rtol=1e-5)
    np.testing.assert_array_equal(train(Adam(RATE), weight, still), weight)
    keras_own = train(keras.optimizers.AdamW(RATE, weight_decay=DECAY, epsilon=1e-8), weight, gradients)
    ours = train(Adam(RATE, weight_decay=DECAY, weight_decay_kind="decoupled"), weight, gradients)
    np.testing.assert_allclose(ours, keras_own, rtol=1e-4, atol=1e-5)
    exact = torch_adam(weight.astype(float), gradients.astype(float), DECAY, True)
    assert np.abs(ours - exact).mean() < np.abs(keras_own - exact).mean()


def apply_on_replicas(make, weight, gradients, replicas, overflow=None):
    """Each replica has its own part of every gradient; `overflow` is a replica whose parts are infinite."""
    strategy = mirrored([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope():
        variable, optimizer = keras.Variable(weight), make()
        optimizer.build([variable])
    rng = np.random.default_rng(1)
    shares = rng.normal(size=(len(gradients), replicas))
    shares += (1 - shares.sum(axis=1, keepdims=True)) / replicas
    parts = np.array([[share * gradient for share in row] for row, gradient in zip(shares, gradients, strict=True)])
    if overflow is not None:
        parts[:, overflow] = np.inf
    parts = tf.constant(parts, tf.float32)

    @tf.function
    def step(part):
        def of_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([part[replica]], [variable])

        strategy.run(of_replica)

    for part in parts:
        step(part)
    return keras.ops.convert_to_numpy(variable), optimizer


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_replicas_clip_and_decay_what_their_gradients_add_up_to(kind, clip):
    weight, gradients = draw(steps=3)

    def make():
        return Adam(RATE, weight_decay=DECAY, weight_decay_kind=kind, global_clipnorm=clip)

    two, _ = apply_on_replicas(make, weight, gradients, 2)
    expected = torch_adam(weight, gradients, DECAY, kind == "decoupled", clip)
    np.testing.assert_allclose(two, expected, rtol=1e-4, atol=1e-5)


def test_scaled_losses_give_the_same_step_on_replicas():
    weight, gradients = draw(steps=2)
    make = lambda: ReplicaLossScaleOptimizer(Adam(RATE, weight_decay=DECAY, global_clipnorm=0.5), initial_scale=1024.0)  # noqa: E731
    two, _ = apply_on_replicas(make, weight, gradients * 1024, 2)
    np.testing.assert_allclose(two, torch_adam(weight, gradients, DECAY, False, 0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("overflow", [0, 1])
def test_a_step_is_left_out_when_any_replica_overflows(overflow):
    weight, gradients = draw(steps=2)
    make = lambda: ReplicaLossScaleOptimizer(Adam(RATE, weight_decay=DECAY), initial_scale=1024.0)  # noqa: E731
    two, optimizer = apply_on_replicas(make, weight, gradients, 2, overflow)
    np.testing.assert_array_equal(two, weight)
    assert float(keras.ops.convert_to_numpy(optimizer.dynamic_scale)) == 256.0
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 0


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_config_round_trip(kind):
    optimizer = Adam(0.5, weight_decay=DECAY, weight_decay_kind=kind, global_clipnorm=2.0)
    for loaded in (
        Adam.from_config(optimizer.get_config()),
        keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
    ):
        assert loaded.get_config() == optimizer.get_config()
        weight, gradients = draw()
        np.testing.assert_array_equal(
            train(loaded, weight, gradients), train(Adam.from_config(optimizer.get_config()), weight, gradients)
        )


def test_configured_optimizer():
    default = build_optimizer(OptimizerConfig(), 100)
    assert isinstance(default, Adam)
    assert float(default.learning_rate) == pytest.approx(1e-4)
    assert (default.coupled_weight_decay, default.weight_decay, default.global_clipnorm) == (1e-6, None, None)
    config = OptimizerConfig(learning_rate=0.2, schedule="cosine", weight_decay_kind="decoupled", clip_norm=1.0)
    optimizer = build_optimizer(config, 100)
    assert (optimizer.coupled_weight_decay, optimizer.weight_decay, optimizer.global_clipnorm) == (0.0, 1e-6, 1.0)
    rates = []
    for step in (0, 5, 10, 55, 100):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.1, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("override", "key"),
    [("weight_decay=-1", "weight_decay"), ("schedule=linear", "schedule"), ("clip_norm=0", "clip_norm")],
)
def test_impossible_values_are_refused_by_name(override, key):
    with pytest.raises(InputError, match=key):
        load_config(OptimizerConfig, None, [override])
    with pytest.raises(ValueError, match=r"`weight_decay` must not be negative\. Received: -1"):
        Adam(0.1, weight_decay=-1)
    with pytest.raises(ValueError, match="`weight_decay_kind` must be 'coupled' or 'decoupled'"):
        Adam(0.1, weight_decay_kind="l2")
    with pytest.raises(ValueError, match=r"`Adam` has no `amsgrad`\. Received: amsgrad=True"):
        Adam(0.1, amsgrad=True)
