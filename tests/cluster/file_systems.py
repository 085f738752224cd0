"""A Google storage and an HDFS on this machine, from what `make cluster-env` installs."""

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.engines import ADD_OPENS, ENVIRONMENT
from tests.cluster.machines import listens, start, stop, wait_for

_LOGGING = """log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %c{1} - %m%n
"""


@contextlib.contextmanager
def google_storage(directory: Path, environment: pytest.MonkeyPatch) -> Iterator[str]:
    """A storage with one bucket, found by whoever has this environment; its URI."""
    server = ENVIRONMENT / "bin/fake-gcs-server"
    if not server.exists():
        pytest.skip(f"no {server}: `make cluster-env` installs it where Go is")
    port = _free_port()
    environment.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    environment.setenv("PYTHONPATH", str(ENVIRONMENT / "gcsfs"))
    log = directory / "google.log"
    place = ["-scheme", "http", "-backend", "memory", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    process = start([str(server), *place], log, {})
    try:
        wait_for(lambda: listens("127.0.0.1", port), "Google storage", log)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/storage/v1/b",
            json.dumps({"name": "shop"}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()
        yield "gs://shop"
    finally:
        stop(process)


@contextlib.contextmanager
def hdfs(directory: Path) -> Iterator[str]:
    """A name node and a data node; the URI of their root."""
    if not (ENVIRONMENT / "hadoop").is_dir() or shutil.which("java") is None:
        pytest.skip(f"no Java, or no HDFS in {ENVIRONMENT}: `make cluster-env` installs it")
    ports = {name: _free_port() for name in ("fs", "http", "data", "data_http", "data_ipc")}
    configuration = directory / "configuration"
    for name in ("hdfs", "datanode", "static", "secondary"):  # pages that nobody looks at
        (configuration / "webapps" / name / "WEB-INF").mkdir(parents=True)
    for name in ("hdfs", "datanode"):
        (configuration / "webapps" / name / "WEB-INF/web.xml").write_text("<web-app/>")
    (configuration / "log4j.properties").write_text(_LOGGING)
    _write(configuration / "core-site.xml", {"fs.defaultFS": f"hdfs://127.0.0.1:{ports['fs']}"})
    settings = {
        "dfs.replication": "1",
        "dfs.permissions.enabled": "false",
        "dfs.namenode.name.dir": str(directory / "name"),
        "dfs.datanode.data.dir": str(directory / "data"),
        "dfs.namenode.http-address": f"127.0.0.1:{ports['http']}",
        "dfs.datanode.address": f"127.0.0.1:{ports['data']}",
        "dfs.datanode.http.address": f"127.0.0.1:{ports['data_http']}",
        "dfs.datanode.ipc.address": f"127.0.0.1:{ports['data_ipc']}",
    }
    _write(configuration / "hdfs-site.xml", settings)
    java = ["java", "-Xmx256m", *ADD_OPENS, "-cp", f"{configuration}:{ENVIRONMENT / 'hadoop'}/*"]
    server = "org.apache.hadoop.hdfs.server"
    name_node = [*java, f"{server}.namenode.NameNode"]
    subprocess.run([*name_node, "-format", "-nonInteractive"], check=True, capture_output=True)
    with contextlib.ExitStack() as processes:
        for name, command in {"name": name_node, "data": [*java, f"{server}.datanode.DataNode"]}.items():
            log = directory / f"{name}-node.log"
            processes.callback(stop, start(command, log, {}))
            port = ports["http" if name == "name" else "data_http"]
            wait_for(lambda: listens("127.0.0.1", port), f"{name} node", log)  # noqa: B023
        question = f"http://127.0.0.1:{ports['http']}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
        wait_for(lambda: _live_nodes(question) == 1, "data node", log)
        yield f"webhdfs://tests@127.0.0.1:{ports['http']}"


def _live_nodes(question: str) -> int:
    with urllib.request.urlopen(question, timeout=10) as answer:
        return json.load(answer)["beans"][0]["NumLiveDataNodes"]


def _write(path: Path, settings: dict[str, str]) -> None:
    rows = (f"<property><name>{name}</name><value>{value}</value></property>" for name, value in settings.items())
    path.write_text(f"<configuration>{''.join(rows)}</configuration>")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
