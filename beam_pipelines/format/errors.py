"""Errors that whoever calls can mend."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """An argument, or what it names, cannot be used.

    The message says what is wrong, the rule and what was received. It names arguments in backticks, such as
    `batch_size`; a command shows those that are options of its own as `--batch-size`.
    """


class ArtifactError(InputError):
    """A dataset, a run or a file of one is missing, damaged, of another version, or does not belong to the others."""


class ConfigurationError(InputError):
    """A key of a configuration is unknown, or its value is not what it must be."""


@contextlib.contextmanager
def about(argument: str) -> Iterator[None]:
    """Begins errors of the block with the argument that they are about: "`previous`: ...".

    Example:
        >>> with about("previous"):
        ...     earlier = Embeddings.load(previous)
    """
    try:
        yield
    except InputError as error:
        raise type(error)(f"`{argument}`: {error}") from error
