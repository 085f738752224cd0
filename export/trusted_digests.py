"""Prints the digest of a version, for `export.serve --digests`: `python -m export.trusted_digests`."""

import argparse
import tempfile
from pathlib import Path

from beam_pipelines.format.location import is_remote
from beam_pipelines.shell.command import ArgumentParser, CommandError, command, require_directory, run_command


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Prints the digest of a version, a line for the file that export.serve --digests reads.")
    parser.add_argument("version", help="the version's directory, BASE/NUMBER")
    return parser


@command(_parser)
def main(options: argparse.Namespace) -> str:
    """Prints the digest of a version in the format of `export.serve --digests` and returns the closing line."""
    from export.server.trusted_digests import version_digest
    from export.version.stored_versions import fetch_version

    version = require_directory(options.version, "version", "export.saved_model")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            if is_remote(version):
                local = Path(scratch, version.name)
                fetch_version(version, local)
            else:
                local = version
            print(f"{version_digest(local)}  {options.version}", flush=True)
    except OSError as error:
        raise CommandError(f"version: {error.filename} cannot be read: {error.strerror}") from error
    return f"digest of {options.version}"


if __name__ == "__main__":
    run_command(main)
