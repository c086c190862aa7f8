"""What a user may choose about a model's images: how much noise stays, and how much time they get.

Both are part of the denoiser's name and digest, so that headers, summaries and a command that goes
on tell their results apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from ldct_jax.errors import UsageError

if TYPE_CHECKING:
    from ldct_jax.denoise.models import Denoiser

ROUTINE = "routine"
SMOOTH = "smooth"
NORMAL = "normal"
BEST = "best"
QUALITIES = (NORMAL, BEST)


def texture(text: str | float) -> str | float:
    """``routine``, ``smooth``, or a noise in HU above 0; else UsageError."""
    if text in (ROUTINE, SMOOTH):
        return text
    try:
        hu = float(text)
    except ValueError:
        hu = math.nan
    if not 0 < hu < math.inf:
        raise UsageError(
            f"texture {text!r}: use {ROUTINE}, {SMOOTH}, or HU above 0, by the model's own measure"
        )
    return hu


def quality(text: str) -> str:
    """One of :data:`QUALITIES`; else UsageError."""
    if text not in QUALITIES:
        raise UsageError(f"quality {text!r}: use one of {', '.join(QUALITIES)}")
    return text


def with_texture(model, chosen: str | float):
    """A :class:`ldct_jax.models.noise_scaled.NoiseScaled` that keeps another part of the noise.

    ``smooth``: of every image the smallest share that the model ever keeps. A number: so many HU of
    the noise as :mod:`ldct_jax.models.slice_noise` measures it, of images that have more; what the
    network itself leaves comes on top.
    """
    if chosen == ROUTINE:
        return model
    if chosen == SMOOTH:
        return model.clone(routine_hu=0.0)
    return model.clone(routine_hu=chosen, power=1.0, least=0.0)


def renamed(denoiser: Denoiser, choice: str) -> Denoiser:
    """``denoiser`` with ``choice`` in its name and digest."""
    return dataclasses.replace(
        denoiser,
        name=f"{denoiser.name} {choice}",
        digest=hashlib.sha256(f"{denoiser.digest}\0{choice}".encode()).hexdigest(),
    )


def best(denoiser: Denoiser) -> Denoiser:
    """The mean of what ``denoiser`` makes of the eight symmetries of a slice; eight times slower.

    What is returned unchanged in all of them stays bit for bit.
    """

    def averaged(compute: Callable) -> Callable:
        def mean(hu_bhw: np.ndarray) -> np.ndarray:
            total = np.zeros(hu_bhw.shape, np.float64)
            for flip in (1, -1):
                for turns in range(4):
                    moved = np.rot90(hu_bhw[:, :, ::flip], turns, (1, 2))
                    out = compute(np.ascontiguousarray(moved))
                    total += np.rot90(out, -turns, (1, 2))[:, :, ::flip]
            return (total / 8).astype(np.float32)

        return mean

    of_series = denoiser.of_series

    def of_these(sample: Iterable[np.ndarray]) -> Callable:
        return averaged(of_series(sample))

    return dataclasses.replace(
        renamed(denoiser, BEST),
        compute=averaged(denoiser.compute),
        of_series=of_these if of_series else None,
    )
