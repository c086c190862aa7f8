"""Hounsfield windows: the one place where HU become network units and back.

A network never sees HU and a user never sees anything else. The window is part of a model's
record: it travels in the checkpoint and in every exported artefact, and is never guessed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Window:
    """An affine map of HU ``[low, high]`` to ``[0, 1]``.

    ``clip`` cuts values outside the window in :meth:`to_unit`, as the papers' narrow windows do
    (dcswgan: [-300, 300] HU); without it the map is exact in both directions. Works on numpy and
    jax arrays alike: integers become float32, floats keep their type.
    """

    low: float = -1024.0
    high: float = 3072.0
    clip: bool = False

    def __post_init__(self):
        if not self.high > self.low:
            raise UsageError(
                f"window [{self.low}, {self.high}] HU is empty: the upper end must lie above the "
                "lower one"
            )

    @property
    def width(self) -> float:
        """The HU that correspond to 1.0 in network units."""
        return self.high - self.low

    def to_unit(self, hu):
        """HU → network units, any shape."""
        if hu.dtype.kind in "iu":
            hu = hu.astype("float32")
        unit = (hu - self.low) * (1.0 / self.width)
        return unit.clip(0.0, 1.0) if self.clip else unit

    def to_hu(self, unit):
        """Network units → HU, any shape."""
        return unit * self.width + self.low

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}] HU" + (" clipped" if self.clip else "")


def whole_hu(hu, low: int = -32768, high: int = 32767) -> np.ndarray:
    """HU of any shape rounded half to even and cut to [``low``, ``high``], int16."""
    return np.clip(np.rint(hu), low, high).astype(np.int16)


# The windows that the papers name or imply (docs/why_psnrs_differ.md).
FULL = Window(-1024.0, 3072.0)
DCSWGAN = Window(-300.0, 300.0, clip=True)
CASCADE = Window(-1024.0, 3071.0)
HRNET = Window(-1000.0, 1000.0)
ABDOMEN = Window(-160.0, 240.0, clip=True)
LUNG = Window(-1350.0, 150.0, clip=True)
