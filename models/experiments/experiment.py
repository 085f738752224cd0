"""An experiment on users: its arms, and which user is in which, the same in every process and for ever."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from beam_pipelines.format.errors import ConfigurationError
from beam_pipelines.format.text_file import read_json

_HASHES = 2**64


@dataclass(frozen=True)
class Arm:
    """What the users of an arm get.

    Args:
        name: of the arm.
        weight: its share of the experiment's users is its weight over the sum of the weights.
        version: the version of the ranker that is asked; `None` for the latest.
        label: the label that is asked for instead.

    Raises:
        ConfigurationError: `weight` is no positive number, `name` is empty, or both `version` and `label` are given.
    """

    name: str
    weight: float = 1.0
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        _check_text("name", self.name)
        if not _is_number(self.weight) or self.weight <= 0:
            raise ConfigurationError(f"`weight` of an arm must be a positive number. Received: {self.weight!r}")
        if self.version is not None and type(self.version) is not int:
            raise ConfigurationError(f"`version` of an arm must be a whole number. Received: {self.version!r}")
        if self.label is not None:
            _check_text("label", self.label)
        if self.version is not None and self.label is not None:
            raise ConfigurationError(
                f"`version` and `label` of an arm exclude each other. Received: {self.version} and {self.label!r}"
            )


@dataclass(frozen=True)
class Experiment:
    """Arms, and the rule that assigns users to them.

    A user's place in the layer, and in a second step among the arms, are SHA-256 hashes of a salt and the user's ID, as
    numbers from 0 to 1. So an assignment needs no memory, no two experiments split users alike, and to widen `share`
    moves no user from one arm to another. To change the weights does: begin a new experiment then.

    Experiments of one `layer` whose shares do not overlap have no user in common; those of different layers are
    independent of each other.

    Args:
        name: of the experiment; also the salt of the second hash.
        arms: the first is the control.
        layer: name of the layer, and salt of the first hash; empty for a layer of its own.
        share: the part of the layer's users that takes part, as two numbers from 0 to 1.

    Raises:
        ConfigurationError: there are fewer than two arms, two of one name, or `share` is no part of a layer.

    Example:
        >>> Experiment("pictures", [Arm("control", label="stable"), Arm("pictures", label="canary")]).arm("anna").name
        'control'

    Reference: Tang et al., Overlapping experiment infrastructure: more, better, faster experimentation (KDD 2010).
    """

    name: str
    arms: tuple[Arm, ...]
    layer: str = ""
    share: tuple[float, float] = (0.0, 1.0)
    _ends: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_text("name", self.name)
        object.__setattr__(self, "arms", tuple(self.arms))
        names = [arm.name for arm in self.arms]
        if len(names) < 2:
            raise ConfigurationError(f"`arms` must be two or more. Received: {', '.join(names) or 'none'}")
        if len(set(names)) < len(names):
            raise ConfigurationError(f"`arms` must have different names. Received: {', '.join(names)}")
        if not isinstance(self.layer, str):
            raise ConfigurationError(f"`layer` must be text. Received: {self.layer!r}")
        share = tuple(self.share) if isinstance(self.share, tuple | list) else ()
        if len(share) != 2 or not all(map(_is_number, share)) or not 0 <= share[0] < share[1] <= 1:
            raise ConfigurationError(f"`share` must be two numbers with 0 <= first < last <= 1. Received: {self.share}")
        object.__setattr__(self, "share", share)
        weights = [Fraction(arm.weight) for arm in self.arms]  # exact: sums do not depend on rounding
        total = sum(weights)
        ends = tuple(int(sum(weights[: n + 1]) / total * _HASHES) for n in range(len(weights)))
        object.__setattr__(self, "_ends", ends)

    def arm(self, user_id: str) -> Arm | None:
        """The arm of a user; `None` if the user does not take part."""
        first, last = (int(Fraction(end) * _HASHES) for end in self.share)
        if not first <= _hash(f"layer\0{self.layer or self.name}", user_id) < last:
            return None
        place = _hash(f"experiment\0{self.name}", user_id)
        return next(arm for arm, end in zip(self.arms, self._ends, strict=True) if place < end)

    def shares(self) -> dict[str, float]:
        """The share of the experiment's users that each arm should have, by name."""
        total = math.fsum(arm.weight for arm in self.arms)
        return {arm.name: arm.weight / total for arm in self.arms}

    @classmethod
    def from_document(cls, document: Any) -> "Experiment":
        """Reads what a JSON file says: the arguments of `Experiment`, with `arms` as a list of those of `Arm`.

        Raises:
            ConfigurationError: a key is unknown or missing, or a value is not what it must be.
        """
        given = dict(_object("an experiment", document, {"name", "arms", "layer", "share"}, {"name", "arms"}))
        arms = given.pop("arms")
        if not isinstance(arms, list):
            raise ConfigurationError(f"`arms` must be a list. Received: {str(arms)[:80]}")
        keys = {"name", "weight", "version", "label"}
        return cls(arms=tuple(Arm(**_object("an arm", arm, keys, {"name"})) for arm in arms), **given)

    @classmethod
    def read(cls, path: Path | str) -> "Experiment":
        """Reads a JSON file; see `from_document`.

        Raises:
            ConfigurationError: it says no experiment.
            ArtifactError: it cannot be read.
        """
        document = read_json(Path(path))
        try:
            return cls.from_document(document)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error


def _hash(salt: str, user_id: str) -> int:
    digest = hashlib.sha256(f"{salt}\0{user_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigurationError(f"`{name}` must be text that is not empty. Received: {value!r}")


def _object(what: str, value: Any, known: set[str], needed: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{what} must be a JSON object. Received: {str(value)[:80]}")
    if unknown := sorted(value.keys() - known):
        raise ConfigurationError(f"{what} has no {', '.join(unknown)}; its keys are {', '.join(sorted(known))}")
    if missing := sorted(needed - value.keys()):
        raise ConfigurationError(f"{what} must have {', '.join(missing)}. Received: {', '.join(value) or 'nothing'}")
    return value
