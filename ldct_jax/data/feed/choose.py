"""Which feeder a training uses: the resident one wherever the slices fit the device."""

from __future__ import annotations

import os
import sys

import jax
import numpy as np

from ldct_jax.data.feed.grain import GrainFeeder
from ldct_jax.data.feed.patches import Patches
from ldct_jax.data.feed.resident import Resident
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.errors import UsageError

FEEDS = ("auto", "resident", "grain")
# The slices may take this share of the device's memory; the rest is the network's.
RESIDENT_SHARE = 0.4


def make_feeder(
    feed: str,
    pairs: PairedSlices,
    patches: Patches,
    seed: int,
    columns: np.ndarray | None = None,
):
    """A feeder for ``pairs``; ``auto`` takes Grain, and says so, where they exceed the device.

    ``columns``: the patches of a batch that this process's devices hold; Grain reads no others.
    """
    if feed not in FEEDS:
        raise UsageError(f"feed={feed!r}: use one of {', '.join(FEEDS)}")
    needed, limit = pairs.low_hu.nbytes + pairs.full_hu.nbytes, RESIDENT_SHARE * device_memory()
    if feed == "auto":
        feed = "resident" if needed <= limit else "grain"
        if feed == "grain":
            print(
                f"feeding through Grain: the slices take {needed / 2**30:.1f} GiB and the device "
                f"has room for {limit / 2**30:.1f} GiB of them",
                file=sys.stderr,
            )
    if feed == "grain":
        return GrainFeeder(pairs, patches, seed, columns)
    return Resident(pairs, patches, seed)


def device_memory() -> int:
    """Bytes of the first device's memory; of the machine's for the CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit") or host_memory()


def host_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
