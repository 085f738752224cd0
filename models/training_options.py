"""The options that commands which train have in common."""

import argparse


def add_training_options(
    parser: argparse.ArgumentParser, *, config: str, seed: str | None = None, shards: bool = True
) -> None:
    """Adds how a training is configured, and what it does with damage and with an interrupted run.

    Args:
        parser: of the command.
        config: what `--config` takes, and what counts without it.
        seed: what `--seed` is of; `None` leaves it out where the configuration has it.
        shards: whether the command reads page shards, of which `--max-bad-shards` may be damaged.
    """
    add = parser.add_argument
    add("--config", help=config)
    add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="overrides a key of the "
        "configuration")  # fmt: skip
    if seed is not None:
        add("--seed", type=int, default=0, help=seed)
    if shards:
        add("--max-bad-shards", type=int, default=0, metavar="N", help="page shards that may be damaged and are left "
            "out")  # fmt: skip
    add("--restart", action="store_true", help="throw away the checkpoints of an interrupted run instead of going on")


def add_window_option(parser: argparse.ArgumentParser) -> None:
    """Adds what accepts pictures whose encoder has seen the pages of this training."""
    parser.add_argument(
        "--allow-window-overlap",
        action="store_true",
        help="accept pictures encoded by an encoder that has seen the training pages",
    )
