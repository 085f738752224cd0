import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from models.ctr import matches
from models.ctr.calibrator import Calibrator
from models.ctr.config import IMAGE_FEATURES, AttentionConfig, RankerConfig, RankerLengths
from models.ctr.feature_config import STATISTICS, FeaturesConfig, IdFeature, resolve_features
from models.ctr.features import make_feature_tables, similarity_scale
from models.ctr.ranker import LOSS_WEIGHT, Ranker, _and_logit
from models.ctr.scoring import calibrated, score_pages
from models.ctr.text_embedding import TextEmbedding, hash_tokens
from models.ctr.training_counts import count_training
from models.data.dataset import Dataset
from models.data.pages import page_batches
from models.embeddings.store import l2_normalize, load_centers, load_cluster_ids, load_embeddings
from tests.models.tiny_dataset import write_tiny_dataset

CONFIG = RankerConfig(
    lengths=RankerLengths(candidates=6, click=7, pay=4, cart=3),
    embedding_dim=4,
    item_dim=6,
    attention=AttentionConfig(recent_steps=4, units=5, heads=2, head_dim=3),
    mlp_units=(32, 24, 16, 12),
    token_buckets=50,
    query_tokens=5,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def dataset(tiny):
    return Dataset(tiny.data)


@pytest.fixture(scope="module")
def counts(dataset):
    return count_training(dataset, dataset.split("train").window.last)[0]


@pytest.fixture(scope="module")
def resolve(dataset):
    """The features of the dataset, without the IDs' dropout."""

    def resolve_config(config, dropout=0.0):
        features = resolve_features(config.features, dataset.items().schema, dataset.users().schema)
        sections = {}
        for section in ("item", "user"):
            declared = getattr(features, section)
            dropped = {
                name: f.model_copy(update={"dropout": dropout}) for name, f in declared.items() if f.type == "id"
            }
            sections[section] = {**declared, **dropped}
        return config.model_copy(update={"features": features.model_copy(update=sections)})

    return resolve_config


@pytest.fixture(scope="module")
def page(dataset):
    """The last pages of training: most have histories, some have fewer candidates than others."""
    return next(iter(page_batches(dataset, "train", CONFIG.lengths, batch_size=240).map(lambda p: last(p, 24))))


def last(page, count):
    return {name: values[-count:] for name, values in page.items()}


def inputs_of(page):
    return {name: values for name, values in page.items() if name not in ("clicked", "converted", "dwell")}


@pytest.fixture(scope="module")
def make(tiny, dataset, counts, resolve):
    def make_ranker(image_feature, config=CONFIG, seed=0, dropout=0.0, **options):
        config = resolve(config, dropout)
        images = {}
        if image_feature in ("vector", "simscore"):
            images = {"image_embeddings": load_embeddings(tiny.embeddings)[1]}
        if image_feature == "cluster_id":
            images = {"cluster_ids": load_cluster_ids(tiny.clusters)[1], "centers": load_centers(tiny.clusters)[1]}
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
    candidates = {name: page[name] for name in ("item", "position", *STATISTICS)}
    for order in ([1, 0, 2, 3, 4, 5], [2], [4, 4, 0]):
        other = page | {name: tf.gather(values, order, axis=1) for name, values in candidates.items()}
        np.testing.assert_allclose(ctr(ranker, other), scores[:, order], rtol=1e-4, atol=1e-6)


def test_a_page_is_scored_without_regard_to_the_batch(ranker, page):
    alone = {name: values[3:4] for name, values in page.items()}
    np.testing.assert_allclose(ctr(ranker, alone), ctr(ranker, page)[3:4], rtol=1e-4, atol=1e-6)


def test_more_padding_changes_nothing(ranker, page):
    def pad(values):
        return tf.pad(values, ((0, 0), (0, 3)), constant_values=-1)

    padded = page | {name: pad(page[name]) for name in (*STATISTICS, "item", "position")}
    padded |= {name: pad(page[name]) for name in page if name.endswith(("_item", "_time"))}
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
    assert ctr(ranker, page | {name: page[name][:, :0] for name in ("item", *STATISTICS)}).shape == (24, 0)
    assert ctr(ranker, {name: values[:0] for name, values in page.items()}).shape == (0, 6)


def test_unknown_items_and_users_are_scored(ranker, page):
    items, users = ranker.sizes.items, ranker.sizes.users
    unknown = {name: tf.fill(page[name].shape, tf.constant(items, tf.int64)) for name in ("item", "click_item")}
    scores = ctr(ranker, page | unknown | {"user": tf.fill(page["user"].shape, tf.constant(-1, tf.int64))})
    assert np.isfinite(scores).all()
    same_user = ctr(ranker, page | unknown | {"user": tf.fill(page["user"].shape, tf.constant(users, tf.int64))})
    np.testing.assert_array_equal(scores, same_user)


def compared_by(ranker, page_of_items):
    (rows,) = page_of_items
    return ranker._compared_by(rows, ranker.items(rows)).at(tf.range(len(rows))[None])


def test_clusters_may_be_compared_without_an_embedding(make, page):
    ranker = make("cluster_id", CONFIG.model_copy(update={"embed_clusters": False}))
    assert ranker.members[0].items.cluster_embedding is None
    before, cluster = ctr(ranker, page), ranker.items.cluster
    history = page | {"click_item": page["click_item"][:, :0], "click_time": page["click_time"][:, :0]}
    history |= {name: page[name][:, :0] for name in ("pay_item", "pay_time")}
    alone = ctr(ranker, history)
    cluster.assign(np.roll(cluster.numpy(), 1))
    assert np.abs(ctr(ranker, page) - before).max() > 1e-3
    np.testing.assert_array_equal(ctr(ranker, history), alone)  # a cluster by itself says nothing


def test_unknown_steps_match_no_unknown_candidate(make):
    ranker = make("none")
    items = tf.constant([[ranker.sizes.items, 3]], tf.int64)
    compared = compared_by(ranker, items)
    pairs, pooled = ranker._match(compared, compared, tf.constant([[True, True]]))
    np.testing.assert_array_equal(pairs[0][0], [[0, 0], [0, 1]])
    share, number = pooled[0], pooled[len(pairs)]
    np.testing.assert_array_equal(share[0, :, 0], [0, 0.5])
    np.testing.assert_allclose(number[0, :, 0], np.log1p([0, 1]), rtol=1e-6)


def test_labels_and_positions_are_no_inputs(ranker, page):
    scores = ctr(ranker, page)
    other = page | {
        "clicked": 1 - page["clicked"],
        "position": page["position"] * 0 + 9,
        "page_id": page["page_id"] + "x",
    }
    np.testing.assert_array_equal(ranker(other)["ctr"], scores)


def test_label_columns_never_reach_a_table(dataset, counts, resolve):
    items = dataset.items()
    shuffled = items.set_column(
        items.column_names.index("label_style"), "label_style", pa.array(items["label_style"].to_pylist()[::-1])
    )
    tables = [make_feature_tables(resolve(CONFIG), table, dataset.users(), counts) for table in (items, shuffled)]
    assert tables[0].sizes == tables[1].sizes
    for name, rows in tables[0].items.items():
        np.testing.assert_array_equal(rows, tables[1].items[name])


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_half_precision_vectors_fill_the_same_table_whatever_their_scale(tiny, dataset, counts, resolve, scale):
    _, vectors, _ = load_embeddings(tiny.embeddings)
    tables = [
        make_feature_tables(resolve(CONFIG), dataset.items(), dataset.users(), counts, image_embeddings=images).images[
            "image"
        ]
        for images in (vectors, (vectors * scale).astype(np.float16))
    ]
    assert tables[1].dtype == np.float32
    np.testing.assert_allclose(tables[1], tables[0], atol=2e-3)


def test_histories_and_images_move_the_scores(make, page):
    tables = [("vector", "image"), ("simscore", "image"), ("cluster_id", "cluster"), ("cluster_id", "center")]
    for image_feature, table in tables:
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
    tables = {id(table) for table in ranker.items.features.tables.values()}
    assert len(tables) == 4
    assert tables <= {id(variable) for variable in ranker.non_trainable_variables}


@pytest.mark.parametrize(("image_feature", "sizes"), [("simscore", (7, 1)), ("cluster_id", (5, 0))])
@pytest.mark.parametrize("pairwise", [0.0, 2.0])
def test_two_replicas_equal_one(make, page, image_feature, sizes, pairwise):
    page = last(page, sum(sizes))
    config = with_tasks(pairwise=pairwise)
    expected_loss, expected = gradients_of(make(image_feature, config), page)
    strategy = two_replicas()
    with strategy.scope():
        ranker = make(image_feature, config)
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
    config = CONFIG.model_copy(update={"lengths": RankerLengths(candidates=6, click=7, pay=0, cart=0)})

    def fit(ranker):
        with ranker.distribute_strategy.scope():
            ranker.compile(optimizer=keras.optimizers.SGD(0.2, momentum=0.9))
            ranker.optimizer.build(ranker.trainable_variables)
        pages = page_batches(dataset, "train", CONFIG.lengths, batch_size=8).take(2).unbatch().take(9).batch(8)
        loss = ranker.fit(pages, verbose=0, shuffle=False).history["loss"][0]  # the last batch is one page
        return loss, ranker.get_weights()

    loss, weights = fit(make("cluster_id", config))
    with two_replicas().scope():
        ranker = make("cluster_id", config)
    sharded_loss, sharded_weights = fit(ranker)
    assert sharded_loss == pytest.approx(loss, rel=1e-4)
    begun = make("cluster_id", config).get_weights()
    assert sum(np.abs(a - b).sum() for a, b in zip(weights, begun, strict=True)) > 0.1
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
        mean = float(matches.mean_match(similarity, mask[:, 0])[b, c])
        assert mean == pytest.approx(valid.mean() if len(valid) else 0, abs=1e-9)
    ids = np.array([[1, 2, 0]]), np.array([[2, 2, 0, 1]])
    same = matches.same_id(*ids, np.array([[True, False, False, True]]))
    np.testing.assert_array_equal(same, [[[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]])
    assert matches.mean_of_largest(similarity[:, :, :0], mask[:, :, :0], 2).shape == (3, 4)


@pytest.mark.parametrize(("image_feature", "place"), [("simscore", 2), ("cluster_id", 3)])
def test_similarity_is_in_standard_deviations_and_leaves_out_missing_pictures(make, image_feature, place):
    """Of embeddings, and of the centers of clusters."""
    ranker = make(image_feature)
    rows = tf.constant([[0, 1, 2]], tf.int64)
    images = ranker.items(rows[0]).image.numpy()
    assert not images[0].any()  # item 0 has no picture
    compared = compared_by(ranker, rows)
    pairs, pooled = ranker._match(compared, compared, tf.constant([[True, True, True]]))
    mean, deviation = ranker.items.similarity.numpy()
    cosine, one = (images[1] @ images[2] - mean) / deviation, (1 - mean) / deviation

    np.testing.assert_allclose(pairs[place][0], [[0, 0, 0], [0, one, cosine], [0, cosine, one]], atol=1e-5)
    both = (one + cosine) / 2
    expected = [[0, 0, 0], [one, both, both], [one, both, both]]
    np.testing.assert_allclose(np.concatenate(pooled[-3:], axis=-1)[0], expected, atol=1e-5)
    _, of_nothing = ranker._match(compared, compared, tf.constant([[True, False, False]]))
    np.testing.assert_array_equal(np.concatenate(of_nothing[-3:], axis=-1), np.zeros((1, 3, 3)))


def test_the_scale_of_similarity_is_that_of_all_pairs_of_items():
    rng = np.random.default_rng(0)
    vectors = l2_normalize(rng.normal(0.5, 1, size=(7, 4)))
    vectors[[2, 5]] = 0
    counts = np.array([3, 1, 9, 0, 2, 1, 4])
    items = np.repeat(np.arange(7), np.where(vectors.any(axis=1), counts, 0))
    cosines = [vectors[a] @ vectors[b] for i, a in enumerate(items) for j, b in enumerate(items) if i != j]
    expected = [np.mean(cosines), np.std(cosines)]
    np.testing.assert_allclose(similarity_scale(vectors, counts), expected, rtol=1e-5)
    order = rng.permutation(7)
    np.testing.assert_allclose(similarity_scale(vectors[order], counts[order]), expected, rtol=1e-5)
    np.testing.assert_allclose(similarity_scale(vectors[items], np.ones(len(items))), expected, rtol=1e-5)
    np.testing.assert_array_equal(similarity_scale(vectors[:1], np.array([1])), [0, 1])
    np.testing.assert_array_equal(similarity_scale(vectors * 0, counts), [0, 1])
    same = similarity_scale(vectors[:1], np.array([5]))
    np.testing.assert_allclose(same, [1, 1], rtol=1e-6)


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


def with_labels(page, seed=0):
    """The page with conversions of some clicks and dwell times of all."""
    rng = np.random.default_rng(seed)
    clicked = page["clicked"].numpy() == 1
    converted = clicked & (rng.random(clicked.shape) < 0.5)
    dwell = np.where(clicked, rng.gamma(2, 20, clicked.shape), 0).astype(np.float32)
    return page | {"converted": tf.constant(converted.astype(np.int64)), "dwell": tf.constant(dwell)}


def three_tasks(**changes):
    return with_tasks(**{"ctcvr": 0.5, "dwell": 0.25} | changes)


def with_tasks(**weights):
    return CONFIG.model_copy(update={"tasks": CONFIG.tasks.model_copy(update=weights)})


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def test_tasks_share_a_page_and_obey_probability(make, page):
    ranker = make("none", three_tasks(), negative_rate=0.3)
    scores, logits = ranker(inputs_of(page)), ranker.logits(inputs_of(page))
    present = page["item"].numpy() != -1
    assert list(scores) == ["ctr", "ctcvr", "dwell"]
    cvr = sigmoid(logits["cvr"])
    expected = np.where(present, scores["ctr"].numpy() * cvr, 0)
    np.testing.assert_allclose(scores["ctcvr"], expected, rtol=1e-5)
    assert (scores["ctcvr"].numpy() <= scores["ctr"].numpy()).all()
    np.testing.assert_allclose(
        scores["dwell"], np.where(present, np.maximum(np.expm1(logits["dwell"]), 0), 0), rtol=1e-4
    )


def test_the_loss_is_the_weighted_sum_of_the_tasks_over_what_each_counts(make, page):
    page = with_labels(page)
    ranker = make("none", three_tasks())
    logits = {name: np.float64(values) for name, values in ranker.logits(inputs_of(page)).items()}
    present, clicked = page["item"].numpy() != -1, page["clicked"].numpy() == 1
    click, both = sigmoid(logits["ctr"]), sigmoid(logits["ctr"]) * sigmoid(logits["cvr"])
    log_loss = lambda p, y: -np.where(y, np.log(p), np.log1p(-p))[present].mean()  # noqa: E731
    off = np.abs(np.log1p(page["dwell"].numpy()) - logits["dwell"])[clicked]
    huber = np.where(off <= 1, off**2 / 2, off - 0.5).mean()
    expected = log_loss(click, clicked) + 0.5 * log_loss(both, page["converted"].numpy() == 1) + 0.25 * huber
    np.testing.assert_allclose(ranker.compute_loss(page), expected, rtol=1e-4)
    alone = make("none", three_tasks(ctcvr=0.0, dwell=0.0))
    np.testing.assert_allclose(alone.compute_loss(page), log_loss(click, clicked), rtol=1e-4)
    assert list(alone(inputs_of(page))) == ["ctr"]


def test_the_pairwise_loss_is_the_mean_over_pairs_of_a_page_and_then_over_pages(make, page):
    ranker, plain = make("none", with_tasks(pairwise=0.5)), make("none")
    logits = np.float64(ranker.logits(inputs_of(page))["ctr"])
    present, clicked = page["item"].numpy() != -1, page["clicked"].numpy() == 1
    of_pages = []
    for row in range(len(logits)):
        ups, downs = (logits[row][present[row] & chosen] for chosen in (clicked[row], ~clicked[row]))
        pairs = [np.log1p(np.exp(down - up)) for up in ups for down in downs]
        if pairs:
            of_pages.append(np.mean(pairs))
    assert 1 < len(of_pages) < len(logits)
    expected = plain.compute_loss(page) + 0.5 * np.mean(of_pages)
    np.testing.assert_allclose(ranker.compute_loss(page), expected, rtol=1e-5)
    assert float(ranker.get_metrics_result()["pairwise_loss"]) == pytest.approx(np.mean(of_pages), rel=1e-5)
    assert list(ranker(inputs_of(page))) == ranker.outputs == ["ctr"]
    for layer in ranker.members[0].heads.values():
        layer.kernel.assign(tf.zeros_like(layer.kernel))  # ties
    for metric in ranker.metrics:
        metric.reset_state()
    ranker.compute_loss(page)
    assert float(ranker.get_metrics_result()["pairwise_loss"]) == pytest.approx(np.log(2), rel=1e-6)


def test_members_are_averaged_and_learn_as_they_would_alone(make, page):
    config = three_tasks(pairwise=0.5)
    together = make("cluster_id", config.model_copy(update={"members": 2}), negative_rate=0.5)
    alone = [make("cluster_id", config, seed) for seed in (1, 2)]
    for member, ranker in zip(together.members, alone, strict=True):
        member.set_weights(ranker.members[0].get_weights())
    of_alone = [ranker.logits(inputs_of(page)) for ranker in alone]
    for name, logits in together.logits(inputs_of(page)).items():
        first, second = (np.float64(each[name]) for each in of_alone)
        assert np.abs(first - second).mean() > 0.1
        np.testing.assert_allclose(logits, (first + second) / 2, rtol=1e-4, atol=1e-5)
    clicks, conversions = (sigmoid(together.logits(inputs_of(page))[name]) for name in ("ctr", "cvr"))
    ctr_of_all = 0.5 * clicks / (0.5 * clicks + 1 - clicks)
    present = page["item"].numpy() != -1
    np.testing.assert_allclose(ctr(together, page)[present], ctr_of_all[present], rtol=1e-4)
    scores = together(inputs_of(page))["ctcvr"].numpy()
    np.testing.assert_allclose(scores[present], (ctr_of_all * conversions)[present], rtol=1e-4)

    page = with_labels(page)
    loss, gradients = gradients_of(together, page)
    expected = [gradients_of(ranker, page) for ranker in alone]
    assert float(loss) == pytest.approx(sum(float(each) for each, _ in expected), rel=1e-5)
    for ours, theirs in zip(gradients, [g for _, each in expected for g in each], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    shown = [float(ranker.get_metrics_result()["loss"]) for ranker in (together, *alone)]
    assert shown[0] == pytest.approx(np.mean(shown[1:]), rel=1e-5)


def test_members_begin_otherwise_and_share_the_tables(make):
    ranker = make("simscore", CONFIG.model_copy(update={"members": 2}))
    tables = [v.path for v in ranker.non_trainable_variables if v.path.endswith(("/image", "/category"))]
    assert len(tables) == 2
    fresh = Ranker(ranker.config, ranker.sizes, "simscore")
    for first, second in zip(*(member.trainable_variables for member in fresh.members), strict=True):
        assert np.array_equal(first, second) == (not np.any(first)), first.path  # biases begin at zero


def test_pages_without_pairs_and_what_a_page_shares_teach_nothing_pairwise(make, page):
    ranker, plain = make("none", with_tasks(pairwise=3.0)), make("none")
    for same in (tf.zeros_like(page["clicked"]), tf.ones_like(page["clicked"])):
        for ours, theirs in zip(*(gradients_of(r, page | {"clicked": same})[1] for r in (ranker, plain)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    candidates = ("item", "position", "clicked", "converted", "dwell", *STATISTICS)
    empty = page | {name: page[name][:, :0] for name in candidates}
    assert float(ranker.compute_loss(empty)) == 0
    bias = [v.path for v in ranker.trainable_variables].index(ranker.members[0].heads["ctr"].bias.path)
    ours, theirs = (gradients_of(r, page)[1] for r in (ranker, plain))
    np.testing.assert_allclose(ours[bias], theirs[bias], atol=1e-6)
    assert np.abs(ours[bias - 1] - theirs[bias - 1]).max() > 1e-3


def test_extreme_log_odds_of_two_events_keep_their_gradients(make):
    for a, b in ((0.3, -0.7), (50.0, -3.0), (-60.0, 60.0), (90.0, 90.0)):
        x, y = tf.Variable(a), tf.Variable(b)
        with tf.GradientTape() as tape:
            both = _and_logit(x, y)
        gradients = tape.gradient(both, [x, y])
        assert np.isfinite([both, *gradients]).all()
        if abs(a) + abs(b) < 2:
            p = sigmoid(a) * sigmoid(b)
            assert float(both) == pytest.approx(np.log(p / (1 - p)), rel=1e-5)


def test_dwell_and_conversion_of_what_was_not_clicked_teach_nothing(make, page):
    ranker, page = make("none", three_tasks()), with_labels(page)
    unclicked = tf.cast(page["clicked"] != 1, tf.int64)
    other = page | {"dwell": page["dwell"] + 99.0 * tf.cast(unclicked, tf.float32)}
    other |= {"converted": page["converted"] + unclicked}  # a purchase elsewhere
    for ours, theirs in zip(gradients_of(ranker, page)[1], gradients_of(ranker, other)[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_loss_weights_move_the_loss_and_not_the_metric(make, page):
    """A weight of 2 is the same as a page that is there twice; what `fit` shows counts pages once."""
    ranker = make("none")
    plain = float(ranker.compute_loss(page))
    shown = float(ranker.get_metrics_result()["loss"])
    for metric in ranker.metrics:
        metric.reset_state()
    weights = tf.constant([2.0] * 3 + [1.0] * 20 + [0.0])
    weighted = float(ranker.compute_loss(page | {LOSS_WEIGHT: weights}))
    assert float(ranker.get_metrics_result()["loss"]) == pytest.approx(shown, rel=1e-6)
    order = [0, 0, 1, 1, 2, 2, *range(3, 23)]
    repeated = {name: tf.gather(values, order) for name, values in page.items()}
    assert weighted == pytest.approx(float(ranker.compute_loss(repeated)), rel=1e-5)
    assert abs(weighted - plain) > 1e-4


OPTIONS = {
    "dice": {"attention": CONFIG.attention.model_copy(update={"activation": "dice"})},
    "self-attention": {"attention": CONFIG.attention.model_copy(update={"histories": "self_attention"})},
    "recent steps alone": {"attention": CONFIG.attention.model_copy(update={"histories": "none"})},
    "no recent steps": {"attention": CONFIG.attention.model_copy(update={"recent_steps": 0})},
    "no histories": {"lengths": RankerLengths(candidates=6, click=0, pay=0, cart=0)},
    "cross": {"cross_layers": 2},
    "members": {"members": 3},
    "no query": {"features": CONFIG.features.model_copy(update={"query": False})},
    "bare": {"features": FeaturesConfig(item={"item_id": IdFeature(match=False)}, user={}, candidate={}, query=False)},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_scores_pages_without_regard_to_padding_or_others(make, page, option):
    ranker = make("none", CONFIG.model_copy(update=OPTIONS[option]))
    present = page["item"].numpy() != -1
    scores = ctr(ranker, page)
    assert np.isfinite(scores).all()
    assert np.std(scores[present]) > 1e-3
    histories = [name for name in page if name.startswith(("click_", "pay_", "cart_"))]
    padded = page | {name: tf.pad(page[name], ((0, 0), (0, 3)), constant_values=-1) for name in histories}
    np.testing.assert_allclose(ctr(ranker, padded), scores, rtol=1e-4, atol=1e-6)
    alone = {name: values[3:4] for name, values in page.items()}
    np.testing.assert_allclose(ctr(ranker, alone), scores[3:4], rtol=1e-4, atol=1e-6)
    empty = {name: tf.fill(page[name].shape, tf.constant(-1, tf.int64)) for name in histories}
    loss, gradients = gradients_of(ranker, page | empty)
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("image_feature", ["simscore", "cluster_id"])
def test_pages_of_one_candidate_are_scored_the_same(make, page, image_feature):
    """Page-wise and row-wise, as others do it, are the same function."""
    ranker = make(image_feature)
    per_candidate = ("item", "position", "clicked", "converted", "dwell", *STATISTICS)
    rows = {
        name: tf.reshape(values, (-1, 1)) if name in per_candidate else tf.repeat(values, 6, axis=0)
        for name, values in page.items()
    }
    scores = ctr(ranker, page)
    np.testing.assert_allclose(ctr(ranker, rows).reshape(scores.shape), scores, rtol=1e-4, atol=1e-6)
    assert float(ranker.compute_loss(rows)) == pytest.approx(float(ranker.compute_loss(page)), rel=1e-5)


def test_dropout_is_of_training_alone(make, page):
    ranker = make("none", CONFIG.model_copy(update={"mlp_dropout": 0.5}))
    first, again = (ranker.logits(inputs_of(page), training=True)["ctr"].numpy() for _ in range(2))
    present = page["item"].numpy() != -1
    assert np.abs(first - again)[present].mean() > 0.01
    np.testing.assert_array_equal(ctr(ranker, page), ctr(make("none"), page))


def test_padding_moves_no_statistics_of_dice(make, page):
    """Trap: Dice's moments over padded steps depend on how long the longest history of a batch is."""
    moments = []
    for more in (0, 5):
        ranker = make("none", CONFIG.model_copy(update=OPTIONS["dice"]))
        padded = {
            name: tf.pad(values, ((0, 0), (0, more)), constant_values=-1)
            if name.startswith(("click_", "pay_", "cart_"))
            else values
            for name, values in page.items()
        }
        ranker.logits(padded, training=True)
        moving = [v for v in ranker.non_trainable_variables if "moving" in v.path]
        assert len(moving) == 2 * len(ranker.histories)
        moments.append([v.numpy() for v in moving])
    for a, b in zip(*moments, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_calibration_changes_probabilities_and_no_order(make, page):
    ranker, present = make("none", negative_rate=0.5), page["item"].numpy() != -1
    before = ranker.score(inputs_of(page))["ctr"].numpy()
    ranker.calibrator = Calibrator(kind="platt", x=(0.0,), y=(-1.0,), slope=2.0)
    after = ranker.score(inputs_of(page))["ctr"].numpy()
    logit = np.log(before[present]) - np.log1p(-before[present])
    np.testing.assert_allclose(after[present], sigmoid(2 * logit - 1), rtol=1e-3)
    assert (after[~present] == 0).all()


def test_calibrated_scores_are_those_of_a_calibrated_ranker(make, page):
    ranker = make("none", three_tasks(), negative_rate=0.5)
    before = score_pages(ranker, [page])
    ranker.calibrator = Calibrator(kind="isotonic", x=(-2.0, 0.0, 1.5), y=(-2.5, -1.0, 2.0), slope=0.7)
    expected, ours = score_pages(ranker, [page]), calibrated(before, ranker.calibrator)
    np.testing.assert_allclose(ours.ctr, expected.ctr, rtol=1e-4)
    np.testing.assert_allclose(ours.ctcvr, expected.ctcvr, rtol=1e-4)
    np.testing.assert_array_equal(ours.dwell, before.dwell)
    assert np.abs(ours.ctr - before.ctr).max() > 0.01
