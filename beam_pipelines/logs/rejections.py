"""How much bad input a build accepts."""

from collections import Counter

from beam_pipelines.shell.command import CommandError


def check_fraction(what: str, bad: int, total: int, reasons: Counter[str], max_fraction: float) -> None:
    """Stops a build with too much bad input.

    Args:
        what: what was counted, for the error.
        bad, total: of it.
        reasons: the bad ones by reason.
        max_fraction: of `total` that may be bad.

    Raises:
        CommandError: more are.
    """
    if bad > max_fraction * total:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        raise CommandError(f"{bad} of {total} {what} are bad ({listed}); --max-bad-fraction allows {max_fraction:g}")
