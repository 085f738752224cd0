import json
import re
import shutil
import subprocess
import sys
import time

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from beam_pipelines.format.manifest import ids_sha256
from beam_pipelines.format.records import FEATURES, HISTORIES, encode_page
from beam_pipelines.shell.command import CommandError
from export import saved_model
from export.gates.loopback_server import loopback_server
from export.gates.skew import altered_pages, check_skew
from export.gates.version_check import VersionError, check, replay, session_gates
from export.server.servable import Servable, type_name
from export.server.serving_error import ServingError
from export.version.base_path import BATCHING_CONFIG, MODELS_CONFIG, published_versions, write_serving_config
from export.version.graph import RankerModule
from export.version.inputs import request_inputs
from export.version.recorded_requests import read_golden, read_warmup, write_golden, write_warmup
from export.version.reference_pages import ReferencePages, scores_in_process
from export.version.request_rows import pad_rows, request_row
from models.features.spec import STATISTICS
from models.ranker.run import EXAMPLE_PAGES_FILE, ITEMS_FILE, RANKER_FILE, RankerRun
from tests.export.conftest import ITEM_IDS, LENGTHS, PAGES, USER_IDS, make_toy_ranker

CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(scope="module")
def servable(toy_base_path):
    servable = Servable(toy_base_path / "11", 11)
    yield servable
    servable.close()


@pytest.fixture(scope="module")
def ranker(toy_ranker):
    return RankerRun(toy_ranker.run).ranker()


@pytest.fixture(scope="module")
def rows(toy_ranker):
    """The pages as requests, made from the pages themselves rather than from their records."""
    rows = []
    for page in toy_ranker.pages:
        row = {
            "user_id": USER_IDS[page["user"][0]],
            "query": page["query"][0].decode(),
            "timestamp": int(page["timestamp"][0]),
            "item_id": [ITEM_IDS[item] for item in page["item"]],
            **{name: page[name].tolist() for name in STATISTICS},
        }
        for name in HISTORIES:
            row[f"{name}_item_id"] = [ITEM_IDS[item] for item in page[f"{name}_item"]]
            row[f"{name}_time"] = page[f"{name}_time"].tolist()
        rows.append(row)
    return rows


def with_items(row, *item_ids):
    """The request with other candidates; the numbers of the first one stand for all."""
    return {**row, "item_id": list(item_ids), **{name: row[name][:1] * len(item_ids) for name in STATISTICS}}


def with_defaults(servable, signature, inputs):
    """The inputs with what the signature says of those that are left out, as TensorFlow Serving takes it."""
    defaults = servable.signature_defs[signature or "serving_default"].defaults
    return {**{name: tf.make_ndarray(value) for name, value in defaults.items()}, **inputs}


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


def test_no_label_is_in_a_signature(servable):
    labels = {f.name for f in FEATURES if f.is_label}
    for name in servable.signature_names:
        assert not labels & servable.signature(name).inputs.keys()


def test_both_signatures_score_like_the_ranker_in_process(servable, ranker, rows, toy_ranker):
    records = RankerRun(toy_ranker.run).example_records()
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


@pytest.mark.parametrize("image_feature", ["vector", "simscore"])
def test_every_image_feature_is_exported(tmp_path, image_feature):
    run = RankerRun(make_toy_ranker(tmp_path, image_feature).run)
    ranker, ids, records = run.ranker(), run.row_ids(), run.example_records()
    RankerModule(ranker, ids, tmp_path).save(tmp_path / "1")
    servable = Servable(tmp_path / "1", 1)
    rows = [request_row(record, ids, STATISTICS) for record in records]
    answers = ask(servable, *rows)
    for answer, scores in zip(answers, scores_in_process(ranker, records), strict=True):
        np.testing.assert_allclose(answer[: len(scores)], scores, **CLOSE)
    servable.close()


def test_requests_made_from_records_are_the_pages(rows, toy_ranker):
    ids = RankerRun(toy_ranker.run).row_ids()
    assert [request_row(record, ids, STATISTICS) for record in RankerRun(toy_ranker.run).example_records()] == rows


def test_page_records_need_no_labels_and_ignore_them(servable, toy_ranker):
    labels = [f.name for f in FEATURES if f.is_label]
    assert labels
    bare, opposite = [], []
    for page in toy_ranker.pages:
        example = tf.train.Example.FromString(encode_page(page))
        for name in labels:
            del example.features.feature[name]
        bare.append(example.SerializeToString())
        opposite.append(encode_page({**page, "clicked": 1 - page["clicked"], "dwell": page["dwell"] + 9}))
    expected = servable.predict(
        "tf_example", {"examples": np.array([encode_page(p) for p in toy_ranker.pages], object)}
    )
    for records in (bare, opposite):
        answers = servable.predict("tf_example", {"examples": np.array(records, object)})
        np.testing.assert_array_equal(answers["ctr"], expected["ctr"])


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


def test_a_version_carries_warm_up_and_an_example_request(servable, toy_base_path, toy_ranker, rows):
    version = toy_base_path / "11"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(
            str(version / "assets.extra/tf_serving_warmup_requests")
        ).as_numpy_iterator()
    ]
    signatures = [log.predict_log.request.model_spec.signature_name for log in logs]
    assert set(signatures) == {"serving_default", "tf_example"}
    request = json.loads((version / "assets.extra/example_request.json").read_text())
    not_given = {"category": [], "title": [], "stat_price": [], "cluster_id": []}
    assert request == {"signature_name": "serving_default", "instances": [{**rows[0], **not_given}]}
    assert request["instances"][0].keys() == servable.signature("").inputs.keys()  # TensorFlow Serving's REST wants all
    assert {len(log.predict_log.request.inputs) for log in logs} == {1, len(request["instances"][0])}
    assert (version / "assets.extra/ranker.json").read_text() == (toy_ranker.run / "metadata.json").read_text()


def test_versions_count_on_from_the_largest(toy_ranker, toy_base_path):
    assert published_versions(toy_base_path).keys() == {2, 10, 11}
    assert [path.name for path in toy_base_path.glob(".*")] == [".30.incomplete-1"]
    for version, text in (("11", "has a version 11"), ("40", "has a version 40"), ("0", "must be between 1 and")):
        with pytest.raises(CommandError, match=f"--version.*{text}"):
            saved_model.main(["--model", str(toy_ranker.run), "--base-path", str(toy_base_path), "--version", version])


def refused(run, base_path, *options):
    """The error of an export that publishes nothing and leaves nothing behind."""
    with pytest.raises(CommandError) as caught:
        saved_model.main(["--model", str(run), "--base-path", str(base_path), *options])
    assert not base_path.exists() or list(base_path.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def run_copy(toy_ranker, tmp_path):
    return shutil.copytree(toy_ranker.run, tmp_path / "run")


def test_a_ranker_that_gives_nan_is_not_published(run_copy, tmp_path):
    ranker = RankerRun(run_copy).ranker()
    ranker.members[0].heads["ctr"].bias.assign([np.nan])
    ranker.save(run_copy / RANKER_FILE)
    text = "is not published, it fails the gate `finite scores in process`: .* values of ctr are not finite"
    assert re.search(text, refused(run_copy, tmp_path / "serving"))


def test_what_the_export_reads_is_checked_first(run_copy, sample_dataset, tmp_path):
    base_path = tmp_path / "serving"
    assert "--model: no directory" in refused(tmp_path / "none", base_path)
    assert "--skew-pages must be at least 1. Received: 0" in refused(run_copy, base_path, "--skew-pages", "0")
    assert "--data: " in refused(run_copy, base_path, "--data", str(sample_dataset))
    assert re.search("--report: .* is no report; models", refused(run_copy, base_path, "--report", str(tmp_path)))
    (run_copy / EXAMPLE_PAGES_FILE).rename(tmp_path / "kept")
    assert f"no pages in {EXAMPLE_PAGES_FILE}" in refused(run_copy, base_path)
    (tmp_path / "kept").rename(run_copy / EXAMPLE_PAGES_FILE)
    items = pq.read_table(run_copy / ITEMS_FILE)
    pq.write_table(items.take(list(range(len(items)))[::-1]), run_copy / ITEMS_FILE)
    assert "is not the table that the ranker was trained with" in refused(run_copy, base_path)
    (run_copy / ITEMS_FILE).unlink()
    assert f"has no {ITEMS_FILE}" in refused(run_copy, base_path)


def test_an_id_that_the_asset_files_cannot_hold_is_named(run_copy, tmp_path):
    ids = [*ITEM_IDS[:-1], "two\nlines"]
    items = pq.read_table(run_copy / ITEMS_FILE)
    pq.write_table(items.set_column(0, "item_id", pa.array(ids)), run_copy / ITEMS_FILE)
    metadata = json.loads((run_copy / "metadata.json").read_text())
    (run_copy / "metadata.json").write_text(json.dumps({**metadata, "item_ids_sha256": ids_sha256(ids)}))
    assert "'two\\nlines' holds a line break" in refused(run_copy, tmp_path / "serving")


@pytest.fixture(scope="module")
def pages(toy_ranker, ranker):
    return ReferencePages.of(ranker, RankerRun(toy_ranker.run).row_ids(), RankerRun(toy_ranker.run).example_records())


@pytest.fixture(scope="module")
def gates(toy_base_path, pages, ranker):
    return session_gates(toy_base_path / "11", pages, request_inputs(ranker))


def answer(servable, request):
    try:
        return servable.predict(request.signature, with_defaults(servable, request.signature, request.inputs))
    except ServingError as error:
        return error.message


@pytest.fixture(scope="module")
def answers(servable, gates):
    return {gate.name: [answer(servable, request) for request in gate.requests] for gate in gates}


def test_a_good_version_passes_every_gate(gates, answers):
    figures = {gate.name: check(gate, answers[gate.name]) for gate in gates}
    assert list(figures) == [
        "warm-up",
        "golden requests",
        "rows independent of batch mates",
        "empty, absent and unknown",
        "NaN",
    ]
    assert figures["golden requests"].startswith("24 requests replayed to the recorded scores")


@pytest.mark.parametrize(
    ("name", "what", "change", "text"),
    [
        ("warm-up", "request 1", lambda ctr: ctr * np.nan, "request 1: 9 values of ctr are not finite"),
        ("warm-up", "request 2", lambda ctr: ctr + 0.1, "request 2: padded candidates with a ctr other than 0"),
        ("golden requests", "request 5 (tf_example)", lambda ctr: ctr * 0.9, "request 5 .*: ctr is off by"),
        (
            "rows independent of batch mates",
            "tf_example of pages [0, 1, 2, 3, 4, 5, 6, 7]",
            lambda ctr: ctr * 0.9,
            "page 0 against page 0 alone: ctr is off by",
        ),
        (
            "rows independent of batch mates",
            "serving_default of pages [7, 6, 5, 4, 3, 2, 1, 0]",
            lambda ctr: ctr[::-1],
            "padded candidates with a ctr other than 0|against page . alone",
        ),
        ("empty, absent and unknown", "a page of empty histories", lambda ctr: ctr + 2, "ctr out of range"),
        ("empty, absent and unknown", "a page of unknown IDs", lambda ctr: ctr - 1, "a page of unknown IDs: ctr out"),
        ("empty, absent and unknown", "a page without candidates", lambda ctr: np.zeros((1, 1)), "ctr of shape"),
        (
            "empty, absent and unknown",
            "a page without histories",
            lambda ctr: ctr * 0.9,
            "a page without histories, against a page of empty histories: ctr is off",
        ),
        (
            "empty, absent and unknown",
            "known items with features of new ones",
            lambda ctr: ctr * 0.9,
            "known items with features of new ones, against a page: ctr is off",
        ),
        ("NaN", "numbers that are nan", lambda ctr: ctr * np.nan, "numbers that are nan: . values of ctr are not fin"),
        ("NaN", "numbers that are inf", lambda ctr: ctr * 0.9, "numbers that are inf, against missing ones: ctr is"),
    ],
)
def test_a_version_that_answers_wrongly_fails_its_gate(gates, answers, name, what, change, text):
    gate = next(gate for gate in gates if gate.name == name)
    changed = [dict(each) for each in answers[name]]
    number = [request.what for request in gate.requests].index(what)
    changed[number]["ctr"] = change(changed[number]["ctr"])
    with pytest.raises(VersionError, match=text):
        check(gate, changed)


def test_recorded_requests_that_do_not_fit_the_version_fail_their_gates(
    servable, toy_base_path, pages, ranker, tmp_path
):
    """Of another version: golden scores that differ, warm-up that it cannot run, and none at all."""
    extra = tmp_path / "assets.extra"
    shutil.copytree(toy_base_path / "11/assets.extra", extra)
    golden = read_golden(tmp_path)
    write_golden(tmp_path, [*golden[:3], golden[3]._replace(outputs={"ctr": golden[3].outputs["ctr"] + 2e-6})])
    warmup = read_warmup(tmp_path)
    write_warmup(tmp_path, [warmup[0], ("serving_default", {**warmup[0][1], "query": warmup[2][1]["query"]})])

    def failing(number):
        gate = session_gates(tmp_path, pages, request_inputs(ranker))[number]
        with pytest.raises(VersionError) as caught:
            check(gate, [answer(servable, request) for request in gate.requests])
        return str(caught.value)

    assert "request 1: " in failing(0)
    assert "query must have one row per user_id" in failing(0)
    assert re.search(r"request 3 \(tf_example\): ctr is off by 2.*e-06", failing(1))
    shutil.rmtree(extra)
    assert failing(0) == "it has no warm-up requests"
    assert failing(1) == "it has no golden requests"


def test_a_version_without_its_variables_does_not_load(toy_base_path, gates, tmp_path):
    shutil.copytree(toy_base_path / "11", tmp_path / "1")
    (tmp_path / "1/variables/variables.data-00000-of-00001").unlink()
    with pytest.raises(VersionError, match="it does not load: "):
        replay(tmp_path / "1", gates[0].requests)


def test_skew_is_found_on_every_way_to_the_scores(toy_base_path, toy_ranker, ranker):
    records = RankerRun(toy_ranker.run).example_records()
    altered = altered_pages(records, len(ITEM_IDS))
    assert len(altered) == 16
    pages = ReferencePages.of(ranker, RankerRun(toy_ranker.run).row_ids(), records + altered)
    inputs = request_inputs(ranker)
    with loopback_server(toy_base_path) as server:
        largest = check_skew(server, pages, inputs)
        assert len(largest) == 4
        assert max(largest.values()) <= 1e-6
        shifted = [*pages.outputs[:20], {"ctr": pages.outputs[20]["ctr"] + 2e-6}, *pages.outputs[21:]]
        with pytest.raises(VersionError, match=r"gRPC serving_default, page 20: ctr is off by [12]\..e-06"):
            check_skew(server, pages._replace(outputs=shifted), inputs)
        other = [*pages.records[:20], pages.records[19], *pages.records[21:]]
        with pytest.raises(VersionError, match="gRPC tf_example, page 20: ctr"):
            check_skew(server, pages._replace(records=other), inputs)


def test_an_export_that_is_killed_publishes_nothing(toy_ranker, tmp_path):
    base_path = tmp_path / "serving"
    command = [
        sys.executable,
        "-m",
        "export.saved_model",
        "--model",
        str(toy_ranker.run),
        "--base-path",
        str(base_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(base_path.glob(".1.incomplete*/1/saved_model.pb")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    assert len(list(base_path.iterdir())) == 1
    assert published_versions(base_path) == {}


def test_a_base_path_has_files_for_tensorflow_serving(toy_base_path):
    text = (toy_base_path / MODELS_CONFIG).read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config[0]
    assert (config.name, config.base_path, config.model_platform) == ("ranker", "/models/ranker", "tensorflow")
    assert "pad_variable_length_inputs: false" in (toy_base_path / BATCHING_CONFIG).read_text()
    (toy_base_path / BATCHING_CONFIG).write_text("max_batch_size { value: 7 }\n")
    write_serving_config(toy_base_path)
    assert (toy_base_path / BATCHING_CONFIG).read_text() == "max_batch_size { value: 7 }\n"
