import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from models.ctr import matches
from models.ctr.config import IMAGE_FEATURES, RankerConfig, RankerLengths
from models.ctr.features import Counts, count_occurrences, make_feature_tables
from models.ctr.ranker import Ranker
from models.ctr.text_embedding import TextEmbedding, hash_tokens
from models.data.dataset import Dataset
from models.data.pages import page_batches
from models.embeddings.store import load_cluster_ids, load_embeddings
from tests.models.tiny_dataset import write_tiny_dataset

CONFIG = RankerConfig(
    lengths=RankerLengths(candidates=6, click=7, pay=4, cart=3),
    embedding_dim=4,
    item_dim=6,
    attention_units=5,
    mlp_units=(32, 24, 16, 12),
    id_dropout=0.0,
    token_buckets=50,
    title_tokens=5,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def dataset(tiny):
    return Dataset(tiny.data)


@pytest.fixture(scope="module")
def counts(dataset):
    pages = page_batches(dataset, "train", CONFIG.lengths, batch_size=64)
    return count_occurrences(pages, items=len(dataset.items()), users=len(dataset.users()))


@pytest.fixture(scope="module")
def page(dataset):
    """The last pages of training: most have histories, some have fewer candidates than others."""
    return next(iter(page_batches(dataset, "train", CONFIG.lengths, batch_size=240).map(lambda p: last(p, 24))))


def last(page, count):
    return {name: values[-count:] for name, values in page.items()}


def inputs_of(page):
    return {name: values for name, values in page.items() if name not in ("clicked", "converted", "dwell")}


@pytest.fixture(scope="module")
def make(tiny, dataset, counts):
    def make_ranker(image_feature, config=CONFIG, seed=0, **options):
        images = {}
        if image_feature in ("vector", "simscore"):
            images = {"image_embeddings": load_embeddings(tiny.embeddings)[1]}
        if image_feature == "cluster_id":
            metadata, ids = load_cluster_ids(tiny.clusters)
            images = {"cluster_ids": ids, "num_clusters": metadata.num_clusters}
        tables = make_feature_tables(config, dataset.items(), dataset.users(), counts, **images)
        ranker = Ranker(config, tables.sizes, image_feature, **options)
        # Larger weights than the initial ones, so that every input moves the scores visibly.
        rng = np.random.default_rng(seed)
        for variable in ranker.trainable_variables:
            variable.assign(rng.normal(0, 0.25, variable.shape))
        tables.fill(ranker)
        return ranker

    return make_ranker


@pytest.fixture(scope="module", params=IMAGE_FEATURES)
def ranker(make, request):
    return make(request.param)


def ctr(ranker, page):
    return ranker(inputs_of(page))["ctr"].numpy()


def test_scores_are_probabilities_and_padding_is_exactly_zero(ranker, page):
    scores, present = ctr(ranker, page), page["item"].numpy() != -1
    assert scores.shape == present.shape
    assert scores.dtype == np.float32
    assert not present.all()
    assert (scores[~present] == 0).all()
    assert ((scores[present] > 0) & (scores[present] < 1)).all()
    assert np.unique(scores[present]).size > present.sum() * 0.9


def test_score_is_the_compiled_call(ranker, page):
    np.testing.assert_allclose(ranker.score(inputs_of(page))["ctr"], ctr(ranker, page), rtol=1e-4)


def test_a_candidate_is_scored_without_regard_to_the_others(ranker, page):
    scores = ctr(ranker, page)
    candidates = {name: values for name, values in page.items() if name in ("item", "position")}
    for order in ([1, 0, 2, 3, 4, 5], [2], [4, 4, 0]):
        other = page | {name: tf.gather(values, order, axis=1) for name, values in candidates.items()}
        np.testing.assert_allclose(ctr(ranker, other), scores[:, order], rtol=1e-4, atol=1e-6)


def test_a_page_is_scored_without_regard_to_the_batch(ranker, page):
    alone = {name: values[3:4] for name, values in page.items()}
    np.testing.assert_allclose(ctr(ranker, alone), ctr(ranker, page)[3:4], rtol=1e-4, atol=1e-6)


def test_more_padding_changes_nothing(ranker, page):
    def pad(values):
        return tf.pad(values, ((0, 0), (0, 3)), constant_values=-1)

    padded = page | {name: pad(page[name]) for name in page if name.endswith(("item", "_time", "position"))}
    np.testing.assert_allclose(ctr(ranker, padded)[:, :6], ctr(ranker, page), rtol=1e-4, atol=1e-6)


def test_any_length_may_be_zero(ranker, page):
    no_history = page | {
        name: values[:, :0] for name, values in page.items() if name.startswith(("click_", "pay_", "cart_"))
    }
    empty_history = page | {
        name: tf.fill(page[name].shape, tf.constant(-1, tf.int64))
        for name in no_history
        if name.startswith(("click_", "pay_", "cart_"))
    }
    np.testing.assert_allclose(ctr(ranker, no_history), ctr(ranker, empty_history), rtol=1e-5)
    assert ctr(ranker, page | {name: page[name][:, :0] for name in ("item", "position")}).shape == (24, 0)
    assert ctr(ranker, {name: values[:0] for name, values in page.items()}).shape == (0, 6)


def test_unknown_items_and_users_are_scored(ranker, page):
    items, users = ranker.sizes.items, ranker.sizes.users
    unknown = {name: tf.fill(page[name].shape, tf.constant(items, tf.int64)) for name in ("item", "click_item")}
    scores = ctr(ranker, page | unknown | {"user": tf.fill(page["user"].shape, tf.constant(-1, tf.int64))})
    assert np.isfinite(scores).all()
    same_user = ctr(ranker, page | unknown | {"user": tf.fill(page["user"].shape, tf.constant(users, tf.int64))})
    np.testing.assert_array_equal(scores, same_user)


def test_unknown_steps_match_no_unknown_candidate(make):
    ranker = make("none")
    items = tf.constant([[ranker.sizes.items, 3]], tf.int64)
    pairs, pooled = ranker._match(items, items, tf.constant([[True, True]]))
    np.testing.assert_array_equal(pairs[0, :, :, 0], [[0, 0], [0, 1]])
    np.testing.assert_array_equal(pooled[0, :, 0], [0, 0.5])


def test_labels_and_positions_are_no_inputs(ranker, page):
    scores = ctr(ranker, page)
    other = page | {
        "clicked": 1 - page["clicked"],
        "position": page["position"] * 0 + 9,
        "page_id": page["page_id"] + "x",
    }
    np.testing.assert_array_equal(ranker(other)["ctr"], scores)


def test_label_columns_never_reach_a_table(dataset, counts):
    items = dataset.items()
    shuffled = items.set_column(
        items.column_names.index("label_style"), "label_style", pa.array(items["label_style"].to_pylist()[::-1])
    )
    tables = [make_feature_tables(CONFIG, table, dataset.users(), counts) for table in (items, shuffled)]
    assert tables[0].sizes == tables[1].sizes
    for name, rows in tables[0].items.items():
        np.testing.assert_array_equal(rows, tables[1].items[name])


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_half_precision_vectors_fill_the_same_table_whatever_their_scale(tiny, dataset, counts, scale):
    _, vectors, _ = load_embeddings(tiny.embeddings)
    tables = [
        make_feature_tables(CONFIG, dataset.items(), dataset.users(), counts, image_embeddings=images).items["image"]
        for images in (vectors, (vectors * scale).astype(np.float16))
    ]
    assert tables[1].dtype == np.float32
    np.testing.assert_allclose(tables[1], tables[0], atol=2e-3)


def test_histories_and_images_move_the_scores(make, page):
    for image_feature, table in (("vector", "image"), ("simscore", "image"), ("cluster_id", "cluster")):
        ranker = make(image_feature)
        before = ctr(ranker, page)
        variable = getattr(ranker.items, table)
        variable.assign(np.roll(variable.numpy(), 1, axis=0))
        assert np.abs(ctr(ranker, page) - before).max() > 1e-3
    for history in ("click", "pay"):
        blank = page | {f"{history}_item": tf.fill(page[f"{history}_item"].shape, tf.constant(-1, tf.int64))}
        assert np.abs(ctr(ranker, blank) - ctr(ranker, page)).max() > 1e-3


def test_loss_is_the_mean_log_loss_of_present_candidates(ranker, page):
    scores, present = np.float64(ctr(ranker, page)), page["item"].numpy() != -1
    clicked = page["clicked"].numpy()
    losses = -np.where(clicked == 1, np.log(np.maximum(scores, 1e-12)), np.log1p(-scores))
    np.testing.assert_allclose(ranker.compute_loss(page), losses[present].mean(), rtol=1e-4)
    assert ranker.compute_loss({name: values[:0] for name, values in page.items()}) == 0


@pytest.mark.parametrize("rate", [0.25, 0.003])
def test_predictions_are_those_for_pages_with_all_negatives(make, page, rate):
    whole, sampled = make("none"), make("none", negative_rate=rate)
    p, corrected, present = np.float64(ctr(whole, page)), ctr(sampled, page), page["item"].numpy() != -1
    # Of 1 clicked and n unclicked candidates, sampling leaves 1 and n * rate.
    np.testing.assert_allclose(corrected, rate * p / (rate * p + 1 - p), rtol=1e-4)
    np.testing.assert_array_equal(corrected[~present], 0)
    np.testing.assert_allclose(sampled.score(inputs_of(page))["ctr"], corrected, rtol=1e-4)
    for before, after, kept in zip(p, corrected, present, strict=True):
        np.testing.assert_array_equal(np.argsort(before[kept]), np.argsort(after[kept]))
    np.testing.assert_array_equal(sampled.compute_loss(page), whole.compute_loss(page))
    for ours, theirs in zip(gradients_of(sampled, page)[1], gradients_of(whole, page)[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_rate_must_leave_something(make):
    for rate in (0.0, 1.5):
        with pytest.raises(ValueError, match="`negative_rate` must be above 0"):
            make("none", negative_rate=rate)


def two_replicas():
    """Without collective operations, whose keys clash when one process makes several strategies."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


def gradients_of(ranker, page):
    with tf.GradientTape() as tape:
        loss = ranker.compute_loss(page, training=True)
    gradients = tape.gradient(loss, [v.value for v in ranker.trainable_variables])
    return loss, [tf.convert_to_tensor(g) for g in gradients]


@pytest.mark.parametrize("image_feature", IMAGE_FEATURES)
def test_every_weight_learns_and_no_table_does(make, page, image_feature):
    ranker = make(image_feature)
    carts = page | {"cart_item": page["pay_item"][:, :3], "cart_time": page["pay_time"][:, :3]}  # these logs have none
    _, gradients = gradients_of(ranker, carts)
    still = [v.path for v, gradient in zip(ranker.trainable_variables, gradients, strict=True) if not np.any(gradient)]
    assert still == []
    tables = {id(getattr(ranker.items, name)) for name in ("item_id", "category", "title", "stats")}
    assert tables <= {id(variable) for variable in ranker.non_trainable_variables}


@pytest.mark.parametrize("image_feature", ["simscore", "cluster_id"])
@pytest.mark.parametrize("sizes", [(4, 4), (7, 1), (5, 0)])
def test_two_replicas_equal_one(make, page, image_feature, sizes):
    page = last(page, sum(sizes))
    expected_loss, expected = gradients_of(make(image_feature), page)
    strategy = two_replicas()
    with strategy.scope():
        ranker = make(image_feature)
    shards = [{name: values[: sizes[0]] for name, values in page.items()}]
    shards.append({name: values[sizes[0] :] for name, values in page.items()})
    distributed = {
        name: strategy.experimental_distribute_values_from_function(
            lambda context, name=name: shards[context.replica_id_in_sync_group][name]
        )
        for name in page
    }

    @tf.function
    def step(page):
        loss, gradients = strategy.run(lambda page: gradients_of(ranker, page), args=(page,))
        return [strategy.reduce("SUM", value, axis=None) for value in (loss, *gradients)]

    loss, *gradients = step(distributed)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_fit_learns_the_same_on_two_replicas_with_an_uneven_last_batch(make, dataset):
    def fit(ranker):
        with ranker.distribute_strategy.scope():
            ranker.compile(optimizer=keras.optimizers.SGD(0.2, momentum=0.9))
            ranker.optimizer.build(ranker.trainable_variables)
        pages = page_batches(dataset, "train", CONFIG.lengths, batch_size=8).take(2).unbatch().take(9).batch(8)
        loss = ranker.fit(pages, verbose=0, shuffle=False).history["loss"][0]  # the last batch is one page
        return loss, ranker.get_weights()

    loss, weights = fit(make("cluster_id"))
    with two_replicas().scope():
        ranker = make("cluster_id")
    sharded_loss, sharded_weights = fit(ranker)
    assert sharded_loss == pytest.approx(loss, rel=1e-4)
    assert sum(np.abs(a - b).sum() for a, b in zip(weights, make("cluster_id").get_weights(), strict=True)) > 0.1
    for a, b in zip(weights, sharded_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_matches_equal_their_definition():
    rng = np.random.default_rng(0)
    candidates, steps = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 7, 5))
    candidates[0, 1], steps[:, 2] = 0, 0
    unit = [v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9) for v in (candidates, steps)]
    similarity = matches.cosine(*unit).numpy()
    mask = rng.random((3, 1, 7)) < 0.5
    mask[1] = False
    for b, c in np.ndindex(3, 4):
        for t in range(7):
            norm = np.linalg.norm(candidates[b, c]) * np.linalg.norm(steps[b, t])
            assert similarity[b, c, t] == pytest.approx(candidates[b, c] @ steps[b, t] / norm if norm else 0, abs=1e-9)
        valid = np.sort(similarity[b, c][mask[b, 0]])[::-1]
        for count in (1, 3, 10):
            ours = float(matches.mean_of_largest(similarity, mask, count)[b, c])
            assert ours == pytest.approx(valid[:count].mean() if len(valid) else 0, abs=1e-9)
        mean = float(matches.mean_match(similarity, mask)[b, c])
        assert mean == pytest.approx(valid.mean() if len(valid) else 0, abs=1e-9)
    ids = np.array([[1, 2, 0]]), np.array([[2, 2, 0, 1]])
    same = matches.same_id(*ids, np.array([[True, False, False, True]]))
    np.testing.assert_array_equal(same, [[[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]])
    assert matches.mean_of_largest(similarity[:, :, :0], mask[:, :, :0], 2).shape == (3, 4)


def test_simscore_leaves_out_missing_pictures(make):
    ranker = make("simscore")
    images = ranker.items.image.numpy()
    assert not images[0].any()  # item 0 has no picture
    items = tf.constant([[0, 1, 2]], tf.int64)
    pairs, pooled = ranker._match(items, items, tf.constant([[True, True, True]]))
    cosine = images[1] @ images[2]
    np.testing.assert_allclose(pairs[0, :, :, 2], [[0, 0, 0], [0, 1, cosine], [0, cosine, 1]], atol=1e-6)
    expected = [[0, 0, 0], [1, (1 + cosine) / 2, (1 + cosine) / 2], [1, (1 + cosine) / 2, (1 + cosine) / 2]]
    np.testing.assert_allclose(pooled[0, :, -3:], expected, atol=1e-6)


def test_rare_ids_share_the_unknown_one():
    items = pa.table({"item_id": ["a", "b", "c"], "category": ["x", "y", None], "title": ["t", "", "u"]})
    users = pa.table({"user_id": ["u", "v"], "cat_city": ["p", "q"]})
    counts = Counts(np.array([5, 4, 9]), np.array([1, 7]))
    tables = make_feature_tables(RankerConfig(min_count=5), items, users, counts)
    np.testing.assert_array_equal(tables.items["item_id"], [1, 0, 2, 0])
    np.testing.assert_array_equal(tables.users["user_id"], [0, 1, 0])
    assert (tables.sizes.item_ids, tables.sizes.user_ids, tables.sizes.categories) == (2, 1, 2)


def test_what_training_never_saw_is_unknown_and_shapes_no_statistic():
    items = pa.table(
        {
            "item_id": ["a", "b", "c", "d"],
            "category": ["x", "y", "new", ""],
            "title": [""] * 4,
            "stat_price": [1.0, 3.0, 1e6, None],
            "stat_empty": [None, None, 5.0, 6.0],
        }
    )
    users = pa.table({"user_id": ["u"]})
    tables = make_feature_tables(RankerConfig(), items, users, Counts(np.array([1, 1, 0, 1]), np.array([1])))
    np.testing.assert_array_equal(tables.items["category"], [1, 2, 0, 0, 0])
    np.testing.assert_allclose(tables.items["stats"][:, 0], [-1, 1, 1e6 - 2, 0, 0])
    assert np.isfinite(tables.items["stats"]).all()
    assert tables.users["stats"].shape == (2, 0)


def test_occurrences_are_candidates_and_steps(dataset, counts):
    expected = np.zeros(len(counts.items), int)
    users = np.zeros(len(counts.users), int)
    for page in page_batches(dataset, "train", CONFIG.lengths, batch_size=1).as_numpy_iterator():
        users[page["user"]] += 1
        for name in ("item", "click_item", "pay_item", "cart_item"):
            for row in page[name][0]:
                expected[row] += row != -1
    np.testing.assert_array_equal(counts.items, expected)
    np.testing.assert_array_equal(counts.users, users)


def test_tokens_are_words_in_any_script():
    texts = tf.constant(["Red DRESS, red!", "red dress red", "", "  ...", "连衣裙 XL", "ÉTÉ", "été", "a b c d e f"])
    tokens = hash_tokens(texts, 1000, 4).numpy()
    assert tokens.shape == (8, 4)
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert tokens[0][0] == tokens[0][2] != tokens[0][1]
    assert (tokens[2:4] == -1).all()
    assert (tokens[4] != -1).all()  # three characters and a word
    assert tokens[5][0] == tokens[6][0]
    assert (tokens[7] != -1).all()
    assert hash_tokens(texts[:0], 1000, 4).shape == (0, 4)


def test_text_embedding_is_the_mean_over_tokens():
    layer = TextEmbedding(7, 3)
    tokens = tf.constant([[2, 5, -1], [-1, -1, -1], [4, 4, 4]])
    embedded, table = layer(tokens).numpy(), layer.get_weights()[0]
    np.testing.assert_allclose(embedded, [(table[2] + table[5]) / 2, np.zeros(3), table[4]], rtol=1e-6)
