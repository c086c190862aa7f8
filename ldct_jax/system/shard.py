"""One part of a job that several processes share, as job arrays number them."""

from __future__ import annotations

import dataclasses
import re

from ldct_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Shard:
    """The ``index``-th of ``count`` parts, from 1; every ``count``-th series belongs to it."""

    index: int = 1
    count: int = 1

    def takes(self, i: int) -> bool:
        """Whether the ``i``-th series (from 0, in the order of the listing) is this shard's."""
        return i % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"


WHOLE = Shard()


def parse_shard(text: str) -> Shard:
    """``K/N``; raises UsageError for anything else."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    shard = Shard(*map(int, match.groups())) if match else None
    if shard is None or not 1 <= shard.index <= shard.count:
        raise UsageError(f"--shard {text}: give K/N, K from 1 to N (1/4, 2/4, 3/4, 4/4)")
    return shard
