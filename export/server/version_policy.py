"""Which of the versions under a base path are to be served."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from tensorflow_serving.config import file_system_storage_path_source_pb2


class VersionPolicy(NamedTuple):
    """TensorFlow Serving's choices: the latest few versions, all of them, or those named.

    Attributes:
        latest: how many of the largest versions; 0 for all.
        specific: the versions to serve; where there are any, `latest` does not count.
    """

    latest: int = 1
    specific: frozenset[int] = frozenset()

    def wanted(self, published: Iterable[int]) -> set[int]:
        """The versions to serve of those that are there."""
        if self.specific:
            return self.specific.intersection(published)
        ascending = sorted(published)
        return set(ascending[-self.latest :] if self.latest else ascending)

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Reads `latest`, `latest:2`, `all` or `specific:3,5`.

        Raises:
            ValueError: it is none of them.
        """
        if text == "all":
            return cls(latest=0)
        if matched := re.fullmatch(r"latest(?::([1-9][0-9]{0,8}))?", text):
            return cls(latest=int(matched[1] or 1))
        if matched := re.fullmatch(r"specific:([0-9]{1,18}(?:,[0-9]{1,18})*)", text):
            return cls(specific=frozenset(map(int, matched[1].split(","))))
        raise ValueError(f"must be `latest:N`, `all` or `specific:V,V`. Received: {text!r}")

    @classmethod
    def from_proto(
        cls, proto: file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy
    ) -> "VersionPolicy":
        """The policy of a `ModelServerConfig`; an empty one means the latest version."""
        choice = proto.WhichOneof("policy_choice")
        if choice == "all":
            return cls(latest=0)
        if choice == "specific" and proto.specific.versions:
            return cls(specific=frozenset(proto.specific.versions))
        return cls(latest=max(1, proto.latest.num_versions))
