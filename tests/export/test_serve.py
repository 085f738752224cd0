import os
import re
import signal
import socket
import subprocess
import sys
import threading

import grpc
import pytest
from tensorflow_serving.apis import (
    prediction_service_pb2_grpc,
)

from beam_pipelines.shell.command import CommandError
from export import serve
from export.server.endpoint import Listening
from tests.export.toy_server import (
    GOOD,
    GOOD_ROWS,
    request_proto,
    rest,
)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--base-path", "{tmp}/none"], "--base-path: no directory"),
        (["--base-path", "{tmp}"], "--base-path: no version under"),
        (["--base-path", "{tmp}", "--model-name", "a/b"], "--model-name: a model's name must not be empty or hold"),
        (["--base-path", "{tmp}", "--port", "70000"], "--port must be between 0 and 65535. Received: 70000"),
        (["--base-path", "{tmp}", "--host", "192.0.2.1"], "--host: cannot listen on 192.0.2.1: "),
        (["--base-path", "{tmp}", "--cors-origin", "shop"], "--cors-origin must be * or SCHEME://HOST"),
        (["--base-path", "{tmp}", "--max-request-mb", "0"], "--max-request-mb must be at least 1"),
        (["--base-path", "{tmp}", "--poll-seconds", "-1"], "--poll-seconds must be at least 0. Received: -1.0"),
        (["--base-path", "{tmp}", "--version-policy", "newest"], "--version-policy must be `latest:N`"),
        (
            ["--base-path", "{tmp}", "--version-label", "best"],
            "--version-label must be LABEL=VERSION. Received: 'best'",
        ),
        (["--base-path", "{tmp}", "--digests", "{tmp}/none"], "--digests: no file"),
        (["--model-config-file", "{tmp}/none"], "--model-config-file: {tmp}/none is no ModelServerConfig"),
    ],
)
def test_options_are_checked(tmp_path, options, text):
    with pytest.raises(CommandError, match=re.escape(text.format(tmp=tmp_path))):
        serve.main(["--port", "0", "--rest-port", "0", *(option.format(tmp=tmp_path) for option in options)])


@pytest.mark.parametrize("option", ["--port", "--rest-port"])
def test_a_port_in_use_is_named_before_a_model_is_loaded(tmp_path, option):
    (tmp_path / "1").mkdir()  # there is nothing in it, but nobody looks so far
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"--port": "0", "--rest-port": "0", option: str(port)}
        with pytest.raises(CommandError, match=f"^{option}: cannot listen on 127.0.0.1:{port}: Address already in use"):
            serve.main(["--base-path", str(tmp_path), *(text for pair in ports.items() for text in pair)])


def test_a_damaged_version_is_named(tmp_path):
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(CommandError, match=r"--base-path: version 4 in .* does not load"):
        serve.main(["--base-path", str(tmp_path), "--port", "0", "--rest-port", "0"])


def test_the_command_serves_until_a_signal(base_path):
    command = [sys.executable, "-m", "export.serve", "--base-path", str(base_path), "--model-name", "toy"]
    with subprocess.Popen(
        [*command, "--port", "0", "--rest-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        alarm = threading.Timer(120, process.kill)
        alarm.start()
        try:
            listening = Listening.from_line(process.stdout.readline())
            assert rest(listening, "/v1/models/toy:predict", {"instances": GOOD_ROWS})[0] == 200
            with grpc.insecure_channel(listening.grpc) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                assert stub.Predict(request_proto(GOOD)).model_spec.version.value == 3
            os.kill(process.pid, signal.SIGTERM)
            out, err = process.communicate()
        finally:
            alarm.cancel()
            process.kill()
    assert process.returncode == 0
    assert out.startswith("stopped serving toy version 3 from ")
    assert "Traceback" not in err
    assert ("running as root" in err) == (os.geteuid() == 0)
    assert "toy: version 3 loaded in" in err
