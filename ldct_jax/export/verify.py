"""Images on which an export proves that it is the network it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from ldct_jax.errors import LdctError, UsageError
from ldct_jax.models import onednn

RANDOM_SIDES = ((64, 80), (96, 64))
MAX_REAL_SLICES = 4
SERIES_NOISE_HU = 25.0
"""A series' noise for which an export that takes one is verified."""


def images(size: tuple[int, int] | None, check: Path | None) -> dict[str, np.ndarray]:
    """Named stacks (B, H, W) float32 HU: random ones and real CT.

    Real slices are those of ``check`` (DICOM or .npy), or else the small CT image that comes with
    pydicom. With a fixed ``size`` they are cut or continued by reflection to it.
    """
    rng = np.random.default_rng(0)
    sides = (size, size) if size else RANDOM_SIDES
    found = {
        f"random {b}x{h}x{w}": rng.normal(-300, 500, (b, h, w)).astype(np.float32)
        for b, (h, w) in zip((1, 2), sides, strict=True)
    }
    found["real CT"] = _fit(_real(check), size)
    return found


def largest_difference(a, b) -> float:
    """The largest absolute difference, infinite where either holds NaN or shapes differ."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a.astype(np.float64) - b).max())


def compare(
    expected: Callable,
    exported: Callable,
    stacks: dict[str, np.ndarray],
    *,
    max_hu: float,
    with_noise: bool = False,
) -> dict[str, float]:
    """Largest differences in HU by name; raises LdctError where one exceeds ``max_hu``.

    ``with_noise``: both take the series' noise too and return the slices' (:meth:`Source.with_noise
    <ldct_jax.export.source.Source.with_noise>`); they are compared with and without it.
    """

    def differ(x) -> float:
        if not with_noise:
            return largest_difference(expected(x), exported(x))
        pairs = [
            (a, b)
            for noise in (0.0, SERIES_NOISE_HU)
            for a, b in zip(*(f(x, np.float32(noise)) for f in (expected, exported)), strict=True)
        ]
        return max(largest_difference(a, b) for a, b in pairs)

    # An export has XLA's convolutions, and so has what it is compared with.
    with onednn.disabled():
        differences = {name: differ(x) for name, x in stacks.items()}
    worst = max(differences, key=differences.get)
    if differences[worst] > max_hu:
        raise LdctError(
            f"the export differs from the network by {differences[worst]:.3g} HU on {worst}, more "
            f"than {max_hu:g}: nothing was written; try a fixed --size, or another --format"
        )
    return differences


def on_cpu():
    """A context in which jax computes on the CPU, whose arithmetic repeats to the bit."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        raise LdctError(
            "an export is verified on the CPU, which jax may not use here: unset JAX_PLATFORMS"
        ) from None


def _real(check: Path | None) -> np.ndarray:
    from ldct_jax.dicom.load import load
    from ldct_jax.dicom.survey import found_series

    if check is None:
        from pydicom.data import get_testdata_file

        check = Path(get_testdata_file("CT_small.dcm", download=False))
    elif not check.exists():
        raise UsageError(f"--check {check} doesn't exist: give DICOM or .npy slices in HU")
    if check.suffix == ".npy":
        hu = np.load(check, allow_pickle=False)
        hu = hu[None] if hu.ndim == 2 else hu
    else:
        hu = load(found_series(check).series[0]).hu
    middle = len(hu) // 2
    return hu[max(0, middle - MAX_REAL_SLICES // 2) :][:MAX_REAL_SLICES]


def _fit(hu: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    hu = np.asarray(hu, np.float32)
    if size is None:
        return hu
    more = [(0, max(0, s - n)) for s, n in zip(size, hu.shape[1:], strict=True)]
    return np.pad(hu, [(0, 0), *more], mode="symmetric")[:, : size[0], : size[1]]
