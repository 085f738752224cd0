"""Chooses Beam's runner and checks the options that are meant for Beam.

docs/running-on-clusters.md says which runner is for what.
"""

import contextlib
import importlib
import io
from collections.abc import Sequence
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from beam_pipelines.shell.command import CommandError


def make_runner(name: str, beam_options: Sequence[str]) -> tuple[PipelineRunner, PipelineOptions]:
    """Makes the runner that a pipeline is given.

    Args:
        name: `DirectRunner` means Beam's in-process FnApiRunner: Beam's own switch of that name would first try to
            download another engine. Any other name is Beam's.
        beam_options: options that are not ours, for example `--parallelism=8`.

    Raises:
        CommandError: Beam does not know the runner or an option, refuses a value, or lacks a package for the runner.
    """
    options = _parse(beam_options)
    runner = _create(name)
    if errors := PipelineOptionsValidator(options, runner).validate():
        raise CommandError(f"--runner {name}: {errors[0]}")
    return runner, options


def _parse(beam_options: Sequence[str]) -> PipelineOptions:
    previous = "="
    for argument in beam_options:
        if not argument.startswith("--") and ("=" in previous or not previous.startswith("--")):
            raise CommandError(f"unknown argument {argument!r}; see --help")
        previous = argument
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):  # all of Beam's options: our message is the last line
            options = PipelineOptions(list(beam_options))
            given = options.get_all_options(retain_unknown_options=True)
    except SystemExit as stop:
        raise CommandError(usage.getvalue().strip().rpartition("error: ")[2]) from stop
    known = PipelineOptions([]).get_all_options()
    for name in (argument[2:].partition("=")[0] for argument in beam_options if argument.startswith("--")):
        if "-" in name and name.replace("-", "_") in known:  # Beam would ignore it
            raise CommandError(f"unknown option --{name}; Beam's is --{name.replace('-', '_')}")
    if unknown := sorted(given.keys() - known.keys()):
        raise CommandError(f"unknown option --{unknown[0]}; it is neither in --help nor an option of Beam")
    environment = given["environment_type"]
    types = PipelineOptionsValidator.REQUIRED_ENVIRONMENT_OPTIONS
    if environment and environment not in types and not environment.startswith("beam:env:"):
        raise CommandError(f"--environment_type must be one of {', '.join(types)}. Received: {environment}")
    for option in ("flink_job_server_jar", "spark_job_server_jar"):
        if (jar := given[option]) and "://" not in jar and not Path(jar).is_file():
            raise CommandError(f"--{option}: no file {jar}")
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
            raise CommandError(f"--runner: Beam has no runner {name!r} here ({error})") from error
        raise CommandError(f"--runner {name} needs apache-beam's gcp extra; see docs/running-on-clusters.md") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise CommandError(f"--runner: Beam has no runner {name!r} here ({str(error).splitlines()[0]})") from error
    if not isinstance(runner, PipelineRunner):
        raise CommandError(f"--runner: {name!r} is no runner")
    return runner
