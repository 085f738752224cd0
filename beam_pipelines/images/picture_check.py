"""Looks for the pictures that items name, without reading them."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from beam_pipelines.format.location import Location
from beam_pipelines.images.refusals import BadImageError, describe_refusals
from beam_pipelines.images.source import ImageSource, check_images, folders_of
from beam_pipelines.shell.progress import progress_bar

_EXAMPLES = 2


class PictureCheck(NamedTuple):
    """Which of the pictures that items name are there.

    Attributes:
        named, found: items that name a picture, and those whose name leads to one. URIs are believed.
        refused: why the others do not, in words.
    """

    named: int
    found: int
    refused: str

    def __str__(self) -> str:
        text = f"{self.found:,} of {self.named:,} items with a picture have one that is there"
        return f"{text} ({self.refused})" if self.refused else text


def find_pictures(images: Location, items: Mapping[str, int]) -> PictureCheck:
    """Looks for pictures.

    Args:
        images: see `ImageSource`.
        items: name of a picture to how many items name it.

    Raises:
        InputError: see `check_images`.
    """
    names = sorted(items)
    check_images(images, names)
    source = ImageSource(images, folders_of(names))
    reasons: Counter[str] = Counter()
    examples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    try:
        for name in progress_bar(names, desc="looking for pictures", unit="picture"):
            try:
                source.find(name)
            except BadImageError as error:
                reasons[error.reason] += items[name]
                if len(examples[error.reason]) < _EXAMPLES:
                    examples[error.reason].append((name, error.detail))
        refused = describe_refusals(reasons, examples)
        if missing := [name for found in examples.values() for name, _ in found]:
            refused += f"; {source.describe(missing)}"
    finally:
        source.close()
    named = sum(items.values())
    return PictureCheck(named, named - reasons.total(), refused)
