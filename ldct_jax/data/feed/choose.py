"""Which feed a training uses: the resident one wherever the slices fit the device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import jax
import numpy as np

from ldct_jax.data.feed.feed import Feed
from ldct_jax.data.feed.grain import GrainFeed
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.errors import UsageError

FEEDS = ("auto", "resident", "grain")
# The slices may take this share of the device's memory; the rest is the network's.
RESIDENT_SHARE = 0.4


def make_feed(
    feed: str,
    pairs: PairedSlices,
    patches: Patches,
    seed: int,
    columns: np.ndarray | None = None,
    agree: Callable[[int], list[int]] = lambda *values: list(values),
) -> Feed:
    """The feed of ``pairs``; ``auto`` takes Grain, and says so, where they exceed the device.

    Args:
      columns: the patches of a batch that this process's devices hold; Grain reads no others.
      agree: the largest value over all processes. Their devices may have different memory, but
        all must run the same program.
    """
    if feed not in FEEDS:
        raise UsageError(f"feed={feed!r}: use one of {', '.join(FEEDS)}")
    needed, limit = pairs.low_hu.nbytes + pairs.full_hu.nbytes, RESIDENT_SHARE * device_memory()
    if feed == "auto":
        (exceeded,) = agree(int(needed > limit))
        feed = "grain" if exceeded else "resident"
        if exceeded:
            where = "the device" if needed > limit else "another process's device"
            room = f" for {limit / 2**30:.1f} GiB of them" if needed > limit else " for fewer"
            print(
                f"feeding through Grain: the slices take {needed / 2**30:.1f} GiB and {where} has "
                f"room{room}",
                file=sys.stderr,
            )
    if feed == "grain":
        return GrainFeed(pairs, patches, seed, columns)
    return Resident(pairs, patches, seed)


def device_memory() -> int:
    """Bytes of the first device's memory; of the machine's for the CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit") or host_memory()


def host_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
