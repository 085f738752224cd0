import http.client
import os
import signal
import socket
import threading

import pytest

from beam_pipelines.shell.command import CommandError
from export.viewer import __main__ as viewer
from tests.models.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"), items=40, users=5, pages=24)


def test_the_command_shows_pages_until_it_is_told_to_stop(tiny, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    statuses = []

    def look():
        """Asks once the page is there, and then ends the command."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            while connection.sock is None:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    continue
            for path in ("/", "/api/pages/test/3", "/api/items/7"):
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    looking = threading.Thread(target=look)
    looking.start()
    pictures = ["--embeddings", str(tiny.embeddings), "--clusters", str(tiny.clusters)]
    closing = viewer.main(["--data", str(tiny.data), "--port", str(port), *pictures])
    looking.join()
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
        signal.signal(number, handler)
    assert statuses == [200, 200, 200]
    assert closing == f"stopped showing {tiny.data}"
    assert f"open http://127.0.0.1:{port}/" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--data", "{tmp}/none"], "--data: no directory"),
        (["--base-path", "{tmp}/none"], "--base-path: no directory"),
        (["--model", "{tmp}/none"], "--model: no directory"),
        (["--model", "{data}"], "--model: "),
        (["--embeddings", "{data}"], "--embeddings: "),
        (["--clusters", "{data}"], "--clusters: "),
        (["--server", "::1:8500"], "--server: `address` must have brackets"),
        (["--timeout", "0"], "--timeout must be more than 0. Received: 0.0"),
        (["--port", "70000"], "--port: cannot listen on 127.0.0.1:70000"),
    ],
)
def test_what_is_wrong_is_one_line(tiny, tmp_path, options, text):
    named = [option.format(tmp=tmp_path, data=tiny.data) for option in options]
    with pytest.raises(CommandError) as refused:
        viewer.main(["--port", "0", "--data", str(tiny.data), *named])
    assert str(refused.value).startswith(text)
    assert "\n" not in str(refused.value)


def test_a_port_that_is_taken_is_refused(tiny):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=f"--port: cannot listen on 127.0.0.1:{port}"):
            viewer.main(["--data", str(tiny.data), "--port", str(port)])
