import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from beam_pipelines.format.records import FEATURES, HISTORIES, encode_page
from export.server.servable import Servable, type_name
from export.server.serving_error import ServingError
from export.version.graph import RankerModule
from export.version.reference_pages import scores_in_process
from export.version.request_rows import pad_rows, request_row
from models.data.pages import LABELS, parse_pages
from models.features.spec import STATISTICS
from models.ranker.config import AttentionConfig, TasksConfig
from tests.export.toy_ranker import ITEM_IDS, LENGTHS, PAGES, USER_IDS, make_toy_ranker, toy_pages, with_defaults

CLOSE = {"rtol": 0, "atol": 1e-6}


def with_items(row, *item_ids):
    """The request with other candidates; the numbers of the first one stand for all."""
    return {**row, "item_id": list(item_ids), **{name: row[name][:1] * len(item_ids) for name in STATISTICS}}


def ask(servable, *rows):
    return servable.predict("", with_defaults(servable, "", pad_rows(rows)))["ctr"]


def ask_in_process(ranker, row, **changes):
    """Scores one request by calling the ranker, with IDs looked up in Python."""
    page = {
        "user": USER_IDS.index(row["user_id"]) if row["user_id"] in USER_IDS else -1,
        "query": row["query"],
        "timestamp": row["timestamp"],
        "item": row_numbers(row["item_id"]),
        **{name: np.array(row[name], np.float32) for name in STATISTICS},
    }
    for name in HISTORIES:
        length = getattr(LENGTHS, name)
        page[f"{name}_item"] = row_numbers(row[f"{name}_item_id"][:length])
        page[f"{name}_time"] = np.array(row[f"{name}_time"][:length], np.int64)
    return ranker({name: tf.constant(np.array([value])) for name, value in page.items()})["ctr"].numpy()[0]


def row_numbers(ids):
    return np.array([ITEM_IDS.index(i) if i in ITEM_IDS else len(ITEM_IDS) for i in ids], np.int64)


def test_the_signatures_are_the_contract(servable):
    def described(specs):
        return {name: (type_name(spec.dtype), spec.shape.as_list()) for name, spec in specs.items()}

    per_page = {"user_id": "string", "query": "string", "timestamp": "int64"}
    expected = {name: (dtype, [None]) for name, dtype in per_page.items()}
    expected["item_id"] = ("string", [None, None])
    expected |= {name: ("float" if name.startswith("ctr_") else "int64", [None, None]) for name in STATISTICS}
    for name in ("click", "pay", "cart"):
        expected[f"{name}_item_id"] = ("string", [None, None])
        expected[f"{name}_time"] = ("int64", [None, None])
    expected |= {name: ("string", [None, None]) for name in ("category", "title")}
    expected |= {"stat_price": ("float", [None, None]), "cluster_id": ("int64", [None, None])}
    assert servable.signature_names == {"serving_default", "tf_example"}
    assert described(servable.signature("serving_default").inputs) == expected
    assert described(servable.signature("tf_example").inputs) == {"examples": ("string", [None])}
    assert described(servable.signature("serving_default").outputs) == {"ctr": ("float", [None, None])}
    assert described(servable.signature("tf_example").outputs) == {"ctr": ("float", [None, LENGTHS.candidates])}
    defaults = servable.signature_defs["serving_default"].defaults
    assert expected.keys() - defaults.keys() == {"user_id", "timestamp", "item_id"}
    for name, value in defaults.items():
        dtype, shape = expected[name]
        assert (type_name(tf.as_dtype(value.dtype)), tf.make_ndarray(value).ndim) == (dtype, len(shape))


SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 3.4028234663852886e38, -3.4e38, 1e36, 9e35, 1e30, -1e30, 1e-45, 0], np.float32
)
BIT_PATTERNS = arrays(np.uint32, 48, elements=st.integers(0, 2**32 - 1)).map(lambda bits: bits.view(np.float32))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=BIT_PATTERNS)
def test_a_score_moves_only_as_its_clipped_numbers_move(servable, ranker, rows, numbers):
    numbers = np.concatenate([SPECIAL, numbers])
    is_number = np.abs(numbers) < np.float32(1e36)
    counts = numbers.view(np.int32).astype(np.int64) * 2**32 + 12345
    counts[:4] = -1, 2**63 - 1, -(2**63), 2**53
    items, statistics = ranker.vocabulary.item["stat_price"], ranker.vocabulary.candidate

    def scores(item_id, name, values):
        row = {**with_items(rows[1], *[item_id] * len(values)), name: values.tolist()}
        served = ask(servable, row)[0]
        assert np.isfinite(served).all()
        if name == "ctr_7d":
            np.testing.assert_allclose(served, ask_in_process(ranker, row), **CLOSE)
        return served

    for item_id, name, scale in ((ITEM_IDS[0], "ctr_7d", statistics["ctr_7d"]), ("new", "stat_price", items)):
        asked = np.where(numbers == -1, np.float32(np.nan), numbers)  # which is a missing statistic
        clipped = np.where(is_number, np.clip(asked, np.float32(scale.low), np.float32(scale.high)), np.float32(np.nan))
        found, expected = scores(item_id, name, asked), scores(item_id, name, clipped)
        np.testing.assert_array_equal(found, expected)
        inside = np.unique(clipped[~np.isnan(clipped)])
        assert len(inside) > 1
        assert len(np.unique(found)) > 1  # it is read
    scale = statistics["clicks_7d"]
    is_count = (np.abs(counts.astype(float)) < 2**53) & (counts != -1)
    clipped = np.where(is_count, np.clip(counts, int(np.ceil(scale.low)), int(scale.high)), -1)
    # Counts are whole, the range of the toy's scale is not: far outside, all are the same.
    far = np.where(is_count & (counts > 100), 100, np.where(is_count & (counts < -1), -2, clipped))
    np.testing.assert_array_equal(scores(ITEM_IDS[0], "clicks_7d", counts), scores(ITEM_IDS[0], "clicks_7d", far))


def test_no_label_is_in_a_signature(servable):
    labels = {f.name for f in FEATURES if f.is_label}
    for name in servable.signature_names:
        assert not labels & servable.signature(name).inputs.keys()


def test_both_signatures_score_like_the_ranker_in_process(servable, ranker, rows, toy_run):
    records = toy_run.example_records()
    answers = ask(servable, *rows)
    from_records = servable.predict("tf_example", {"examples": np.array(records, object)})["ctr"]
    expected = scores_in_process(ranker, records)
    assert len(expected) == PAGES
    for row, answer, from_record, scores in zip(rows, answers, from_records, expected, strict=True):
        candidates = len(row["item_id"])
        np.testing.assert_allclose(answer[:candidates], scores, **CLOSE)
        np.testing.assert_allclose(from_record[:candidates], scores, **CLOSE)
        np.testing.assert_allclose(ask_in_process(ranker, row), scores, **CLOSE)
        assert not answer[candidates:].any()
        assert not from_record[candidates:].any()
    assert np.std(np.concatenate(expected)) > 0.01  # the weights are not such that everything looks alike


@pytest.mark.parametrize("image_feature", ["vector", "simscore,simtier,cluster_id,semantic_id,make"])
def test_every_image_feature_and_task_is_exported(tmp_path, image_feature):
    lengths = LENGTHS.model_copy(update={"pay": 0, "cart": 0})
    options = {"lengths": lengths, "match_recency": True, "position_bias": 3}
    by_similarity = AttentionConfig(recent_steps=0, similarity_aware=True, similarity_buckets=5)
    options["attention"] = AttentionConfig(histories="none") if image_feature == "vector" else by_similarity
    run = make_toy_ranker(tmp_path, image_feature, **options, tasks=TasksConfig(ctcvr=0.5, long_visit=0.5, dwell=0.5))
    ranker, ids, records = run.ranker(), run.row_ids(), run.example_records()
    RankerModule(ranker, ids, tmp_path).save(tmp_path / "1")
    servable = Servable(tmp_path / "1", 1)
    rows = [request_row(record, ids, STATISTICS) for record in records]
    answers = servable.predict("", with_defaults(servable, "", pad_rows(rows)))
    for answer, scores in zip(answers["ctr"], scores_in_process(ranker, records), strict=True):
        np.testing.assert_allclose(answer[: len(scores)], scores, **CLOSE)
    page = parse_pages(tf.constant(records), ranker.config.lengths)
    expected = ranker({name: values for name, values in page.items() if name not in LABELS})
    assert answers.keys() == expected.keys() == {"ctr", "ctcvr", "long_visit", "dwell"}
    for name, scores in expected.items():
        shown = min(scores.shape[1], answers[name].shape[1])
        np.testing.assert_allclose(answers[name][:, :shown], scores[:, :shown], rtol=1e-5, atol=1e-6)
    servable.close()


def test_page_records_need_no_labels_and_ignore_them(servable, toy_run):
    labels = [f.name for f in FEATURES if f.is_label]
    assert labels
    bare, opposite = [], []
    for page in toy_pages():
        example = tf.train.Example.FromString(encode_page(page))
        for name in labels:
            del example.features.feature[name]
        bare.append(example.SerializeToString())
        opposite.append(encode_page({**page, "clicked": 1 - page["clicked"], "dwell": page["dwell"] + 9}))
    expected = servable.predict("tf_example", {"examples": np.array([encode_page(p) for p in toy_pages()], object)})
    for records in (bare, opposite):
        answers = servable.predict("tf_example", {"examples": np.array(records, object)})
        np.testing.assert_array_equal(answers["ctr"], expected["ctr"])


def test_page_records_need_a_time_for_each_step(servable):
    example = tf.train.Example.FromString(encode_page(toy_pages()[1]))
    example.features.feature["click_time"].int64_list.value.append(1)
    with pytest.raises(ServingError, match="as many of each of click_item, click_time"):
        servable.predict("tf_example", {"examples": np.array([example.SerializeToString()], object)})


def test_every_id_finds_its_row(servable, ranker, rows):
    for user in USER_IDS:
        row = {**with_items(rows[1], *ITEM_IDS), "user_id": user}  # more candidates than the training ever saw
        scores = ask(servable, row)[0]
        np.testing.assert_allclose(scores, ask_in_process(ranker, row), **CLOSE)
    assert len(np.unique(scores)) == len(ITEM_IDS)


def test_unknown_ids_are_scored_as_unknown(servable, ranker, rows):
    row = with_items({**rows[1], "user_id": "nobody", "click_item_id": ["x"] * 12}, "nothing", "ring-1 ", "7")
    scores = ask(servable, row)[0]
    np.testing.assert_allclose(scores, ask_in_process(ranker, row), **CLOSE)
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert np.abs(scores[1] - scores[2]) > 1e-4
    assert scores[2] != ask(servable, {**row, "user_id": USER_IDS[0]})[0, 2]
    np.testing.assert_array_equal(ask(servable, {**row, "user_id": ""})[0], scores)


def test_empty_histories_pages_and_batches(servable, ranker, rows):
    empty = {**rows[1], **{f"{name}_{part}": [] for name in HISTORIES for part in ("item_id", "time")}}
    np.testing.assert_allclose(ask(servable, empty)[0], ask_in_process(ranker, empty), **CLOSE)
    assert ask(servable, with_items(empty)).shape == (1, 0)
    assert ask(servable, with_items(rows[1])).shape == (1, 0)
    users = {"user_id": np.array([b"a", b"b"], object), "timestamp": np.array([1, 2])}
    for pages in (1, 2):
        assert servable.predict("", {**users, "item_id": np.empty((pages, 0), object)})["ctr"].shape == (2, 0)
    no_pages = with_defaults(servable, "", {name: value[:0] for name, value in pad_rows(rows).items()})
    assert servable.predict("", no_pages)["ctr"].shape == (0, 9)
    assert servable.predict("tf_example", {"examples": np.zeros(0, object)})["ctr"].shape == (0, LENGTHS.candidates)


def test_long_histories_are_cut_to_the_newest_steps(servable, rows):
    row = rows[1]
    assert all(len(row[f"{name}_time"]) > getattr(LENGTHS, name) for name in HISTORIES)

    def cut(part):
        steps = {}
        for name in HISTORIES:
            for key in (f"{name}_item_id", f"{name}_time"):
                steps[key] = row[key][part(getattr(LENGTHS, name))]
        return {**row, **steps}

    np.testing.assert_allclose(ask(servable, cut(lambda n: slice(n))), ask(servable, row), **CLOSE)
    assert np.abs(ask(servable, cut(lambda n: slice(-n, None))) - ask(servable, row)).max() > 1e-4


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_page_does_not_depend_on_its_batch_mates_or_padding(servable, rows, data):
    chosen = data.draw(st.lists(st.integers(0, PAGES - 1), min_size=1, max_size=6))
    inputs = pad_rows([rows[n] for n in chosen])
    for name in ("item", *(f"{history}_item" for history in HISTORIES)):
        more = data.draw(st.integers(0, 4))
        inputs[f"{name}_id"] = np.pad(inputs[f"{name}_id"], ((0, 0), (0, more)), constant_values=b"")
        if name == "item":
            for number in STATISTICS:
                inputs[number] = np.pad(inputs[number], ((0, 0), (0, more)), constant_values=7)
        else:  # the time of a padded step means nothing
            time = name.replace("item", "time")
            inputs[time] = np.pad(inputs[time], ((0, 0), (0, more)), constant_values=data.draw(st.integers(-1, 2**41)))
    answers = servable.predict("", with_defaults(servable, "", inputs))["ctr"]
    for n, answer in zip(chosen, answers, strict=True):
        candidates = len(rows[n]["item_id"])
        np.testing.assert_allclose(answer[:candidates], ask(servable, rows[n])[0], **CLOSE)
        assert not answer[candidates:].any()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("timestamp", np.zeros(1, np.int64), "timestamp must have one row per user_id"),
        ("item_id", np.full((1, 3), b"7", object), "item_id must have one row per user_id"),
        ("pay_time", np.zeros((2, 1), np.int64), "pay_time must have one value per pay_item_id"),
        ("clicks_7d", np.zeros((2, 1), np.int64), "clicks_7d must have one value per item_id"),
        ("clicks_7d", np.zeros((3, 0), np.int64), "clicks_7d must have one row per user_id"),
        ("query", np.array([b"ring"], object), "query must have one row per user_id"),
        ("title", np.full((1, 9), b"ring", object), "title must have one row per user_id"),
        ("click_time", np.zeros((1, 0), np.int64), "click_time must have one value per click_item_id"),
    ],
)
def test_inputs_that_do_not_belong_together_are_refused(servable, rows, name, value, text):
    with pytest.raises(ServingError, match=text) as caught:
        servable.predict("", with_defaults(servable, "", {**pad_rows(rows[1:3]), name: value}))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_requests_that_would_take_all_memory_are_refused(servable):
    pages = 2**26 // 16 // 4 + 1  # of four candidates
    many = {"user_id": np.full(pages, b"", object), "timestamp": np.zeros(pages, np.int64)}
    many["item_id"] = np.full((pages, 4), b"", object)
    records = np.full(2**26 // 16 + 1, b"", object)
    for signature, inputs in (("", with_defaults(servable, "", many)), ("tf_example", {"examples": records})):
        with pytest.raises(ServingError, match="may have 67108864 pairs of a candidate and a history step") as caught:
            servable.predict(signature, inputs)
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_no_page_record_is_refused(servable):
    with pytest.raises(ServingError, match="Could not parse example input") as caught:
        servable.predict("tf_example", {"examples": np.array([b"\xff"], object)})
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
