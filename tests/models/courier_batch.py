"""Small batches for COURIER, an encoder whose embeddings can be set by hand, and the same batch on several replicas."""

import keras
import numpy as np
import tensorflow as tf

from models.training.training_state import read_training_state, write_training_state

DIM = 8


@keras.saving.register_keras_serializable(package="tests")
class Table(keras.Model):
    """Stands in for an encoder: the red value of a picture picks a row, so that embeddings can be set by hand."""

    def __init__(self, rows: int = 256, dim: int = DIM, **kwargs):
        super().__init__(**kwargs)
        self.embedding_dim = dim
        self.table = keras.layers.Embedding(rows, dim, embeddings_initializer=keras.initializers.RandomNormal(seed=1))
        self.table.build((None,))
        self.built = True

    def call(self, pictures, training=False):
        return self.table(keras.ops.cast(pictures[:, 0, 0, 0], "int32"))


@keras.saving.register_keras_serializable(package="tests")
class TitleTable(keras.Model):
    """Stands in for a text encoder: a title's first token picks a row; without one it is the first."""

    def __init__(self, rows: int = 12, dim: int = DIM, **kwargs):
        super().__init__(**kwargs)
        self.embedding_dim = dim
        self.table = keras.layers.Embedding(rows, dim, embeddings_initializer=keras.initializers.RandomNormal(seed=2))
        self.table.build((None,))
        self.built = True

    def call(self, tokens, training=False):
        return self.table(keras.ops.maximum(tokens[:, 0], 0))


def draw_titles(picture_id, length: int = 3):
    """Tokens that follow from pictures' numbers; some have no title, some have one in common."""
    tokens = (np.asarray(picture_id)[:, None] * (1 + np.arange(length)) % 11).astype(np.int32)
    tokens[np.asarray(picture_id) % 5 == 3] = -1
    tokens[:, -1] = -1
    tokens[np.asarray(picture_id) < 0] = -1
    return tokens


def draw_batch(
    pages: int, candidates: int = 4, clicks: int = 3, pictures: int = 30, seed: int = 0, titles: bool = False
):
    """A batch as `distinct_pictures` makes it, with every kind of padding, and with titles if asked for."""
    rng = np.random.default_rng(seed)
    batch = {
        "pictures": np.tile(rng.permutation(200)[:pictures, None, None, None], (1, 2, 2, 3)).astype(np.uint8),
        "picture_id": (7 * np.arange(pictures)).astype(np.int32),
        "candidate_picture": rng.integers(0, pictures, (pages, candidates)).astype(np.int32),
        "click_picture": rng.integers(0, pictures, (pages, clicks)).astype(np.int32),
        "clicked": rng.random((pages, candidates)) < 0.4,
    }
    batch["candidate_picture"][np.arange(candidates) >= rng.integers(1, candidates + 1, (pages, 1))] = -1
    batch["click_picture"][np.arange(clicks) >= rng.integers(0, clicks + 1, (pages, 1))] = -1
    batch["clicked"] &= batch["candidate_picture"] >= 0
    batch["clicked"][:, 0] = True
    if titles:
        batch["tokens"] = draw_titles(batch["picture_id"])
    return batch


def embeddings_of(table: np.ndarray, batch, name):
    picture = batch["pictures"][:, 0, 0, 0][np.maximum(batch[name], 0)]
    return table[picture]


def loss_of(model, batch, training=False):
    batch = {name: tf.constant(value) for name, value in batch.items()}
    return model.compute_loss(x=batch, y_pred=model(batch, training=training), training=training)


def table_gradient(model, batch):
    """Which rows of the table have a gradient: the largest absolute value of each."""
    batch = {name: tf.constant(value) for name, value in batch.items()}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=batch, y_pred=model(batch))
    gradient = tf.convert_to_tensor(tape.gradient(loss, model.encoder.trainable_weights[0]))
    return np.abs(gradient.numpy()).max(axis=1)


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
        of_pictures = [name for name in ("pictures", "picture_id", "tokens") if name in batch]
        parts.append(
            {
                **{name: batch[name][used[used >= 0]] for name in of_pictures},
                "candidate_picture": at[:, :candidates].astype(np.int32),
                "click_picture": at[:, candidates:].astype(np.int32),
                "clicked": batch["clicked"][rows],
            }
        )
    return parts


def dataset(parts):
    signature = {
        "pictures": tf.TensorSpec((None, 2, 2, 3), tf.uint8),
        "picture_id": tf.TensorSpec((None,), tf.int32),
        "candidate_picture": tf.TensorSpec((None, parts[0]["candidate_picture"].shape[1]), tf.int32),
        "click_picture": tf.TensorSpec((None, parts[0]["click_picture"].shape[1]), tf.int32),
        "clicked": tf.TensorSpec((None, parts[0]["clicked"].shape[1]), tf.bool),
    }
    if "tokens" in parts[0]:
        signature["tokens"] = tf.TensorSpec((None, parts[0]["tokens"].shape[1]), tf.int32)
    return tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=signature)


def check_resumption(make, draw):
    """Training that stops after two batches and goes on in another model ends as training that does not, bit for bit.

    Args:
        make: gives a new compiled model.
        draw: seed to batch.

    Returns:
        The training states when it stopped and at the end, by name.
    """

    def train(model, seeds):
        stacked = [draw(seed) for seed in seeds]
        data = {name: np.stack([batch[name] for batch in stacked]) for name in stacked[0]}
        model.fit(tf.data.Dataset.from_tensor_slices(data), verbose=0)

    whole, first, second = make(), make(), make()
    train(whole, range(4))
    train(first, range(2))
    state = {name: value.copy() for name, value in read_training_state(first).items()}
    second.prepare_fit()
    write_training_state(second, state)
    train(second, range(2, 4))
    expected, actual = read_training_state(whole), read_training_state(second)
    for name, value in expected.items():
        if not name.startswith("metrics"):
            np.testing.assert_array_equal(actual[name], value, err_msg=name)
    return state, expected
