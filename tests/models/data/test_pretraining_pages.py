import copy
import functools
import itertools
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.manifest import Manifest, Window
from models.data.augmentation import flip_crop
from models.data.dataset import Dataset
from models.data.pretraining_pages import PretrainingPages, distinct_pictures, divide_batches, trim_page
from models.pretraining.courier import Courier
from models.vision.encoder import ImageEncoder
from models.vision.swin import Swin
from tests.models.picture_dataset import write_picture_dataset


def reference_trim(item, clicked, click_item, picture_of_item, candidates, clicks):
    """One page in plain Python."""
    shown = [(picture_of_item[i], bool(c)) for i, c in zip(item, clicked, strict=True) if i >= 0]
    shown = [(p, c) for p, c in shown if p >= 0]
    shown = ([s for s in shown if s[1]] + [s for s in shown if not s[1]])[:candidates]
    history = [picture_of_item[i] for i in click_item[:clicks] if i >= 0]
    history = [p for p in history if p >= 0]
    pad = lambda values, length, fill: values + [fill] * (length - len(values))  # noqa: E731
    return (
        pad([p for p, _ in shown], candidates, -1),
        pad([c for _, c in shown], candidates, False),
        pad(history, clicks, -1),
    )


padded_items = lambda length: st.lists(st.integers(0, 9), max_size=length).map(  # noqa: E731
    lambda items: items + [-1] * (length - len(items))
)


@settings(max_examples=40, deadline=None)
@given(
    pages=st.lists(st.tuples(padded_items(7), st.integers(0, 127), padded_items(6)), min_size=1, max_size=4),
    pictures=st.lists(st.integers(-1, 5), min_size=10, max_size=10),
    candidates=st.integers(1, 9),
    clicks=st.integers(1, 8),
)
def test_trimming_equals_plain_python(pages, pictures, candidates, clicks):
    item = np.array([page[0] for page in pages])
    clicked = (np.array([page[1] for page in pages])[:, None] >> np.arange(7)) & 1
    clicked[item < 0] = -1  # padding
    click_item = np.array([page[2] for page in pages])
    batch = {"item": item, "clicked": clicked, "click_item": click_item, "timestamp": np.arange(len(pages))}
    actual = trim_page(
        {name: tf.constant(value) for name, value in batch.items()}, tf.constant(pictures, tf.int32), candidates, clicks
    )
    expected = [
        reference_trim(item[n], clicked[n] == 1, click_item[n], pictures, candidates, clicks) for n in range(len(pages))
    ]
    for name, values in zip(
        ("candidate_picture", "clicked", "click_picture"), zip(*expected, strict=True), strict=True
    ):
        np.testing.assert_array_equal(actual[name], np.array(values), err_msg=name)


@settings(max_examples=25, deadline=None)
@given(
    candidate=st.lists(st.lists(st.integers(-1, 6), min_size=3, max_size=3), min_size=1, max_size=4),
    click=st.lists(st.integers(-1, 6), min_size=2, max_size=2),
)
def test_each_picture_is_read_once_and_found_again(candidate, click):
    pages = {
        "candidate_picture": tf.constant(candidate, tf.int32),
        "click_picture": tf.constant([click] * len(candidate), tf.int32),
        "clicked": tf.zeros((len(candidate), 3), tf.bool),
    }
    batch = distinct_pictures(pages, lambda numbers: numbers + 100)
    numbers = batch["picture_id"].numpy().tolist()
    expected = {*np.ravel(candidate), *click} - {-1}
    assert sorted(numbers[: len(expected)]) == sorted(expected)
    assert set(numbers[len(expected) :]) <= {-1}
    np.testing.assert_array_equal(batch["pictures"], [number + 100 if number >= 0 else 0 for number in numbers])
    for name in ("candidate_picture", "click_picture"):
        rows = batch[name].numpy()
        found = np.where(rows >= 0, np.array([*numbers, -1])[rows], -1)
        np.testing.assert_array_equal(found, pages[name])


def test_batches_have_few_shapes():
    rng = np.random.default_rng(0)
    shapes = set()
    for highest in range(1, 400, 7):
        pages = {
            "candidate_picture": tf.constant(rng.integers(-1, highest, (32, 5)), tf.int32),
            "click_picture": tf.constant(rng.integers(-1, highest, (32, 5)), tf.int32),
            "clicked": tf.zeros((32, 5), tf.bool),
        }
        batch = distinct_pictures(pages, lambda numbers: tf.zeros((tf.size(numbers), 2, 2, 3), tf.uint8))
        added = int((batch["picture_id"].numpy() == -1).sum())
        assert added < 10
        shapes.add(batch["pictures"].shape[0])
    assert shapes <= set(range(10, 321, 10))


def test_added_pictures_change_neither_loss_nor_gradients():
    rng = np.random.default_rng(0)
    batch = {
        "pictures": rng.integers(0, 256, (7, 8, 8, 3), np.uint8),
        "picture_id": np.arange(7, dtype=np.int32),
        "candidate_picture": rng.integers(-1, 7, (4, 3)).astype(np.int32),
        "click_picture": np.array([[0, 1], [2, -1], [3, 4], [5, 6]], np.int32),
        "clicked": rng.integers(0, 2, (4, 3)).astype(bool),
    }
    batch["clicked"] &= batch["candidate_picture"] >= 0
    padded = {
        **batch,
        "pictures": np.pad(batch["pictures"], [(0, 3), (0, 0), (0, 0), (0, 0)]),
        "picture_id": np.pad(batch["picture_id"], (0, 3), constant_values=-1),
    }
    keras.utils.set_random_seed(0)
    courier = Courier(ImageEncoder(Swin(4, 8, (2,), (2,), 2, 2.0, 0.0), 6))
    results = []
    for values in (batch, padded):
        values = {name: tf.constant(value) for name, value in values.items()}
        with tf.GradientTape() as tape:
            loss = courier.compute_loss(x=values, y_pred=courier(values))
        gradients = tape.gradient(loss, [variable.value for variable in courier.trainable_variables])
        results.append((loss, [tf.convert_to_tensor(gradient) for gradient in gradients]))
    (loss, gradients), (loss_padded, gradients_padded) = results
    assert float(loss) == pytest.approx(float(loss_padded), rel=1e-6)
    assert float(loss) > 0.1
    for gradient, gradient_padded in zip(gradients, gradients_padded, strict=True):
        np.testing.assert_allclose(gradient, gradient_padded, rtol=1e-4, atol=1e-5)


def page(time, item, clicked, click_item):
    return {"item": item, "clicked": clicked, "click_item": click_item, "timestamp": time}


@pytest.fixture(scope="module")
def pages_of(tmp_path_factory):
    shades = [np.full((6, 6, 3), 20 * shade, np.uint8) for shade in range(10)]
    places = [(0, shade) for shade in range(10)] + [(-1, -1)]  # item 10 has no picture
    usable = [page(100 + t, [t % 10, (t + 1) % 10, 10], [0, 1, 0], [(t + 2) % 10, 10, (t + 3) % 10]) for t in range(20)]
    others = [
        page(103, [1, 2], [1, 0], []),
        page(104, [1, 2], [1, 0], [10, 10]),
        page(105, [1, 2, 10], [0, 0, 1], [3]),
        page(106, [1, 2], [1, 0], [10, 10, 10, 4]),  # its only picture is older than the latest three clicks
    ]
    order = np.random.default_rng(0).permutation(24)
    records = [(usable + others)[i] for i in order]
    dataset = write_picture_dataset(tmp_path_factory.mktemp("pages") / "data", [shades], places, records)

    made = functools.cache(functools.partial(PretrainingPages, image_size=(6, 6)))

    def make(data=dataset, read=lambda numbers: numbers, **options):
        pages = copy.copy(made(data, **{"candidates": 2, "clicks": 3, "validation_share": 0.25, **options}))
        pages.read = read  # picture numbers for pictures, unless a test says otherwise
        return pages

    return make


def test_useless_pages_are_counted_and_the_latest_usable_ones_validate(pages_of):
    pages = pages_of()
    assert pages.counts == {"pages": 24, "without_history_picture": 3, "without_clicked_picture": 1, "usable": 20}
    assert (pages.training, pages.validation) == (15, 5)
    assert (pages_of(validation_share=0.0).training, pages_of(validation_share=0.0).validation) == (20, 0)
    assert pages_of(clicks=4).counts["usable"] == 21


def first_candidates(batch):
    return [int(batch["pictures"][row]) for row in batch["candidate_picture"][:, 0]]


def test_one_pass_over_training_batches_has_each_early_page_once(pages_of):
    pages = pages_of()
    batches = pages.training_batches(batch_size=5, seed=0)
    assert batches.element_spec["candidate_picture"].shape == (5, 2)
    passes = [list(batches.take(6).as_numpy_iterator()) for _ in range(2)]
    first = [first_candidates(batch) for batch in passes[0]]
    # The clicked candidate comes first: item t + 1 of page t, here the pages 0 to 14.
    expected = sorted((t + 1) % 10 for t in range(15))
    assert sorted(itertools.chain(*first[:3])) == expected
    assert sorted(itertools.chain(*first[3:])) == expected
    assert first[:3] != first[3:]
    assert (passes[0][0]["clicked"] == [True, False]).all()


def assert_equal_batches(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_batches_go_on_exactly_where_they_stopped(pages_of):
    store = tf.constant(np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8))
    options = {"batch_size": 4, "seed": 5, "augment": flip_crop(5)}  # 15 pages: passes end within batches
    read = lambda numbers: tf.gather(store, numbers)  # noqa: E731
    for start, first_steps in ((0, (1, 3, 7)), (1_000_000, (1_000_003,))):
        whole = pages_of(read=read).training_batches(first_step=start, **options)
        expected = list(whole.take(first_steps[-1] - start + 4).as_numpy_iterator())
        assert (expected[0]["pictures"][0] != expected[1]["pictures"][0]).any()
        for first_step in first_steps:
            rest = pages_of(read=read).training_batches(first_step=first_step, **options).take(4)
            assert_equal_batches(list(rest.as_numpy_iterator()), expected[first_step - start :][:4])


def test_batches_do_not_depend_on_the_parallelism_of_the_machine(pages_of):
    def slow_read(numbers):  # the first batches take longest
        def wait(values):
            time.sleep(0.002 * values[0])
            return values

        return tf.ensure_shape(tf.numpy_function(wait, [numbers], tf.int32), (None,))

    fast = pages_of().training_batches(batch_size=3, seed=1).take(12)
    slow = pages_of(read=slow_read).training_batches(batch_size=3, seed=1).take(12)
    assert_equal_batches(list(slow.as_numpy_iterator()), list(fast.as_numpy_iterator()))


def test_each_pass_over_batches_is_the_next_epoch(pages_of):
    """15 pages, batches of 4: the three pages that an epoch leaves over begin the next one."""
    pages, options = pages_of(), {"batch_size": 4, "seed": 3}
    batches = pages.batches(**options)
    assert int(batches.cardinality()) == 3
    epochs = [batch for _ in range(4) for batch in batches.as_numpy_iterator()]
    assert_equal_batches(epochs, list(pages.training_batches(**options).take(12).as_numpy_iterator()))
    validation = pages.validation_batches(2)
    assert int(validation.cardinality()) == 2
    for _ in range(2):
        expected = pages.endless_validation_batches(2).take(2)
        assert_equal_batches(list(validation.as_numpy_iterator()), list(expected.as_numpy_iterator()))
    with pytest.raises(InputError, match=r"`batch_size` must be at most the 5 pages to validate on\. Received: 6"):
        pages.validation_batches(6)


def test_pictures_are_the_same_from_the_store_and_from_memory(pages_of):
    pages = pages_of()
    del pages.read
    stored = pages_of(cache_megabytes=0)
    del stored.read
    assert stored.read == stored.store.read != pages.read
    one, other = (list(view.batches(5).as_numpy_iterator()) for view in (pages, stored))
    assert_equal_batches(one, other)
    assert one[0]["pictures"].shape[1:] == (6, 6, 3)


@pytest.mark.parametrize(("workers", "replicas"), [(1, 2), (2, 2), (2, 4), (1, 3)])
def test_batches_that_are_divided_later_are_those_that_were_made_divided(pages_of, workers, replicas):
    pages, options = pages_of(), {"batch_size": 6 if replicas == 3 else 4, "seed": 0}
    whole = pages.training_batches(**options).take(5)
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, replicas)
        divided = divide_batches(whole, context)
        assert int(divided.cardinality()) == 5 * replicas // workers
        made = pages.training_batches(**options, context=context).take(5 * replicas // workers)
        assert_equal_batches(list(divided.as_numpy_iterator()), list(made.as_numpy_iterator()))


@pytest.mark.parametrize("split", ["training", "validation"])
def test_workers_and_replicas_divide_each_step_between_them(pages_of, split):
    pages, steps = pages_of(), 5
    if split == "training":
        make = functools.partial(pages.training_batches, batch_size=4, seed=0, first_step=2)
    else:
        make = functools.partial(pages.endless_validation_batches, batch_size=4)
    whole = [shown(batch) for batch in make().take(steps).as_numpy_iterator()]
    for workers, replicas in ((1, 2), (2, 2), (2, 4), (4, 4)):
        parts, here = [], replicas // workers
        for worker in range(workers):
            context = tf.distribute.InputContext(workers, worker, replicas)
            parts.append([shown(b) for b in make(context=context).take(steps * here).as_numpy_iterator()])
        divided = [
            [page for part in parts for replica in range(here) for page in part[step * here + replica]]
            for step in range(steps)
        ]
        assert divided == whole, (workers, replicas)


def shown(batch):
    """The pages of a batch: picture numbers of the candidates."""
    return [tuple(int(batch["picture_id"][row]) if row >= 0 else -1 for row in p) for p in batch["candidate_picture"]]


def test_validation_batches_are_the_late_pages_in_order_every_time(pages_of):
    batches = list(pages_of().endless_validation_batches(2).take(4).as_numpy_iterator())
    assert first_candidates(batches[0]) == first_candidates(batches[2])
    seen = [first_candidates(batch) for batch in batches[:2]]
    assert set(itertools.chain(*seen)) <= {(t + 1) % 10 for t in range(15, 20)}
    assert len(set(itertools.chain(*seen))) == 4


def test_validation_pages_are_whole(pages_of):
    whole = pages_of().validation_pages(clicks=50, limit=3)
    assert whole["candidate_picture"].shape == (3, 3)
    assert whole["click_picture"].shape == (3, 50)
    assert ((whole["click_picture"] >= 0).sum(axis=1) == 2).all()
    assert len(pages_of().validation_pages(clicks=2, limit=100)["clicked"]) == 5


@pytest.fixture
def trimmed(tmp_path):
    """Whole pages whose unclicked candidate 9 is not in the view, and a last one that is not there at all."""
    shades = [np.full((6, 6, 3), 20 * shade, np.uint8) for shade in range(10)]
    whole = [page(100 + t, [9, t % 9, (t + 1) % 9], [0, 0, 1], [(t + 2) % 9]) for t in range(20)]
    whole.append(page(150, [1, 2], [1, 0], []))
    view = [page(100 + t, [(t + 1) % 9, t % 9], [1, 0], [(t + 2) % 9]) for t in range(20)]
    return write_picture_dataset(tmp_path / "data", [shades], [(0, shade) for shade in range(10)], whole, view=view)


def test_the_view_teaches_and_whole_pages_as_late_validate(pages_of, trimmed):
    pages = pages_of(trimmed, clicks=1)
    assert (pages.counts["pages"], pages.training, pages.validation) == (20, 15, 5)
    taught = pages.training_batches(batch_size=15, seed=0).take(1)
    compared = pages.endless_validation_batches(batch_size=5).take(1)
    for batches in (taught, compared):
        (batch,) = batches.as_numpy_iterator()
        assert 9 not in batch["picture_id"]
    whole = pages.validation_pages(clicks=50, limit=100)
    assert whole["candidate_picture"].shape == (5, 3)
    assert sorted(whole["candidate_picture"].tolist()) == sorted([(t + 1) % 9, 9, t % 9] for t in range(15, 20))
    np.testing.assert_array_equal(whole["clicked"], [[True, False, False]] * 5)


def test_the_window_covers_what_teaches_and_what_selects(pages_of, trimmed):
    assert pages_of(trimmed, clicks=1).window == Window(first=100, last=150)
    assert pages_of(trimmed, clicks=1, validation_share=0.0).window == Window(first=100, last=119)


def test_fewer_than_the_view_has_trim_it_and_more_are_refused(pages_of, trimmed):
    pages = pages_of(trimmed, candidates=1, clicks=1)
    (batch,) = pages.training_batches(batch_size=15, seed=0).take(1).as_numpy_iterator()
    assert batch["clicked"].shape == (15, 1)
    assert batch["clicked"].all()
    message = r"candidates: must be at most the 2 .* with --pretraining-candidates 3. Received: 3"
    with pytest.raises(InputError, match=message):
        pages_of(trimmed, candidates=3, clicks=1)
    with pytest.raises(InputError, match=r"clicks: must be at most the 1 .* with --pretraining-clicks 2"):
        pages_of(trimmed, clicks=2)


def changed(dataset, **fields):
    """The same files under another manifest."""
    Manifest.read(dataset.path).model_copy(update=fields).write(dataset.path)
    return Dataset(dataset.path)


def test_without_a_view_there_is_nothing_to_learn_on(pages_of, trimmed):
    with pytest.raises(ArtifactError, match="no pretrain page has pictures, a click before it and a clicked candidate"):
        pages_of(changed(trimmed, pretraining=None), clicks=1)


def test_validation_needs_whole_pages_that_are_late_enough(pages_of, tmp_path):
    """Every click of a causal view may be an event of its own: there need not be pages at all."""
    shade, view = np.zeros((6, 6, 3), np.uint8), [page(100 + t, [1, 2], [1, 1], [3]) for t in range(20)]
    pictures = [[shade]], [(0, 0)] * 10

    bare = write_picture_dataset(tmp_path / "bare", *pictures, view=view)
    assert pages_of(bare, clicks=1, validation_share=0.0).training == 20
    with pytest.raises(ArtifactError, match="no pages in split `pretrain`"):
        pages_of(bare, clicks=1)

    early = write_picture_dataset(tmp_path / "early", *pictures, [page(9, [1, 2], [1, 0], [3])], view=view)
    with pytest.raises(ArtifactError, match=r"validation_share: no usable page .* in split `pretrain` is as late"):
        pages_of(early, clicks=1).validation_pages(clicks=1, limit=10)


def test_only_the_listed_and_undamaged_view_is_read(pages_of, trimmed):
    (shard,) = (trimmed.path / "pretraining").iterdir()
    added = shard.with_name("page-00001-of-00001.tfrecord")
    added.write_bytes(shard.read_bytes())
    with pytest.raises(ArtifactError, match=f"{added.name}: manifest.json does not list it"):
        pages_of(Dataset(trimmed.path), clicks=1)
    added.unlink()
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{shard.name} is damaged in record"):
        pages_of(Dataset(trimmed.path), clicks=1)
