"""Standalone Flink and Spark clusters, from what `make cluster-env` installs."""

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from tests.cluster.machines import HOST, Machine, listens, start, start_by_name, stop, wait_for, worker_pool

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "beam_pipelines"
ENVIRONMENT = ROOT / "artifacts" / "cluster-env"

# As the scripts of Flink's and Spark's distributions set it for Java 17.
_OPENED = """
java.lang java.lang.invoke java.lang.reflect java.io java.net java.nio java.text java.time java.util
java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks
sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar
"""
ADD_OPENS = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED.split()]


def job_server(engine: str) -> Path | None:
    """The jar that submits Beam's pipelines to an engine, if it is there."""
    return next(iter(sorted(ENVIRONMENT.glob(f"jars/beam-runners-{engine}-*job-server-*.jar"))), None)


class Cluster(ABC):
    """A cluster of one engine. A context manager.

    Attributes:
        name: of the engine.
        runner: Beam's for it.
        machines: its workers' machines.
        beam_options: what a build is given to run there.
    """

    name: str
    runner: str
    beam_options: list[str]

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self.logs = logs
        self.environment = dict(environment)
        self.machines: list[Machine] = []
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.kill()
        for process in self._processes:
            stop(process)

    def _seen(self) -> list[Path]:
        return [PACKAGE, ENVIRONMENT, Path(__file__).parent]

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def add_machine(self, number: int) -> Machine:
        """Starts a worker of the engine, with Beam's workers beside it, on a new machine."""

    def _serve(self, command: Sequence[str], log: str) -> None:
        self._processes.append(start(command, self.logs / log, self.environment))

    def bytes_moved(self) -> int:
        """Bytes that all machines received so far."""
        return sum(machine.bytes_moved()[0] for machine in self.machines)


class ClusterWithJobServer(Cluster):
    """A cluster that Beam submits to through a program in Java.

    Attributes:
        port: of the engine.
        worker_options: of Beam, for any way to submit.
        driver_properties: of the program's JVM.
        driver_options: by which the program finds the engine.
    """

    port: ClassVar[int]
    worker_options: ClassVar = [
        "--environment_type=EXTERNAL",
        "--environment_config=localhost:50000",
        "--environment_cache_millis=60000",  # or each stage starts workers of its own
    ]
    driver_properties: list[str]
    driver_options: list[str]

    def standing_job_server(self) -> str:
        """Starts a job server that stays when those who submit to it have left; its address."""
        port = self.port + 1000
        log = self.logs / f"{self.name}-job-server.log"
        command = ["java", *ADD_OPENS, *self.driver_properties, "-jar", str(job_server(self.name))]
        command += self.driver_options
        command += ["--job-host=localhost", f"--job-port={port}", "--artifact-port=0", "--expansion-port=0"]
        command += [f"--artifacts-dir={self.logs / 'artifacts'}"]
        self._serve(command, log.name)
        wait_for(lambda: listens("localhost", port), "job server", log)
        return f"localhost:{port}"


class Flink(ClusterWithJobServer):
    """A job manager here, and task managers with one slot on machines of their own."""

    name = "flink"
    runner = "FlinkRunner"
    port = 8081

    def __init__(self, logs: Path, environment: Mapping[str, str], workers: int, parallelism: int) -> None:
        super().__init__(logs, environment)
        self._size = workers
        self.driver_properties = ["-Xmx512m"]
        self.driver_options = [f"--flink-master={HOST}:{self.port}"]
        self.beam_options = [
            f"--flink_master={HOST}:{self.port}",
            f"--flink_version={re.search(r'flink-([0-9.]+)-', job_server('flink').name)[1]}",
            f"--flink_job_server_jar={job_server('flink')}",
            *(f"--job_server_jvm_properties={each}" for each in self.driver_properties),
            f"--parallelism={parallelism}",
            *self.worker_options,
        ]

    def _start(self) -> None:
        self._serve(
            [
                *(*self._java(256), "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"),
                *("--configDir", str(self._configuration()), *_options(self._settings)),
                *("-D", "jobmanager.bind-host=0.0.0.0"),
                *("-D", "rest.bind-address=0.0.0.0"),
            ],
            "flink-master.log",
        )
        for number in range(self._size):
            self.add_machine(11 + number)
        log = self.logs / "flink-worker-11.log"
        wait_for(lambda: self._task_managers() == self._size, f"{self._size} task managers", log)

    _settings: ClassVar = {
        "jobmanager.rpc.address": HOST,
        "rest.address": HOST,
        "rest.port": str(port),
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": "3",
        "restart-strategy.fixed-delay.delay": "1 s",
        "heartbeat.interval": "1000",
        "heartbeat.timeout": "8000",
        # A lost machine answers nothing: whoever wants the rows that it had would wait for two minutes, or for ever on
        # a connection that is open already.
        "taskmanager.network.netty.client.connectTimeoutSec": "5",
        "taskmanager.network.netty.client.tcp.keepIdleSec": "2",
        "taskmanager.network.netty.client.tcp.keepIntervalSec": "1",
        "taskmanager.network.netty.client.tcp.keepCount": "3",
        "taskmanager.numberOfTaskSlots": "1",
        "taskmanager.cpu.cores": "1.0",
        # The scripts of the distribution work these out; without them all must be given.
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "192m",
        "taskmanager.memory.jvm-overhead.max": "192m",
        "taskmanager.memory.task.heap.size": "512m",
        "taskmanager.memory.task.off-heap.size": "128m",
        "taskmanager.memory.managed.size": "256m",
        "taskmanager.memory.network.min": "256m",
        "taskmanager.memory.network.max": "256m",
    }

    def add_machine(self, number: int) -> Machine:
        """Starts a task manager with its worker pool on a new machine."""
        address = HOST.rpartition(".")[0] + f".{number}"
        command = [
            *self._java(640),
            "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
            *("--configDir", "/tmp/flink", *_options(self._settings)),
            *("-D", f"taskmanager.host={address}", "-D", f"taskmanager.bind-host={address}"),
        ]
        make_configuration = "mkdir /tmp/flink && touch /tmp/flink/config.yaml"
        machine = Machine(
            number,
            [worker_pool(), f"{make_configuration} && exec {shlex.join(command)}"],
            self.logs / f"flink-worker-{number}.log",
            self.environment,
            self._seen(),
        )
        self.machines.append(machine)
        return machine

    def _java(self, heap: int) -> list[str]:
        jars = ":".join(map(str, sorted((ENVIRONMENT / "flink" / "pyflink" / "lib").glob("*.jar"))))
        logging = Path(__file__).with_name("log4j2.properties")
        return ["java", f"-Xmx{heap}m", f"-Dlog4j.configurationFile={logging}", *ADD_OPENS, "-cp", jars]

    def _configuration(self) -> Path:
        directory = self.logs / "flink-configuration"
        directory.mkdir(exist_ok=True)
        (directory / "config.yaml").touch()
        return directory

    def _task_managers(self) -> int:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/taskmanagers", timeout=5) as answer:
                return len(json.load(answer)["taskmanagers"])
        except OSError:
            return 0


class Spark(ClusterWithJobServer):
    """A master here, and workers with one core on machines of their own."""

    name = "spark"
    runner = "SparkRunner"
    port = 7077
    web_port = 8180

    def __init__(self, logs: Path, environment: Mapping[str, str], workers: int) -> None:
        self._size = workers
        home = next((ENVIRONMENT / "spark").glob("lib/python*/site-packages/pyspark"))
        super().__init__(logs, {**environment, "SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "2.12"})
        self._java = ["java", "-Xmx256m", *ADD_OPENS, "-cp", f"{home / 'jars'}/*"]
        self.driver_properties = [
            "-Xmx512m",
            "-Dspark.executor.memory=640m",
            f"-Dspark.driver.host={HOST}",
            f"-Dspark.driver.bindAddress={HOST}",
            "-Dspark.ui.enabled=false",
        ]
        self.driver_options = [f"--spark-master-url=spark://{HOST}:{self.port}"]
        self.beam_options = [
            f"--spark_master_url=spark://{HOST}:{self.port}",
            f"--spark_job_server_jar={job_server('spark')}",
            *(f"--job_server_jvm_properties={each}" for each in self.driver_properties),
            *self.worker_options,
        ]

    def _start(self) -> None:
        self._serve(
            [
                *(*self._java, "org.apache.spark.deploy.master.Master"),
                *("--host", HOST, "--port", str(self.port), "--webui-port", str(self.web_port)),
            ],
            "spark-master.log",
        )
        wait_for(lambda: self._workers() is not None, "Spark master", self.logs / "spark-master.log")
        for number in range(self._size):
            self.add_machine(31 + number)
        log = self.logs / "spark-worker-31.log"
        wait_for(lambda: self._workers() == self._size, f"{self._size} Spark workers", log)

    def add_machine(self, number: int) -> Machine:
        """Starts a Spark worker with its pool of Beam's workers on a new machine."""
        address = HOST.rpartition(".")[0] + f".{number}"
        command = [
            *(*self._java, "org.apache.spark.deploy.worker.Worker", f"spark://{HOST}:{self.port}"),
            *("--host", address, "--cores", "1", "--memory", "1g", "--work-dir", "/tmp/spark"),
        ]
        machine = Machine(
            number,
            [worker_pool(), f"exec {shlex.join(command)}"],
            self.logs / f"spark-worker-{number}.log",
            {**self.environment, "SPARK_LOCAL_IP": address},
            self._seen(),
        )
        self.machines.append(machine)
        return machine

    def _workers(self) -> int | None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.web_port}/json/", timeout=5) as answer:
                return json.load(answer)["aliveworkers"]
        except OSError:
            return None


class Portable(Cluster):
    """Beam's own runner here, and its workers on machines of their own: what Dataflow asks of a pipeline."""

    name = "portable"
    runner = "PortableRunner"
    port = 8099

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        super().__init__(logs, environment)
        self.beam_options = [f"--job_endpoint=localhost:{self.port}", "--environment_type=EXTERNAL"]

    def _start(self) -> None:
        log = self.logs / "portable.log"
        command = [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main"]
        self._processes.append(start_by_name([*command, f"--port={self.port}"], log, self.environment))
        machine = self.add_machine(51)
        self.beam_options.append(f"--environment_config={machine.address}:50000")
        wait_for(lambda: listens("localhost", self.port), "job service", log)
        wait_for(lambda: listens(machine.address, 50000), "worker pool", machine.log)

    def add_machine(self, number: int) -> Machine:
        """Starts a pool of Beam's workers on a new machine."""
        log = self.logs / f"portable-worker-{number}.log"
        machine = Machine(number, [worker_pool()], log, self.environment, self._seen())
        self.machines.append(machine)
        return machine


def _options(settings: Mapping[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-D", f"{name}={value}")]
