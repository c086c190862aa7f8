"""Training targets for the image without noise, where the normal dose is itself noisy."""

from __future__ import annotations

import dataclasses

from ldct_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class NoiseFreeTarget:
    """Targets from which a network learns the image without noise, though nobody has seen it.

    A network that learns the normal dose from a low one learns to keep the share of the noise
    that the normal dose has in it. One picture can be three quarters of one scanner's dose and a
    tenth of another's, so no network can know that share.

    Let n be all of the input's noise, of variance V, and m the part of it that was simulated, of
    variance W and independent of the rest. Then the mean of m over all images that look like the
    input is n·W/V, so that ``input - (V/W)·m`` has the mean "image without noise" (Moran et al.,
    Noisier2Noise, CVPR 2020, eq. 5). That holds for noise of one spectrum; where the simulated
    kernel is smoother than the scanner's own, more is taken from low frequencies than from high
    ones. A single target is noisier than the normal dose; it is their mean that has no noise.

    Args:
      most: upper bound of the factor V/W. Where hardly any noise was added, a larger one would only
        blow up that little; there the targets keep some noise: all but ``most``·W/V.
    """

    most: float = 3.0

    def __post_init__(self):
        if not self.most >= 1:
            raise UsageError(f"{self}: most is at least 1")

    def removed(self, variance_ratio: float) -> float:
        """The multiple of the simulated noise to take from the input: V/W, at most ``most``.

        ``variance_ratio``: noise variance of the input to that of the original image, at least 1.
        """
        if not variance_ratio >= 1:
            raise UsageError(f"variance_ratio={variance_ratio}: a low dose has the larger noise")
        added = 1 - 1 / variance_ratio  # W/V
        return self.most if added == 0 else min(self.most, 1 / added)

    def of(self, low_hu, original_hu, variance_ratio: float):
        """The target of the input ``low_hu``, simulated from ``original_hu``; any shape, HU."""
        return low_hu - self.removed(variance_ratio) * (low_hu - original_hu)
