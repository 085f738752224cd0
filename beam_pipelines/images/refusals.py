"""Pictures that cannot be stored: why, and how that is told."""

from collections import Counter
from collections.abc import Mapping, Sequence

MISSING = "missing"
AMBIGUOUS = "ambiguous"
OUTSIDE = "outside images/"
_ADVICE = {
    AMBIGUOUS: "name one of the files exactly",
    OUTSIDE: "copy them into images/ and name their paths there",
    "encrypted": "pack them without a password",
    "not an image but HTML": "a failed download; fetch them again",
    "not an image but a Git LFS pointer": "run git lfs pull",
}
_CONVERT = "convert to JPEG, PNG or WebP"
_SHOWN = 80


class BadImageError(Exception):
    """A picture that cannot be stored.

    Args:
        reason: one of a few fixed phrases, by which pictures are counted.
        detail: what is particular to this picture, if anything; of several lines the first one counts.
    """

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = (str(detail).strip().splitlines() or [""])[0][:200]


def quoted(name: str) -> str:
    """A name as messages show it: in quotes, not too long."""
    return repr(name if len(name) <= _SHOWN else f"{name[: _SHOWN - 1]}…")


def describe_refusals(counts: Counter[str], examples: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """What is wrong with pictures, in one line.

    Args:
        counts: how many, by reason.
        examples: some of the names and their details, by reason.

    Example:
        >>> describe_refusals(Counter({"unsupported TIFF": 3}), {"unsupported TIFF": [("a.tif", ""), ("b.jpg", "")]})
        "3 unsupported TIFF: 'a.tif', 'b.jpg', convert to JPEG, PNG or WebP"
    """
    parts = []
    for reason, count in sorted(counts.items(), key=lambda found: (-found[1], found[0])):
        shown = [quoted(name) + (f" ({detail})" if detail else "") for name, detail in examples.get(reason, ())]
        if advice := _CONVERT if reason.startswith("unsupported ") else _ADVICE.get(reason):
            shown.append(advice)
        parts.append(f"{count} {reason}" + (f": {', '.join(shown)}" if shown else ""))
    return "; ".join(parts)
