"""The scanner's geometry: where the rays of a sinogram run.

The image plane has its origin at the rotation centre, x to the right and y upwards, mm. A ray is
the line n(θ)·(x, y) = s with n(θ) = (cos θ, sin θ). Images are (H, W) with pixel (row, column)
centred at x = (column − (W−1)/2)·pixel_mm, y = ((H−1)/2 − row)·pixel_mm.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class FanBeam:
    """A third-generation fan; the defaults are a Siemens detector row's.

    Args:
      source_centre_mm, source_detector_mm: distances from the source.
      n_detectors: channels, ``detector_mm`` apart on an arc around the source.
      detector_offset: shift of the detector's middle in channels; a quarter makes opposite views
        interleave.
      n_views: over a full turn.

    View β has its source at source_centre_mm · (−sin β, cos β), and its ray at fan angle γ is
    θ = β + γ, s = source_centre_mm · sin γ.
    """

    source_centre_mm: float = 595.0
    source_detector_mm: float = 1085.6
    n_detectors: int = 736
    detector_mm: float = 1.2858
    detector_offset: float = 0.25
    n_views: int = 1152

    def __post_init__(self):
        if self.n_detectors < 2 or self.n_views < 1 or not self.detector_mm > 0:
            raise UsageError(
                f"{self.n_views} views of {self.n_detectors} channels {self.detector_mm} mm apart: "
                "a geometry needs at least one view, two channels and positive lengths"
            )
        if not 0 < self.source_centre_mm < self.source_detector_mm:
            raise UsageError(
                f"source_centre_mm={self.source_centre_mm}, source_detector_mm="
                f"{self.source_detector_mm}: the centre lies between source and detector"
            )
        if np.abs(self.fan_angles).max() >= np.pi / 2:
            raise UsageError("the fan opens to 180°: use fewer or narrower detector channels")

    @property
    def channels(self) -> np.ndarray:
        """(D,) detector coordinates in channels, 0 on the central ray."""
        return np.arange(self.n_detectors) - (self.n_detectors - 1) / 2 + self.detector_offset

    @property
    def fan_angles(self) -> np.ndarray:
        """(D,) γ, radians."""
        return self.channels * self.detector_mm / self.source_detector_mm

    @property
    def views(self) -> np.ndarray:
        """(V,) β, radians."""
        return np.arange(self.n_views) * (2 * np.pi) / self.n_views

    @property
    def centre_pitch_mm(self) -> float:
        """Distance of neighbouring rays at the rotation centre, mm."""
        return self.detector_mm * self.source_centre_mm / self.source_detector_mm

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """θ (V, D) radians and s (V, D) mm of every ray."""
        theta = self.views[:, None] + self.fan_angles[None, :]
        s = self.source_centre_mm * np.sin(self.fan_angles)[None, :]
        return theta, np.broadcast_to(s, theta.shape)
