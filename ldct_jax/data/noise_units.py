"""Pairs of slices in units of their noise, as the network inside NoiseScaled learns them."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from ldct_jax.data.pairs import PairedSlices
from ldct_jax.hu import whole_hu
from ldct_jax.models.slice_noise import slice_noise_hu

NOISE = 25
"""What the noise of every low dose becomes, in the integers that stand for HU: fine enough."""

WORDS = f"in units of a {NOISE}th of each low dose's noise"
"""In the source of such pairs, and so in the record of what is trained on them."""


def in_noise_units(pairs: PairedSlices) -> PairedSlices:
    """Both doses of each slice times 25/σ, σ the noise of the low one, which so becomes 25.

    σ: :func:`ldct_jax.models.slice_noise.slice_noise_hu`. 0 HU stays zero, and int16 what it is:
    the result is rounded, and cut where metal would exceed it. With Window(0, 25·unit) a network
    sees what :class:`ldct_jax.models.noise_scaled.NoiseScaled` of that ``unit`` shows it.
    """
    measure = jax.jit(slice_noise_hu)
    low, full = (np.empty(pairs.low_hu.shape, np.int16) for _ in range(2))
    for i in range(len(pairs)):
        image = np.asarray(pairs.low_hu[i], np.float32)
        factor = NOISE / float(measure(image[None])[0])
        for to, hu in ((low, image), (full, np.asarray(pairs.full_hu[i], np.float32))):
            to[i] = whole_hu(factor * hu)
    return dataclasses.replace(
        pairs,
        low_hu=low,
        full_hu=full,
        source=f"{pairs.source}; all {WORDS}",
    )
