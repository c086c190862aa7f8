"""Scores of whole slices in one pass on the device: images don't come to the host for them."""

from __future__ import annotations

import dataclasses
import functools
from functools import cached_property

import jax
import numpy as np

from ldct_jax.ct.no_data import no_data
from ldct_jax.data.noise_estimate import flat_tissue, noise_of, variance_sums, window_side
from ldct_jax.data.pairs import PairedSlices
from ldct_jax.metrics.protocols import Protocol, Scores


@dataclasses.dataclass(frozen=True)
class Reference:
    """Test slices and what every row is scored with there, which is found once."""

    pairs: PairedSlices

    @cached_property
    def full_hu(self) -> np.ndarray:
        return np.asarray(self.pairs.full_hu)

    @cached_property
    def counts(self) -> np.ndarray:
        """(N, H, W) bool: pixels with data; others have no share in the scores."""
        empty = no_data(self.full_hu)
        return np.ones(self.full_hu.shape, bool) if empty is None else ~empty

    @cached_property
    def flat(self) -> np.ndarray:
        """(N, H, W) bool: flat soft tissue, found dose by dose."""
        flat = np.zeros(self.full_hu.shape, bool)
        for at in self.doses.values():
            flat[at] = flat_tissue(self.full_hu[at], self.pixel_mm).flat
        return flat

    @cached_property
    def doses(self) -> dict[str, np.ndarray]:
        """The slices (N,) bool of each dose; one without a name where there is one dose."""
        if self.pairs.doses is None:
            return {"": np.ones(len(self.pairs), bool)}
        return {f"{dose:g}": self.pairs.doses == dose for dose in self.pairs.dose_levels}

    @cached_property
    def pixel_mm(self) -> float:
        return float(np.median(self.pairs.pixel_mm))


class OnePass:
    """Scores, under one protocol, of images that come batch by batch and stay where they are."""

    def __init__(self, reference: Reference, protocol: Protocol):
        self._reference, self._protocol = reference, protocol
        side = window_side(reference.pixel_mm)
        self._numbers = _numbers(protocol, reference.full_hu.shape[1:], side)
        self._found: list = []

    def add(self, at: np.ndarray, images: jax.Array) -> None:
        """The images (T, B, H, W) HU of the slices ``at`` (B,); returns before they are scored."""
        known = self._reference
        self._found.append(
            self._numbers(images, known.full_hu[at], known.counts[at], known.flat[at])
        )

    def done(self) -> tuple[list[Scores], dict[str, float | None]]:
        """Each clone's scores of the N slices, and the last one's noise in flat tissue by dose, HU.

        The slices were added in order; what fills the last batch up beyond the N-th is left out.
        Raises DataError as :meth:`Protocol.score` does.
        """
        known, n = self._reference, len(self._reference.pairs)
        numbers, sums = zip(*jax.device_get(self._found), strict=True)
        joined = {k: np.concatenate([x[k] for x in numbers], axis=1)[:, :n] for k in numbers[0]}
        sums = np.concatenate(sums)[:n]
        clones = [{k: v[t] for k, v in joined.items()} for t in range(len(joined["ssim"]))]
        noise = {dose: noise_of(sums[at], known.flat[at]) for dose, at in known.doses.items()}
        return [self._protocol.scores(clone) for clone in clones], noise


@functools.lru_cache(maxsize=4)
def _numbers(protocol: Protocol, shape: tuple[int, int], side: int):
    """A compiled function of images (T, B, H, W), and full dose, counted and flat pixels (B, H, W).

    It returns the protocol's numbers, (T, B) by name, and the last clone's sums of variances (B,).
    """
    score, sums = protocol.compiled(shape), variance_sums(side)

    @jax.jit
    def numbers(images, full_hu, counts, flat):
        return jax.vmap(score, (0, None, None))(images, full_hu, counts), sums(images[-1], flat)

    return numbers
