"""How much noise a training target keeps, where the normal dose is itself noisy."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class QuietTarget:
    """Targets whose noise follows from the noise that the network can see, not from an unseen dose.

    A network that learns the normal dose from a low one learns to keep the share of the noise
    that the normal dose has in it. One picture can be three quarters of one scanner's dose and a
    tenth of another's, so no network can know that share. Here it is a function of the input's
    noise σ alone: ``min(1, max(least, (level_hu / σ)^power))``; noise near ``level_hu``, that of
    a routine scan, stays, and of more noise a smaller share stays, down to ``least``.

    The target needs no noise-free image. Let n be all of the input's noise, of variance V, and m
    the part of it that was simulated, of variance W and independent of the rest. Then the mean of
    m over all images that look like the input is n·W/V, and ``input - (1 - kept)·(V/W)·m`` has the
    mean "image + kept·n" (Moran et al., Noisier2Noise, CVPR 2020, eq. 5, for any share kept). That
    holds for noise of one spectrum; where the simulated kernel is smoother than the scanner's own,
    more is taken from low frequencies than from high ones.

    Args:
      level_hu: noise of a routine scan in flat tissue, HU.
      power: how fast the share falls with the noise.
      least: the least share kept, so that results do not look like plastic.
      most: upper bound of the factor (1 - kept)·V/W: where hardly any noise was added, a larger
        one would only blow up that little. There more is kept than the share says: of a scan of
        14 HU at more than 0.6 of its dose, for example.
    """

    level_hu: float = 10.75
    power: float = 3.0
    least: float = 0.15
    most: float = 2.0

    def __post_init__(self):
        if not (self.level_hu > 0 and self.power > 0 and 0 <= self.least <= 1 <= self.most):
            raise UsageError(
                f"{self}: level_hu and power above 0, least in [0, 1], most at least 1"
            )

    def kept(self, noise_hu: float) -> float:
        """The share of the noise that stays in an image of noise ``noise_hu`` (HU), in [0, 1]."""
        return float(np.clip((self.level_hu / noise_hu) ** self.power, self.least, 1))

    def removed(self, own_hu: float, variance_ratio: float) -> float:
        """The multiple of the simulated noise to take from the input, (1 - kept)·V/W, ≤ ``most``.

        ``own_hu``: noise of the original image, HU; ``variance_ratio``: of the input to it, ≥ 1.
        """
        if not variance_ratio >= 1:
            raise UsageError(f"variance_ratio={variance_ratio}: a low dose has the larger noise")
        kept = self.kept(own_hu * variance_ratio**0.5)
        if kept == 1:
            return 0.0
        added = 1 - 1 / variance_ratio  # W/V
        return self.most if added == 0 else min(self.most, (1 - kept) / added)

    def of(self, low_hu, original_hu, own_hu: float, variance_ratio: float):
        """The target of the input ``low_hu``, simulated from ``original_hu``; any shape, HU."""
        return low_hu - self.removed(own_hu, variance_ratio) * (low_hu - original_hu)
