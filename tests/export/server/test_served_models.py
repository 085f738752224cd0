import contextlib
import os
import shutil
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, model_service_pb2_grpc

from beam_pipelines.format.errors import ConfigurationError
from export import trusted_digests
from export.server.health_service import NOT_SERVING, SERVING, HealthCheckRequest, HealthCheckResponse
from export.server.model_config import ModelConfig, VersionPolicy, read_model_configs
from export.server.served_models import ServedModels
from export.server.serving_error import ServingError
from export.server.trusted_digests import TrustedDigests, version_digest
from export.version.recorded_requests import write_warmup
from tests.export.toy_server import GOOD, GOOD_ROWS, prediction_stub, request_proto, rest, serve_toy

POLL = 0.02
PREDICT = "/v1/models/toy{}:predict"


@pytest.fixture
def publish(toy_saved_model, tmp_path):
    """`publish(version)`: puts the toy model under `tmp_path / "toy"`, as whole as an export appears."""

    def publish(version, warmup=None):
        scratch = tmp_path / "toy" / f".{version}"
        shutil.copytree(toy_saved_model, scratch)
        if warmup is not None:
            write_warmup(scratch, [warmup])
        os.replace(scratch, scratch.with_name(str(version)))
        return scratch.with_name(str(version))

    publish.base = tmp_path / "toy"
    return publish


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(POLL)


def states(models, name="toy"):
    """Version to state and error of what a status request lists."""
    kinds = get_model_status_pb2.ModelVersionStatus.State
    return {
        state.version: (kinds.Name(state.state), state.status.error_message)
        for state in models.status(name).model_version_status
    }


def answering(stub, **spec):
    return stub.Predict(request_proto(GOOD, **spec), timeout=20).model_spec.version.value


def test_a_hot_swap_fails_no_request_and_never_goes_back(publish):
    publish(1)
    stop = threading.Event()
    seen, failures = [[] for _ in range(3)], []

    def over_grpc(stub, versions):
        while not stop.is_set():
            try:
                versions.append(answering(stub))
            except grpc.RpcError as error:
                failures.append(error)

    def over_rest(listening):
        while not stop.is_set():
            answer = rest(listening, PREDICT.format(""), {"instances": GOOD_ROWS})
            if answer[0] != 200:
                failures.append(answer)

    with serve_toy(publish.base, poll_seconds=POLL) as (models, listening), prediction_stub(listening) as stub:
        threads = [threading.Thread(target=over_grpc, args=(stub, versions)) for versions in seen]
        threads.append(threading.Thread(target=over_rest, args=(listening,)))
        for thread in threads:
            thread.start()
        for version in (2, 3, 4):
            publish(version)
            wait_until(lambda version=version: states(models).get(version, "")[0:1] == ("AVAILABLE",))
            wait_until(lambda version=version: states(models)[version - 1][0] == "END")
            wait_until(lambda version=version: all(version in versions for versions in seen))
        stop.set()
        for thread in threads:
            thread.join()
        assert states(models) == {1: ("END", ""), 2: ("END", ""), 3: ("END", ""), 4: ("AVAILABLE", "")}
    assert not failures
    for versions in seen:
        assert versions == sorted(versions)
        assert {1, 4} <= set(versions)


@pytest.mark.parametrize(
    ("warmup", "text"),
    [
        (("pick", {"row": np.array([7])}), "= 7 is not in [0, 3)"),
        (("total", {"x": np.array([np.nan], np.float32)}), "warm-up request 0: output sum is not finite"),
        (("gone", {}), 'Serving signature key "gone" not found.'),
    ],
)
def test_a_version_that_fails_its_warm_up_leaves_the_old_one(publish, warmup, text):
    publish(1)
    with serve_toy(publish.base, poll_seconds=POLL) as (models, listening), prediction_stub(listening) as stub:
        failed = publish(2, warmup)
        wait_until(lambda: states(models).get(2, ("",))[0] == "END")
        assert text in states(models)[2][1]
        assert answering(stub) == 1
        assert rest(listening, PREDICT.format(""), {"instances": GOOD_ROWS})[0] == 200
        status = rest(listening, "/v1/models/toy/versions/2")[1]["model_version_status"][0]
        assert (status["state"], text in status["status"]["error_message"]) == ("END", True)
        with pytest.raises(grpc.RpcError, match=r"Servable not found for request: Specific\(toy, 2\)"):
            answering(stub, version=2)
        shutil.rmtree(failed)
        publish(3)
        wait_until(lambda: answering(stub) == 3)
        wait_until(lambda: set(states(models)) <= {1, 3})


def test_a_half_copied_version_is_tried_again(publish):
    publish(1)
    with serve_toy(publish.base, poll_seconds=POLL, retry_seconds=0.2) as (models, _):
        whole = publish(2)
        wait_until(lambda: models.latest("toy") == 2)
        half = publish.base / "3"
        half.mkdir()
        wait_until(lambda: states(models).get(3, ("",))[0] == "END")
        assert models.latest("toy") == 2
        shutil.copytree(whole, half, dirs_exist_ok=True)
        wait_until(lambda: models.latest("toy") == 3)


def test_a_base_path_that_loses_its_versions_keeps_answering(publish):
    publish(1)
    with serve_toy(publish.base, poll_seconds=POLL) as (_models, listening), prediction_stub(listening) as stub:
        shutil.rmtree(publish.base)
        time.sleep(5 * POLL)
        assert answering(stub) == 1


def test_nothing_is_served_if_the_only_version_fails(publish):
    publish(1, ("pick", {"row": np.array([7])}))
    with pytest.raises(ServingError, match=r"version 1 in .* does not load: .*7 is not in \[0, 3\)"):
        ServedModels([ModelConfig("toy", publish.base)], publish.base)


@pytest.mark.parametrize(
    ("text", "served"),
    [("latest", [4]), ("latest:2", [3, 4]), ("all", [1, 3, 4]), ("specific:1,3,9", [1, 3])],
)
def test_version_policies(publish, text, served):
    for version in (1, 3, 4):
        publish(version)
    policy = VersionPolicy.parse(text)
    with serve_toy(publish.base, policy=policy) as (models, listening), prediction_stub(listening) as stub:
        assert sorted(states(models)) == served
        assert answering(stub) == served[-1]
        for version in (1, 3, 4, 9):
            status = rest(listening, PREDICT.format(f"/versions/{version}"), {"instances": GOOD_ROWS})[0]
            assert status == (200 if version in served else 404)


@pytest.mark.parametrize("text", ["", "latest:0", "latest:-1", "specific:", "specific:1,", "specific:x", "ALL"])
def test_what_is_no_version_policy_is_refused(text):
    with pytest.raises(ValueError, match=r"must be `latest:N`, `all` or `specific:V,V`"):
        VersionPolicy.parse(text)


def reload(channel, text):
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    return model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=20)


def config_text(base, name="toy", more="model_version_policy { all {}}"):
    return (
        f'model_config_list {{ config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }} }}'
    )


def test_labels_and_models_follow_a_reload(publish, tmp_path):
    publish(1)
    publish(2)
    everything = VersionPolicy.parse("all")
    with (
        serve_toy(publish.base, policy=everything, labels={"stable": 1}, root=tmp_path) as (_models, listening),
        prediction_stub(listening) as stub,
        grpc.insecure_channel(listening.grpc) as channel,
    ):
        assert answering(stub, label="stable") == 1
        both = 'model_version_policy { all {} } version_labels { key: "stable" value: 2 } '
        reload(channel, config_text(publish.base, more=both + 'version_labels { key: "the old one" value: 1 }'))
        assert (answering(stub, label="stable"), answering(stub, label="the old one")) == (2, 1)
        assert rest(listening, PREDICT.format("/labels/the%20old%20one"), {"instances": GOOD_ROWS})[0] == 200
        assert rest(listening, "/v1/models/toy/labels/stable")[1]["model_version_status"][0]["version"] == "2"
        assert rest(listening, "/v1/models/toy/labels/stable/metadata")[1]["model_spec"]["version"] == "2"

        code, error = rest(listening, PREDICT.format("/labels/best"), {"instances": GOOD_ROWS})
        assert (code, error) == (400, "Unrecognized servable version label: best")
        with pytest.raises(grpc.RpcError, match="Unrecognized servable version label: best"):
            answering(stub, label="best")
        with pytest.raises(grpc.RpcError, match="Request to assign label to version 7 of model toy, which is not"):
            reload(channel, config_text(publish.base, more='version_labels { key: "stable" value: 7 }'))
        assert answering(stub, label="stable") == 2

        reload(channel, config_text(publish.base, "another"))
        assert answering(stub, name="another") == 2
        with pytest.raises(grpc.RpcError, match=r"Servable not found for request: Latest\(toy\)"):
            answering(stub)
        assert rest(listening, "/v1/models/toy")[0] == 404


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", "INVALID_ARGUMENT", "only a model_config_list is supported"),
        ("custom_model_config {}", "INVALID_ARGUMENT", "only a model_config_list is supported"),
        ("model_config_list {}", "INVALID_ARGUMENT", "names no model"),
        (config_text("toy"), "INVALID_ARGUMENT", "model toy must have an absolute base_path. Received: 'toy'"),
        (config_text("/etc", "../x"), "INVALID_ARGUMENT", "a model's name must not be empty or hold"),
        (config_text("/etc"), "PERMISSION_DENIED", "base_path of model toy must lie inside"),
        (config_text("{base}/../.."), "PERMISSION_DENIED", "base_path of model toy must lie inside"),
        (config_text("{base}/none", "another"), "FAILED_PRECONDITION", "no version under"),
        (config_text("{base}").replace('"tensorflow"', '"other"'), "INVALID_ARGUMENT", "must have model_platform"),
        (
            config_text("/x", more="").replace(
                "} }", '} config { name: "toy" base_path: "/y" model_platform: "tensorflow" } }'
            ),
            "INVALID_ARGUMENT",
            "illegal to list model toy multiple times in config list",
        ),
    ],
)
def test_a_reload_that_cannot_be_followed_changes_nothing(publish, text, code, message):
    publish(1)
    text = text.replace("{base}", str(publish.base))
    with (
        serve_toy(publish.base) as (_models, listening),
        prediction_stub(listening) as stub,
        grpc.insecure_channel(listening.grpc) as channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            reload(channel, text)
        assert (caught.value.code().name, message in caught.value.details()) == (code, True), caught.value.details()
        assert answering(stub) == 1


def test_a_model_config_file_is_read_and_followed(publish, tmp_path, toy_saved_model):
    publish(1)
    file = tmp_path / "models.config"
    file.write_text(config_text(publish.base))
    models = ServedModels(read_model_configs(file), tmp_path, POLL, config_file=file)
    with contextlib.closing(models):
        assert models.names == ["toy"]
        file.write_text("nonsense")
        time.sleep(5 * POLL)
        assert models.names == ["toy"]
        file.write_text(config_text(publish.base, "another"))
        wait_until(lambda: models.names == ["another"])
    file.write_text("nonsense")
    with pytest.raises(ConfigurationError, match="is no ModelServerConfig"):
        read_model_configs(file)


def test_nothing_outside_the_root_is_loaded(publish, toy_saved_model):
    publish(1)
    with serve_toy(publish.base, poll_seconds=POLL) as (models, listening), prediction_stub(listening) as stub:
        (publish.base / "2").symlink_to(toy_saved_model)
        wait_until(lambda: states(models).get(2, ("",))[0] == "END")
        assert "leads outside" in states(models)[2][1]
        third = publish(3)
        wait_until(lambda: answering(stub) == 3)
        scratch = publish.base / ".4"
        shutil.copytree(third, scratch)
        shutil.rmtree(scratch / "variables")
        (scratch / "variables").symlink_to(toy_saved_model / "variables")
        os.replace(scratch, publish.base / "4")
        wait_until(lambda: states(models).get(4, ("",))[0] == "END")
        assert answering(stub) == 3
        for name in ("../toy", "%2e%2e%2ftoy", "..%2f..%2fetc%2fpasswd", "toy%00", "%00"):
            assert rest(listening, f"/v1/models/{name}:predict", {"instances": GOOD_ROWS})[0] in (400, 404)
            assert rest(listening, f"/v1/models/{name}")[0] in (400, 404)
        for name in ("../toy", "toy\x00", "/etc/passwd"):
            with pytest.raises(grpc.RpcError) as caught:
                answering(stub, name=name)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_only_versions_with_a_trusted_digest_are_loaded(publish, tmp_path, capsys):
    first = publish(1)
    digests = tmp_path / "digests"
    trusted_digests.main([str(first)])
    digests.write_text("# trusted\n" + capsys.readouterr().out)
    with serve_toy(publish.base, digests=TrustedDigests(digests), poll_seconds=POLL, retry_seconds=0.1) as (models, _):
        second = publish(2, ("pick", {"row": np.array([1])}))
        wait_until(lambda: states(models).get(2, ("",))[0] == "END")
        assert f"its digest {version_digest(second)} is not in" in states(models)[2][1]
        assert models.latest("toy") == 1
        digests.write_text(version_digest(second))
        wait_until(lambda: models.latest("toy") == 2)


def test_metrics_have_the_names_of_tensorflow_serving(publish):
    publish(1)
    with serve_toy(publish.base) as (_models, listening), prediction_stub(listening) as stub:
        answering(stub)
        rest(listening, PREDICT.format(""), {"instances": GOOD_ROWS})
        rest(listening, PREDICT.format(""), {"instances": []})
        rest(listening, "/v1/models/x:predict", {"instances": GOOD_ROWS})
        url = listening.rest.removesuffix("/v1/models/toy") + "/monitoring/prometheus/metrics"
        with urllib.request.urlopen(url) as response:
            assert response.headers["Content-Type"] == "text/plain"
            lines = response.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values[':tensorflow:serving:request_count{model_name="toy",status="OK"}'] == "2"
    assert values[':tensorflow:serving:request_count{model_name="toy",status="INVALID_ARGUMENT"}'] == "1"
    assert values[':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"}'] == "1"
    latency = ':tensorflow:serving:request_latency_{}{{model_name="toy",API="Predict",entrypoint="{}",status="OK"{}}}'
    for entrypoint in ("GRPC", "REST"):
        assert values[latency.format("count", entrypoint, "")] == "1"
        assert values[latency.format("bucket", entrypoint, ',le="+Inf"')] == "1"
        assert 0 < float(values[latency.format("sum", entrypoint, "")]) < 1e7
    assert values[':tensorflow:serving:runtime_latency_count{model_name="toy",API="Predict",runtime="TF1"}'] == "2"
    loads = f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{publish.base}/1",status="success"}}'
    assert values[loads] == "1"
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    assert "# TYPE :tensorflow:serving:request_latency histogram" in lines


def test_health(publish):
    publish(1)
    with serve_toy(publish.base) as (models, listening), grpc.insecure_channel(listening.grpc) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
        )
        for service in ("", "tensorflow.serving.PredictionService"):
            assert check(HealthCheckRequest(service=service)).status == SERVING
        with pytest.raises(grpc.RpcError, match="unknown service"):
            check(HealthCheckRequest(service="x"))
        models.close()
        assert check(HealthCheckRequest()).status == NOT_SERVING


def test_a_request_keeps_its_version_loaded(publish):
    publish(1)
    with serve_toy(publish.base, poll_seconds=POLL) as (models, _):
        with models.lease("toy") as servable:
            publish(2)
            wait_until(lambda: models.latest("toy") == 2)
            wait_until(lambda: states(models)[1][0] == "UNLOADING")
            assert servable.predict("", {name: np.array(value) for name, value in GOOD.items()})
        assert states(models)[1][0] == "END"
