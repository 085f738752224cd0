"""Workers of the direct runner: in this process they wait less; processes of their own keep their log off the
terminal, and one that dies ends the pipeline.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2, beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.runners.runner import PipelineResult
from apache_beam.runners.worker import statesampler
from google.protobuf import json_format, text_format

_URN = "courier:env:worker_process:v1"
_LAST_WORDS = 2000  # bytes
_GRACE = 5.0  # seconds


class FnApiRunner(fn_runner.FnApiRunner):
    """Beam's runner of that name, quicker in this process, and with worker processes that are watched.

    Beam's own processes (`--direct_running_mode=multi_processing`) print all they do; and if one is killed, or an error
    ends the pipeline before one is ready, Beam waits forever.
    """

    def run_via_runner_api(
        self, pipeline_proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions
    ) -> PipelineResult:
        """Runs a pipeline."""
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.SUBPROCESS_SDK:
                environment.urn = _URN
        with _sampled_often():
            return super().run_via_runner_api(pipeline_proto, options)


@contextlib.contextmanager
def _sampled_often() -> Iterator[None]:
    """At the end of each bundle Beam waits for its next look at what step that is at, up to 200 ms; now up to 10."""
    sampler = statesampler.StateSampler
    statesampler.StateSampler = functools.partial(sampler, sampling_period_ms=10)
    try:
        yield
    finally:
        statesampler.StateSampler = sampler


@WorkerHandler.register_environment(_URN, bytes)
class _WorkerProcess(GrpcWorkerHandler):
    """A worker process. If it dies, all that it was to do has failed."""

    def __init__(self, command: bytes, *server: object) -> None:
        super().__init__(*server)
        self._stopping = threading.Event()

    def start_worker(self) -> None:
        """Starts the process and a thread that waits for its end."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the worker stops
        self._process = subprocess.Popen(
            [sys.executable, "-m", "apache_beam.runners.worker.sdk_worker_main"],
            stderr=self._log,
            env={
                **os.environ,
                "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(self.control_api_service_descriptor()),
                "PIPELINE_OPTIONS": json_format.MessageToJson(self.provision_info.provision_info.pipeline_options),
                "WORKER_ID": self.worker_id,
            },
        )
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Ends the connections, which may fail if the process has died, and the process."""
        try:
            super().close()
        finally:
            self.stop_worker()

    def stop_worker(self) -> None:
        """Waits for the process's end. By now it has nothing to do, or has never been ready."""
        self._stopping.set()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self._process.kill()
        self._watcher.join()
        self._log.close()

    def _watch(self) -> None:
        self._process.wait()
        why = self._why()
        while not self._stopping.wait(0.1):  # the runner may send it still more to do
            for instruction, future in list(self.control_conn._futures_by_id.items()):
                if not future.is_done():
                    future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=instruction, error=why))

    def _why(self) -> str:
        code = self._process.returncode
        if code < 0:
            return (
                f"InputError: a worker process was killed ({signal.Signals(-code).name}), most often for want of "
                "memory: lower `bucket_memory_mb` or use fewer workers"
            )
        self._log.seek(max(0, os.fstat(self._log.fileno()).st_size - _LAST_WORDS))
        return f"a worker process ended with code {code}: {self._log.read().decode(errors='replace')}"
