"""Chooses Beam's runner and checks the options that are meant for Beam."""

from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from beam_pipelines.command import CommandError


def make_runner(name: str, beam_options: Sequence[str]) -> tuple[PipelineRunner, PipelineOptions]:
    """Makes the runner that a pipeline is given.

    Args:
        name: `DirectRunner` means Beam's in-process FnApiRunner: Beam's own switch of that name would first try to
            download another engine. Any other name is Beam's.
        beam_options: options that are not ours, for example `--parallelism=8`.

    Raises:
        CommandError: Beam does not know the runner or an option.
    """
    previous = "="
    for argument in beam_options:
        if not argument.startswith("--") and ("=" in previous or not previous.startswith("--")):
            raise CommandError(f"unknown argument {argument!r}; see --help")
        previous = argument
    options = PipelineOptions(list(beam_options))
    known = PipelineOptions([]).get_all_options()
    if unknown := sorted(options.get_all_options(retain_unknown_options=True).keys() - known.keys()):
        raise CommandError(f"unknown option --{unknown[0]}; it is neither in --help nor an option of Beam")
    if name == "DirectRunner":
        return FnApiRunner(), options
    try:
        return create_runner(name), options
    except (ValueError, ImportError, AttributeError) as error:
        raise CommandError(f"--runner: Beam has no runner {name!r} here ({str(error).splitlines()[0]})") from error
