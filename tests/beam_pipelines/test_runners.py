import ast
import contextlib
import errno
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.job_server import JavaJarJobServer
from PIL import Image

from beam_pipelines import build
from beam_pipelines.format.contents import Contents
from beam_pipelines.format.errors import ArtifactError, InputError
from beam_pipelines.format.local_copy import local_copy
from beam_pipelines.format.location import as_location
from beam_pipelines.runners import DOCUMENT, make_runner, run_pipeline
from beam_pipelines.shell.command import CommandError

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / DOCUMENT).read_text()
DOCKERFILE = (ROOT / "beam_pipelines/Dockerfile").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
BUILDS = [command[3:] for command in COMMANDS if command[:3] == ["python", "-m", "beam_pipelines.build"]]
SERVICES = [command for command in COMMANDS if command[:2] == ["python", "-m"] and "apache_beam" in command[2]]


def option(command, name):
    """The value of `--name=value` or `--name value`; None if it is not there."""
    for argument, following in zip(command, [*command[1:], None], strict=True):
        if argument == f"--{name}":
            return following
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
    return None


def id_of(command):
    return " ".join(
        [option(command, "runner") or "DirectRunner", *re.findall("multi_processing|[A-Z]{5,}", str(command))]
    )


def has_gcp():
    try:
        importlib.import_module("google.cloud.dataflow")
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("command", BUILDS, ids=id_of)
def test_every_documented_build_has_options_that_are_accepted(command, tmp_path, monkeypatch):
    """Stops at the log directory, which is not there: by then all options, ours and Beam's, have been accepted."""
    monkeypatch.chdir(tmp_path)
    command[command.index("--logs") + 1] = str(tmp_path / "no_logs")
    command[command.index("--output") + 1] = str(tmp_path / "dataset")
    for name in ("flink_job_server_jar", "spark_job_server_jar"):
        if jar := option(command, name):
            Path(jar).parent.mkdir()
            Path(jar).touch()
    dataflow = option(command, "runner") == "DataflowRunner" and not has_gcp()
    with pytest.raises(CommandError, match=f"gcp extra; see {DOCUMENT}" if dataflow else "--logs: no dir"):
        build.main(command)


def test_no_command_of_the_document_is_overlooked():
    assert {option(command, "runner") for command in BUILDS} == {
        None, "PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner",
    }  # fmt: skip
    assert len(BUILDS) == TEXT.count("python -m beam_pipelines.build ")
    assert [command[2].rpartition(".")[2] for command in SERVICES] == ["local_job_service_main", "worker_pool_main"]


def test_every_option_in_the_prose_exists(capsys):
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    with pytest.raises(SystemExit):
        build.main(["--help"])
    ours = set(re.findall(r"--([a-z-]+)", capsys.readouterr().out))
    beams = PipelineOptions([]).get_all_options().keys() | {"no_wait_until_finish"}
    others = {"worker_pool", "network", "service_port", "add-opens"}  # of Docker, of Beam's workers, of Java
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z_-]+)", prose))
    assert len(named) > 10
    assert named <= ours | beams | others


def test_jars_and_image_are_of_the_installed_beam():
    version = importlib.metadata.version("apache-beam")
    for command in BUILDS:
        name = (option(command, "runner") or "").removesuffix("Runner").lower()
        if jar := option(command, f"{name}_job_server_jar"):
            engine = f"flink:{option(command, 'flink_version')}" if name == "flink" else "spark:3"
            fetched = JavaJarJobServer.path_to_beam_jar(f":runners:{engine}:job-server:shadowJar").rpartition("/")[2]
            assert Path(jar).name == fetched
            assert f"org.apache.beam:{fetched.removesuffix(f'-{version}.jar')}:{version}" in TEXT
    assert set(re.findall(r"\b2\.\d\d\.\d\b", TEXT)) == {version}
    assert DOCKERFILE.splitlines()[2].endswith(f"_sdk:{version}")


def test_workers_import_what_their_container_has_and_no_tensorflow():
    code = """
import json, sys
import beam_pipelines.commit, beam_pipelines.images.transforms, beam_pipelines.pages.transforms
heavy = {"tensorflow", "keras", "polars", "pandas", "matplotlib"} & {name.split(".")[0] for name in sys.modules}
files = [module.__file__ for name, module in sys.modules.items() if name.startswith("beam_pipelines.")]
print(json.dumps([sorted(heavy), files]))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy, files = json.loads(run.stdout)
    assert heavy == []
    assert len(files) > 5
    imported = set()
    for node in (node for file in files for node in ast.walk(ast.parse(Path(file).read_text()))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    distributions = importlib.metadata.packages_distributions()
    needed = {
        distributions[name][0].replace("_", "-").lower()
        for name in imported - sys.stdlib_module_names - {"beam_pipelines"}
    }
    (installed,) = re.findall(
        r"^RUN pip install --no-cache-dir --constraint \S+ (.+)$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE
    )
    assert needed | {"s3fs"} == {*installed.split()}  # s3fs is found by the scheme of a URI


def write_logs(directory):
    (directory / "images").mkdir(parents=True)
    rows = [
        {"page_id": f"p{n // 3}", "user_id": f"u{n % 5}" if n < 3 else f"u{n // 3 % 5}", "item_id": f"i{n % 7}",
         "timestamp": 1_767_225_600_000 + n // 3 * 3_600_000, "position": n % 3, "clicked": n % 4 == 0}
        for n in range(300)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), directory / "impressions.parquet")
    items = [{"item_id": f"i{n}", "category": "c", "title": "t", "image": f"{n}.png"} for n in range(7)]
    pq.write_table(pa.Table.from_pylist(items), directory / "items.parquet")
    with zipfile.ZipFile(directory / "images" / "0.zip", "w") as archive:
        for n in range(7):
            picture = io.BytesIO()
            Image.new("RGB", (20, 30), (n * 30, 0, 0)).save(picture, "PNG")
            archive.writestr(f"{n}.png", picture.getvalue())


def hashes(dataset):
    files = (path for path in sorted(dataset.rglob("*")) if path.is_file())
    return {path.relative_to(dataset).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextlib.contextmanager
def running(service, log):
    """A documented service on a free port; yields how the document's `localhost:PORT` reads there."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    *command, documented = service
    name, _, documented_port = documented.partition("=")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # both the document and the worker pool say `python`
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    with open(log, "w") as output:
        # SIGINT is ignored where tests run in the background. `env` mends that; `preexec_fn` would run handlers of gRPC
        # at the fork, which abort the child while other threads are in gRPC.
        process = subprocess.Popen(
            ["env", "--default-signal=INT", *command, f"{name}={port}"],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield {f"=localhost:{documented_port}": f"=localhost:{port}"}
    finally:
        process.send_signal(signal.SIGINT)  # unlike SIGTERM, it lets the pool end its workers
        process.wait()


def test_a_detached_build_is_committed_by_its_last_step(tmp_path, s3_server, monkeypatch):
    """Separate workers, which share a bucket with the submitter, go on when that has left."""
    monkeypatch.setenv("COURIER_CACHE", str(tmp_path / "cache"))
    write_logs(tmp_path / "logs")
    command = ["--logs", str(tmp_path / "logs"), "--split-by-time", "2026-01-02,2026-01-03"]
    build.main([*command, "--output", str(tmp_path / "in_process")])
    output = as_location(f"{s3_server}/detached")
    service, pool = SERVICES
    with running(service, tmp_path / "service.log") as ports, running(pool, tmp_path / "pool.log") as pool_ports:
        (job,), (workers,) = ports.values(), pool_ports.values()
        beam = [f"--job_endpoint{job}", "--environment_type=EXTERNAL", f"--environment_config{workers}"]
        submit = [*command, "--output", str(output), "--runner=PortableRunner", *beam, "--no_wait_until_finish"]
        submitter = [sys.executable, "-m", "beam_pipelines.build", *submit]
        told = subprocess.run(submitter, cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert told.returncode == 0, told.stderr
        assert told.stdout.splitlines()[-1].startswith(f"submitted: the dataset will appear in {output} [")
        deadline = time.monotonic() + 100
        while Contents.read(output) is None:
            assert time.monotonic() < deadline, (tmp_path / "service.log").read_text()
            time.sleep(0.2)
    copied = hashes(local_copy(output))
    del copied[".origin.json"]
    assert copied == hashes(tmp_path / "in_process")
    assert not [path for path in output.fs.find(output.path) if "/plan/" in path or path.endswith("told.json")]


def test_documented_services_and_separate_workers_write_the_same_bytes(tmp_path):
    write_logs(tmp_path / "logs")
    command = ["--logs", str(tmp_path / "logs"), "--split-by-time", "2026-01-02,2026-01-03"]
    build.main([*command, "--output", str(tmp_path / "in_process")])
    expected = hashes(tmp_path / "in_process")
    assert len(expected) > 6
    service, pool = SERVICES
    with running(service, tmp_path / "service.log") as ports, running(pool, tmp_path / "pool.log") as pool_ports:
        for environment in ("LOOPBACK", "EXTERNAL"):
            (found,) = (
                c for c in BUILDS
                if (option(c, "runner"), option(c, "environment_type")) == ("PortableRunner", environment)
            )  # fmt: skip
            beam = [argument for argument in found if argument.startswith(("--runner", "--job", "--environment"))]
            for documented, free in (ports | pool_ports).items():
                beam = [argument.replace(documented, free) for argument in beam]
            build.main([*command, "--output", str(tmp_path / environment), *beam])
            assert hashes(tmp_path / environment) == expected
            started = "Starting worker" in (tmp_path / "pool.log").read_text()
            assert started == (environment == "EXTERNAL")


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("FlinkRuner", [], "`runner`: Beam has no runner 'FlinkRuner' here"),
        ("no.such.Runner", [], "`runner`: Beam has no runner 'no.such.Runner' here"),
        ("os.path", [], "`runner`: Beam has no runner 'os.path' here"),
        ("collections.Counter", [], "`runner`: 'collections.Counter' is no runner"),
        ("FlinkRunner", ["--flink_mastr=host:8081"], "unknown option --flink_mastr;"),
        ("FlinkRunner", ["--flink-master=host:8081"], "unknown option --flink-master; Beam's is --flink_master"),
        ("FlinkRunner", ["--flink_maste", "host:8081"], "unknown option --flink_maste;"),
        ("FlinkRunner", ["--flink_master"], "argument --flink_master: expected one argument"),
        ("FlinkRunner", ["--flink_version=1.18"], "argument --flink_version: invalid choice: '1.18'"),
        ("FlinkRunner", ["--parallelism=many"], "argument --parallelism: invalid int value: 'many'"),
        ("FlinkRunner", ["--flink_job_server_jar=/none.jar"], "--flink_job_server_jar: no file /none.jar"),
        ("SparkRunner", ["--spark_job_server_jar=/none.jar"], "--spark_job_server_jar: no file /none.jar"),
        ("SparkRunner", ["--environment_type=LOPBACK"], "--environment_type must be one of .* Received: LOPBACK"),
        ("SparkRunner", ["--environment_type=EXTERNAL"], "`runner` SparkRunner: .*is required for environment type"),
        ("DirectRunner", ["--direct_running_mode=fast"], "argument --direct_running_mode: invalid choice: 'fast'"),
        ("DirectRunner", ["stray"], "unknown argument 'stray'"),
    ],
)
def test_a_wrong_runner_or_option_is_one_clear_line(capsys, runner, options, message):
    with pytest.raises(InputError, match=message) as error:
        make_runner(runner, options)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("DirectRunner", [], "--runner DirectRunner runs in this process"),
        ("PortableRunner", [], "needs a --job_endpoint"),
        ("PortableRunner", ["--job_endpoint=host:8099", "--environment_type=LOOPBACK"], "such workers end with this"),
        ("FlinkRunner", ["--flink_master=host:8081"], "pass --flink_submit_uber_jar or the --job_endpoint of another"),
        ("SparkRunner", [], "pass --spark_submit_uber_jar or the --job_endpoint of another"),
    ],
)
def test_a_build_that_would_end_with_its_submitter_is_not_detached(tmp_path, runner, options, message):
    arguments = ["--logs", str(tmp_path), "--output", "memory://d", "--runner", runner, "--no_wait_until_finish"]
    with pytest.raises(CommandError, match=message):
        build.main([*arguments, *options])


def test_a_detached_build_needs_an_output_without_renames(tmp_path):
    arguments = ["--runner=PortableRunner", "--job_endpoint=host:8099", "--no_wait_until_finish"]
    with pytest.raises(CommandError, match=r"--output: --no_wait_until_finish needs a URI"):
        build.main(["--logs", str(tmp_path / "logs"), "--output", str(tmp_path / "d"), *arguments])


@pytest.mark.parametrize("name", ["DirectRunner", "directrunner", "direct"])
def test_direct_is_in_process_however_it_is_written(name):
    engine = make_runner(name, [])
    assert type(engine.runner).__name__ == "FnApiRunner"
    assert engine.is_in_process


class _Raise(beam.DoFn):
    def __init__(self, kind):
        self._kind = kind

    def process(self, element):
        raise self._kind(element)


class NewerError(ArtifactError):
    """One that `runners` has never heard of."""


@pytest.mark.parametrize("kind", [InputError, ArtifactError, NewerError])
def test_what_a_worker_raises_arrives_as_what_it_is(kind):
    pipeline = beam.Pipeline(runner=make_runner("DirectRunner", ()).runner)
    _ = pipeline | beam.Create(["logs/items.csv: no column 'x' [in it]: `columns` names it"]) | beam.ParDo(_Raise(kind))
    with pytest.raises(InputError) as error:
        run_pipeline(pipeline)
    assert type(error.value) is kind
    assert str(error.value) == "logs/items.csv: no column 'x' [in it]: `columns` names it"


def no_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


MENDABLE = {
    "no space": (no_space, "^`output`: No space left on device; rows and pages are stored there"),
    "no memory": (lambda: np.zeros(1 << 58, np.int8), "^a worker ran out of memory: lower `bucket_memory_mb`"),
    "a file that vanished": (
        lambda: Path("/no/such.file").read_text(),
        "^a worker .*: No such file or directory: '/no/such.file'$",
    ),
    "chained": (lambda: _raise_chained(), "^outer$"),
}


def _raise_chained():
    try:
        raise InputError("inner")
    except InputError as error:
        raise ArtifactError("outer") from error


def failing_pipeline(fail, mode):
    _, runner, options = make_runner("DirectRunner", [f"--direct_running_mode={mode}"])
    pipeline = beam.Pipeline(runner=runner, options=options)
    _ = pipeline | beam.Create([0]) | beam.Map(lambda _: fail())
    return pipeline


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
@pytest.mark.parametrize("kind", MENDABLE)
def test_what_the_user_can_mend_is_one_line_and_nothing_is_logged(kind, mode, caplog, capfd):
    fail, message = MENDABLE[kind]
    with pytest.raises(InputError, match=message) as error:
        run_pipeline(failing_pipeline(fail, mode))
    assert "\n" not in str(error.value)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_a_worker_process_that_is_killed_ends_the_pipeline(caplog, capfd):
    with pytest.raises(InputError, match=r"^a worker process was killed \(SIGKILL\), most often for want of memory"):
        run_pipeline(failing_pipeline(lambda: os.kill(os.getpid(), signal.SIGKILL), "multi_processing"))
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_a_defect_of_a_worker_stays_one(mode, caplog, capfd):
    with pytest.raises(Exception, match="no digit") as error:
        run_pipeline(failing_pipeline(lambda: int("no digit"), mode))
    assert not isinstance(error.value, InputError)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
