import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.layers.table_rows import gather_rows
from models.training.adam import Adam
from models.training.averaged_weights import averaged_weights
from models.training.lazy_adam import LazyAdam
from models.training.optimizer import ReplicaLossScaleOptimizer
from models.training.training_state import read_training_state, write_training_state
from tests.models.courier_batch import mirrored

RATE, DECAY = 0.1, 0.3
ROWS = 12


def lazy_adam(table, steps, decay=0.0, decoupled=False, clip=None):
    """Lazy Adam row by row; `steps` are lists of (row, gradient of the row), in which rows repeat.

    Also returns the moments.
    """
    table = table.astype(np.float64)
    m, v = np.zeros_like(table), np.zeros_like(table)
    for step, named in enumerate(steps, 1):
        gradients = {}
        for row, gradient in named:
            gradients[row] = gradients.get(row, 0) + gradient
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        for row, gradient in gradients.items():
            if clip is not None and norm > clip:
                gradient = gradient * clip / norm
            if decoupled:
                table[row] -= RATE * decay * table[row]
            else:
                gradient = gradient + decay * table[row]
            m[row] = 0.9 * m[row] + 0.1 * gradient
            v[row] = 0.999 * v[row] + 0.001 * gradient**2
            table[row] -= RATE * m[row] / (1 - 0.9**step) / (np.sqrt(v[row] / (1 - 0.999**step)) + 1e-8)
    return table, m, v


def draw(lookups=8, steps=4, shape=(3,), seed=0, dtype=np.int64):
    """A table, and per step the rows looked up, of which several repeat and row 0 is none, with their gradients."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, ROWS, (steps, lookups)).astype(dtype)
    if lookups:
        rows[:, -1] = rows[:, 0]
    gradients = rng.normal(size=(steps, lookups, *shape)).astype(np.float32)
    return rng.normal(size=(ROWS, *shape)).astype(np.float32), rows, gradients


def mean_of(weights):
    """The average of the weights after each step: of t steps, the first k count (k / t) ** 9."""
    t = len(weights)
    share = [(k / t) ** 9 - ((k - 1) / t) ** 9 for k in range(1, t + 1)]
    return sum(part * weight.astype(np.float64) for part, weight in zip(share, weights, strict=True))


def state_of(optimizer, variable):
    read = keras.ops.convert_to_numpy
    momentum, velocity = optimizer.variables[-2:]
    return read(variable), read(momentum), read(velocity)


def train(optimizer, table, rows, gradients):
    """The table and its two moments after the steps, in a `tf.function`."""
    variable = keras.Variable(table)
    optimizer.build([variable])

    @tf.function
    def step(rows, gradient):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(gather_rows(variable, rows) * gradient)
        optimizer.apply(tape.gradient(loss, [variable]), [variable])

    for named in zip(rows, gradients, strict=True):
        step(*map(tf.constant, named))
    return state_of(optimizer, variable)


@pytest.mark.parametrize(
    ("kind", "decay", "clip", "lookups", "shape", "dtype"),
    [  # every pair of values
        ("coupled", 0.0, None, 8, (3,), np.int64),
        ("coupled", DECAY, None, 8, (3,), np.int64),
        ("decoupled", DECAY, 0.5, 8, (3,), np.int64),
        ("coupled", DECAY, 0.5, 1, (), np.int32),
        ("decoupled", 0.0, None, 1, (), np.int32),
        ("decoupled", DECAY, None, 40, (2, 2), np.int32),
        ("coupled", 0.0, 0.5, 40, (2, 2), np.int32),
    ],
)
def test_equals_the_equations_row_by_row(kind, decay, clip, lookups, shape, dtype):
    table, rows, gradients = draw(lookups, shape=shape, dtype=dtype)
    steps = [list(zip(*step, strict=True)) for step in zip(rows, gradients, strict=True)]
    expected = lazy_adam(table, steps, decay, kind == "decoupled", clip)
    optimizer = LazyAdam(RATE, weight_decay=decay, weight_decay_kind=kind, global_clipnorm=clip)
    for actual, wanted in zip(train(optimizer, table, rows, gradients), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_is_adam_where_every_row_has_a_gradient_in_every_step(kind, clip):
    table, _, gradients = draw(lookups=ROWS, steps=5)
    rows = np.array([np.random.default_rng(step).permutation(ROWS) for step in range(5)])
    results = [
        train(optimizer(RATE, weight_decay=DECAY, weight_decay_kind=kind, global_clipnorm=clip), table, rows, gradients)
        for optimizer in (LazyAdam, Adam)
    ]
    for lazy, dense in zip(*results, strict=True):
        np.testing.assert_allclose(lazy, dense, rtol=1e-5, atol=1e-6)
    table, rows, gradients = draw()
    assert (
        np.abs(train(LazyAdam(RATE), table, rows, gradients)[0] - train(Adam(RATE), table, rows, gradients)[0]).max()
        > 0.01
    )


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_rows_without_a_lookup_do_not_change_at_all(kind):
    table, rows, gradients = draw(steps=6)
    optimizer = LazyAdam(RATE, weight_decay=DECAY, weight_decay_kind=kind, global_clipnorm=0.5)
    first = train(optimizer, table, rows[:1], gradients[:1])
    later = LazyAdam.from_config(optimizer.get_config())
    both = train(later, table, np.concatenate([rows[:1], np.full((5, 8), 11)]), gradients)
    seen = np.isin(np.arange(ROWS), rows[0])
    assert 0 < seen[:11].sum() < 10
    for once, more in zip(first, both, strict=True):
        np.testing.assert_array_equal(more[:11], once[:11])  # moments are not even shrunk
    np.testing.assert_array_equal(first[0][~seen], table[~seen])
    assert (first[0][seen] != table[seen]).all()
    assert (both[0][11] != first[0][11]).all()


@pytest.mark.parametrize(
    "optimizer", [LazyAdam(RATE), LazyAdam(RATE, weight_decay=DECAY, weight_decay_kind="decoupled")]
)
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_averages_are_those_of_the_weights_after_each_step(optimizer, steps):
    """Of rows, whether they are looked up in every step, in some or in none, and of dense weights."""
    table, rows, gradients = draw(lookups=2, steps=steps)
    averaging = LazyAdam.from_config({**optimizer.get_config(), "average": True})
    variables = [keras.Variable(table), keras.Variable(table[:2])]
    averaging.build(variables)
    after = [[], []]
    for named, gradient in zip(rows, gradients, strict=True):
        of_rows = tf.IndexedSlices(tf.constant(gradient), tf.constant(named), tf.constant(table.shape))
        averaging.apply([of_rows, tf.constant(gradient)], variables)
        for weights, variable in zip(after, variables, strict=True):
            weights.append(keras.ops.convert_to_numpy(variable))
    for average, weights in zip(averaging.averages(), after, strict=True):
        np.testing.assert_allclose(average, mean_of(weights), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(averaging.averages()[0][0], table[0])  # never looked up
    plain = LazyAdam.from_config(optimizer.get_config())
    np.testing.assert_allclose(after[0][-1], train(plain, table, rows, gradients)[0], rtol=1e-5)  # training is the same


def test_averages_hold_for_millions_of_steps():
    """They are found from the ninth power of the step's number, which must stay a number."""
    variable = keras.Variable(np.zeros(1, np.float32))
    optimizer = LazyAdam(RATE, average=True)
    optimizer.build([variable])
    for steps in (10_000, 50_000_000):
        optimizer.iterations.assign(steps)
        before = variable.numpy()
        optimizer.apply([tf.ones(1)], [variable])
        gap = variable.numpy() - optimizer.averages()[0].numpy()
        np.testing.assert_allclose(gap, (variable.numpy() - before) * (steps / (steps + 1)) ** 9, rtol=1e-3)


def test_a_model_has_averages_for_weights_for_a_while():
    model = Model(draw()[0])
    optimizer = LazyAdam(RATE, average=True)
    model.compile(optimizer)
    optimizer.build(model.trainable_variables)
    for sign in (1.0, 1.0, -1.0):
        optimizer.apply([sign * tf.ones_like(w) for w in model.trainable_variables], model.trainable_variables)
    own, averages = model.get_weights(), optimizer.averages()
    with averaged_weights(model):
        for weight, average in zip(model.get_weights(), averages, strict=True):
            np.testing.assert_array_equal(weight, average)
    for weight, before, average in zip(model.get_weights(), own, averages, strict=True):
        np.testing.assert_array_equal(weight, before)
        assert np.abs(average - before).max() > 1e-4
    model.compile(LazyAdam(RATE))
    with averaged_weights(model):
        np.testing.assert_array_equal(model.get_weights()[0], own[0])


def test_a_step_without_lookups_changes_the_step_count_alone():
    table, rows, gradients = draw(lookups=0, steps=1)
    optimizer = LazyAdam(RATE, weight_decay=DECAY, global_clipnorm=0.5)
    weight, momentum, velocity = train(optimizer, table, rows, gradients)
    np.testing.assert_array_equal(weight, table)
    assert not momentum.any()
    assert not velocity.any()
    assert int(optimizer.iterations) == 1


class Model(keras.Model):
    """A table behind a dense layer: one variable of either kind."""

    def __init__(self, table):
        super().__init__()
        self.table = self.add_weight(name="table", shape=table.shape, initializer=lambda *_, **__: tf.constant(table))
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")
        self.dense.build((None, table.shape[1]))
        self.built = True

    def call(self, rows):
        return self.dense(tf.tanh(gather_rows(self.table, rows)))


def train_on_replicas(make, table, rows, gradients, replicas):
    """Each replica has its own part of the lookups of every step."""
    strategy = mirrored([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope():
        model, optimizer = Model(table), make()
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(rows, gradient):
        def of_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(rows[replica])[:, 0] * gradient[replica, :, 0])
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)

        strategy.run(of_replica)

    for named in zip(rows, gradients, strict=True):
        step(*(tf.constant(np.stack(np.split(values, replicas))) for values in named))
    read, copies = keras.ops.convert_to_numpy, strategy.experimental_local_results
    weights = [[copy.numpy() for copy in copies(variable.value)] for variable in model.trainable_variables]
    return weights, [read(variable) for variable in optimizer.variables]


def assert_two_replicas_are_one(make, disjoint, scale=1.0):
    table, rows, gradients = draw(lookups=10)
    if disjoint:  # no row is looked up by both
        rows[:, :5], rows[:, 5:] = rows[:, :5] % 5 + 1, rows[:, 5:] % 5 + 6
    (copies, slots), (copies_2, slots_2) = (
        train_on_replicas(make, table, rows, gradients * scale, replicas) for replicas in (1, 2)
    )
    for (one,), (first, second) in zip(copies, copies_2, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, one, rtol=1e-4, atol=1e-5)
    for slot, slot_2 in zip(slots, slots_2, strict=True):
        np.testing.assert_allclose(slot_2, slot, rtol=1e-4, atol=1e-5)
    unseen = ~np.isin(np.arange(ROWS), rows)
    assert unseen.any()
    np.testing.assert_array_equal(copies_2[0][0][unseen], table[unseen])
    return copies


@pytest.mark.parametrize(
    ("kind", "clip", "disjoint"),
    [("coupled", None, False), ("coupled", 0.5, True), ("decoupled", None, True), ("decoupled", 0.5, False)],
)
def test_two_replicas_train_as_one_does(kind, clip, disjoint):
    make = lambda: LazyAdam(  # noqa: E731
        RATE, weight_decay=DECAY, weight_decay_kind=kind, global_clipnorm=clip, average=True
    )
    assert_two_replicas_are_one(make, disjoint)


def test_scaled_losses_give_the_same_step():
    make = lambda: LazyAdam(RATE, global_clipnorm=0.5)  # noqa: E731
    scaled = lambda: ReplicaLossScaleOptimizer(make(), initial_scale=1024.0)  # noqa: E731
    plain = assert_two_replicas_are_one(make, disjoint=False)
    for (copy,), (scaled_copy,) in zip(plain, assert_two_replicas_are_one(scaled, False, 1024.0), strict=True):
        np.testing.assert_allclose(scaled_copy, copy, rtol=1e-4, atol=1e-5)


def shapes_in(graph):
    """Shapes of all tensors that a graph and the functions it calls compute."""
    for operation in graph.get_operations():
        yield from (output.shape for output in operation.outputs)
    for function in graph._functions.values():
        yield from shapes_in(function.graph) if hasattr(function, "graph") else ()


@pytest.mark.parametrize(
    ("replicas", "average", "options"),
    [
        (1, False, {}),
        (1, True, {"weight_decay": DECAY, "global_clipnorm": 0.5}),
        (2, False, {"weight_decay": DECAY, "global_clipnorm": 0.5}),
        (2, True, {}),
    ],
    ids=str,
)
def test_no_tensor_of_a_step_has_the_size_of_the_table(replicas, options, average):
    """A step that computed or read one would cost what the table costs."""
    rows = 9973
    strategy = mirrored([f"CPU:{i}" for i in range(replicas)])

    def sizes(optimizer):
        with strategy.scope():
            model = Model(np.zeros((rows, 3), np.float32))
            optimizer = optimizer(RATE, **options)
            optimizer.build(model.trainable_variables)

        @tf.function
        def step(rows):
            def of_replica():
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(model(rows))
                optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

            strategy.run(of_replica)

        graph = step.get_concrete_function(tf.TensorSpec((7,), tf.int64)).graph
        return [shape for shape in shapes_in(graph) if shape.rank and rows in shape]

    assert sizes(functools.partial(LazyAdam, average=average)) == []
    assert sizes(Adam)


def test_gradients_of_rows_are_those_of_a_dense_gather():
    table, rows, gradients = draw()
    variable = keras.Variable(table)
    with tf.GradientTape(persistent=True) as tape:
        gathered = gather_rows(variable, rows[0].reshape(2, 4))
        loss = tf.reduce_sum(gathered * gradients[0].reshape(2, 4, 3))
    np.testing.assert_array_equal(gathered, table[rows[0]].reshape(2, 4, 3))
    gradient = tape.gradient(loss, variable)
    assert isinstance(gradient, tf.IndexedSlices)
    expected = np.zeros_like(table)
    np.add.at(expected, rows[0], gradients[0])
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_config_round_trip(kind):
    optimizer = LazyAdam(0.5, weight_decay=DECAY, weight_decay_kind=kind, global_clipnorm=2.0, beta_1=0.8)
    drawn = draw()
    expected = train(LazyAdam.from_config(optimizer.get_config()), *drawn)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(loaded) is LazyAdam
    assert loaded.get_config() == optimizer.get_config()
    for actual, wanted in zip(train(loaded, *drawn), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_an_interrupted_training_goes_on_exactly():
    table, rows, gradients = draw(steps=6)

    def fit(model, steps):
        for step in steps:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(rows[step])[:, 0] * gradients[step, :, 0])
            variables = model.trainable_variables
            model.optimizer.apply(tape.gradient(loss, variables), variables)
        return read_training_state(model)

    def make():
        model = Model(table)
        model.compile(LazyAdam(RATE, weight_decay=DECAY))
        model.optimizer.build(model.trainable_variables)
        return model

    expected = fit(make(), range(6))
    resumed = make()
    write_training_state(resumed, fit(make(), range(3)))
    state = fit(resumed, range(3, 6))
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


@pytest.mark.parametrize(
    "option", [{"amsgrad": True}, {"use_ema": True}, {"clipnorm": 1.0}, {"clipvalue": 1.0}], ids=str
)
def test_options_that_need_whole_tables_are_refused(option):
    with pytest.raises(ValueError, match=f"no options that need whole tables. Received: {next(iter(option))}"):
        LazyAdam(RATE, **option)
