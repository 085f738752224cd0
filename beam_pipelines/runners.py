"""Chooses Beam's runner, checks the options that are meant for Beam, and runs pipelines.

docs/running-on-clusters.md says which runner is for what.
"""

import contextlib
import importlib
import io
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.runner import PipelineRunner, create_runner

from beam_pipelines.beam_logging import errors_held_back
from beam_pipelines.format.errors import InputError
from beam_pipelines.worker_processes import FnApiRunner

DOCUMENT = "docs/running-on-clusters.md"


class Engine(NamedTuple):
    """What runs a pipeline.

    Attributes:
        name: as the runner was asked for.
        runner: Beam's object.
        options: Beam's options.
    """

    name: str
    runner: PipelineRunner
    options: PipelineOptions

    @property
    def is_in_process(self) -> bool:
        """Whether all workers are this process and its children, which share its disk."""
        return isinstance(self.runner, FnApiRunner)

    @property
    def is_detached(self) -> bool:
        """Whether nobody waits for the end of the pipeline."""
        return bool(self.options.view_as(StandardOptions).no_wait_until_finish)


def make_runner(name: str, beam_options: Sequence[str]) -> Engine:
    """Makes the runner that a pipeline is given, and its options.

    Args:
        name: `DirectRunner` means Beam's in-process FnApiRunner: Beam's own switch of that name would first try to
            download another engine. Any other name is Beam's.
        beam_options: Beam's options in the form of its command line, for example `--parallelism=8`.

    Raises:
        InputError: Beam does not know the runner or an option, refuses a value, or lacks a package for the runner.
    """
    options = _parse(beam_options)
    runner = _create(name)
    if errors := PipelineOptionsValidator(options, runner).validate():
        raise InputError(f"`runner` {name}: {errors[0]}")
    return Engine(name, runner, options)


def check_detachable(engine: Engine) -> None:
    """Refuses what would end with the submitting process.

    Raises:
        InputError: the runner, its job service or its workers are part of that process; or it is to wait.
    """
    options = engine.options.get_all_options()
    uber_jar = {"FlinkRunner": "flink_submit_uber_jar", "SparkRunner": "spark_submit_uber_jar"}
    kind = type(engine.runner).__name__
    if not engine.is_detached:
        raise InputError("`beam_options`: a submitted build needs --no_wait_until_finish")
    if isinstance(engine.runner, fn_runner.FnApiRunner):
        raise InputError(f"`runner` {engine.name} runs in this process; --no_wait_until_finish needs a cluster")
    if options["environment_type"] == "LOOPBACK":
        raise InputError("--environment_type=LOOPBACK: such workers end with this process; see --no_wait_until_finish")
    if kind in uber_jar and not (options["job_endpoint"] or options[uber_jar[kind]]):
        raise InputError(
            f"`runner` {engine.name}: its job server ends with this process; with --no_wait_until_finish pass "
            f"--{uber_jar[kind]} or the --job_endpoint of another one"
        )
    if kind == "PortableRunner" and not options["job_endpoint"]:
        raise InputError("`runner` PortableRunner: --no_wait_until_finish needs a --job_endpoint")


def _parse(beam_options: Sequence[str]) -> PipelineOptions:
    previous = "="
    for argument in beam_options:
        if not argument.startswith("--") and ("=" in previous or not previous.startswith("--")):
            raise InputError(f"unknown argument {argument!r}; see --help")
        previous = argument
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):  # all of Beam's options: our message is the last line
            options = PipelineOptions(list(beam_options))
            given = options.get_all_options(retain_unknown_options=True)
    except SystemExit as stop:
        raise InputError(usage.getvalue().strip().rpartition("error: ")[2]) from stop
    known = PipelineOptions([]).get_all_options()
    for name in (argument[2:].partition("=")[0] for argument in beam_options if argument.startswith("--")):
        if "-" in name and name.replace("-", "_") in known:  # Beam would ignore it
            raise InputError(f"unknown option --{name}; Beam's is --{name.replace('-', '_')}")
    if unknown := sorted(given.keys() - known.keys()):
        raise InputError(f"unknown option --{unknown[0]}; it is neither in --help nor an option of Beam")
    environment = given["environment_type"]
    types = PipelineOptionsValidator.REQUIRED_ENVIRONMENT_OPTIONS
    if environment and environment not in types and not environment.startswith("beam:env:"):
        raise InputError(f"--environment_type must be one of {', '.join(types)}. Received: {environment}")
    for option in ("flink_job_server_jar", "spark_job_server_jar"):
        if (jar := given[option]) and "://" not in jar and not Path(jar).is_file():
            raise InputError(f"--{option}: no file {jar}")
    return options


def _create(name: str) -> PipelineRunner:
    if name.lower() in ("direct", "directrunner"):  # Beam's names have no case, and `Runner` may be left out
        return FnApiRunner()
    try:
        runner = create_runner(name)
        if type(runner).__name__ == "DataflowRunner":  # Beam would find out only when the job is submitted
            importlib.import_module("apache_beam.runners.dataflow.internal.apiclient")
    except ImportError as error:
        if "dataflow" not in name.lower():
            raise InputError(f"`runner`: Beam has no runner {name!r} here ({error})") from error
        raise InputError(f"`runner` {name} needs apache-beam's gcp extra; see {DOCUMENT}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"`runner`: Beam has no runner {name!r} here ({str(error).splitlines()[0]})") from error
    if not isinstance(runner, PipelineRunner):
        raise InputError(f"`runner`: {name!r} is no runner")
    return runner


def run_pipeline(pipeline: beam.Pipeline) -> None:
    """Runs a pipeline to its end.

    Raises:
        InputError: a worker raised one (or one of its subclasses), could not read or write a file, had no space left
            for what it wrote, ran out of memory, or was killed. All else is a defect and raised as Beam does.
    """
    with _mendable_errors():
        pipeline.run().wait_until_finish()


def start_pipeline(pipeline: beam.Pipeline) -> None:
    """Hands a pipeline over to its runner.

    Raises:
        InputError: see `run_pipeline`.
    """
    with _mendable_errors():
        pipeline.run()


@contextlib.contextmanager
def _mendable_errors() -> Iterator[None]:
    try:
        with errors_held_back():
            yield
    except Exception as error:
        if (mendable := _mendable(error)) is not None:
            raise mendable from error
        raise


def _mendable(error: Exception) -> InputError | None:
    """What a worker raised, if whoever runs the pipeline can mend it.

    It comes back as text only, somewhere in the message of another error.
    """
    text = "".join(traceback.format_exception(error)).replace("\\n", "\n")
    family = {kind.__name__: kind for kind in _with_subclasses(InputError)}
    if raised := _raised(rf"\b({'|'.join(family)}): (.+?)", text):
        return family[raised[1]](raised[2])
    if full := re.search(r"No space left on device|Disk quota exceeded|File too large", text):
        return InputError(f"`output`: {full[0]}; rows and pages are stored there while they are built")
    if re.search(r"\b\w*MemoryError\b", text):
        return InputError("a worker ran out of memory: lower `bucket_memory_mb` or use fewer workers")
    if raised := _raised(r"\b\w*(?:Error|Exception): \[Errno \d+\] (.+?)", text):
        return InputError(f"a worker could not go on: {raised[1]}")
    return None


def _raised(pattern: str, text: str) -> re.Match[str] | None:
    """The last match, for what was raised first is printed first. Beam adds the step to a message."""
    return max(
        re.finditer(rf"{pattern}(?: \[while running.*)?$", text, re.MULTILINE),
        key=lambda match: match.start(),
        default=None,
    )


def _with_subclasses(kind: type[InputError]) -> Iterator[type[InputError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _with_subclasses(subclass)
