"""Scanner geometries: where the rays of a sinogram run.

The image plane has its origin at the rotation centre, x to the right and y upwards, mm. A ray is
the line n(θ)·(x, y) = s with n(θ) = (cos θ, sin θ): every geometry is a table of (θ, s), so one
projector serves them all. Images are (H, W) with pixel (row, column) centred at
x = (column − (W−1)/2)·pixel_mm, y = ((H−1)/2 − row)·pixel_mm.
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
      n_views: over ``arc`` radians (2π for the filtered back-projection) from ``start``.

    View β has its source at source_centre_mm · (−sin β, cos β), and its ray at fan angle γ is
    θ = β + γ, s = source_centre_mm · sin γ.
    """

    source_centre_mm: float = 595.0
    source_detector_mm: float = 1085.6
    n_detectors: int = 736
    detector_mm: float = 1.2858
    detector_offset: float = 0.25
    n_views: int = 1152
    arc: float = 2 * np.pi
    start: float = 0.0

    def __post_init__(self):
        _check(self.n_detectors, self.n_views, self.detector_mm, self.arc)
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
        return self.start + np.arange(self.n_views) * self.arc / self.n_views

    @property
    def centre_pitch_mm(self) -> float:
        """Distance of neighbouring rays at the rotation centre, mm."""
        return self.detector_mm * self.source_centre_mm / self.source_detector_mm

    @property
    def field_of_view_mm(self) -> float:
        """Diameter of the circle that every view sees whole, mm."""
        return 2 * self.source_centre_mm * float(np.sin(np.abs(self.fan_angles[[0, -1]]).min()))

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """θ (V, D) radians and s (V, D) mm of every ray."""
        theta = self.views[:, None] + self.fan_angles[None, :]
        s = self.source_centre_mm * np.sin(self.fan_angles)[None, :]
        return theta, np.broadcast_to(s, theta.shape)


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Parallel rays: ``n_detectors`` of them, ``detector_mm`` apart, at ``n_views`` angles.

    The default pitch is half of the fan's at the centre. Edges are sharper than either; what lies
    above the detector's Nyquist frequency folds back and meets at mirrored places, where 0.7 mm
    give 5.9 HU in water with the sharp kernel. The fan's rays spread it, and half the pitch leaves
    0.02 HU, as no kernel but the plain ramp passes anything beyond its 1.4 /mm.
    """

    n_detectors: int = 1472
    detector_mm: float = 0.35235
    detector_offset: float = 0.0
    n_views: int = 1152
    arc: float = np.pi
    start: float = 0.0

    def __post_init__(self):
        _check(self.n_detectors, self.n_views, self.detector_mm, self.arc)

    @property
    def channels(self) -> np.ndarray:
        """(D,) detector coordinates in channels, 0 on the central ray."""
        return np.arange(self.n_detectors) - (self.n_detectors - 1) / 2 + self.detector_offset

    @property
    def views(self) -> np.ndarray:
        """(V,) θ, radians."""
        return self.start + np.arange(self.n_views) * self.arc / self.n_views

    @property
    def centre_pitch_mm(self) -> float:
        """Distance of neighbouring rays, mm."""
        return self.detector_mm

    @property
    def field_of_view_mm(self) -> float:
        """Diameter of the circle that every view sees whole, mm."""
        return 2 * float(np.abs(self.channels[[0, -1]]).min()) * self.detector_mm

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """θ (V, D) radians and s (V, D) mm of every ray."""
        shape = (self.n_views, self.n_detectors)
        theta = np.broadcast_to(self.views[:, None], shape)
        return theta, np.broadcast_to(self.channels * self.detector_mm, shape)


Geometry = FanBeam | Parallel


def _check(n_detectors, n_views, detector_mm, arc):
    if n_detectors < 2 or n_views < 1 or not detector_mm > 0 or not arc > 0:
        raise UsageError(
            f"{n_views} views of {n_detectors} channels {detector_mm} mm apart over {arc} rad: "
            "a geometry needs at least one view, two channels and positive lengths"
        )
