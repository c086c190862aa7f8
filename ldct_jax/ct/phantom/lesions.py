"""Lesions of known place, size and contrast, for contrast-to-noise and detectability."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from ldct_jax.ct.phantom.canvas import LABEL


@dataclasses.dataclass(frozen=True)
class LesionKind:
    """How lesions of one organ are drawn: mm and HU ranges, and how many a patient has at most."""

    organ: str
    radius_mm: tuple[float, float]
    contrast_hu: tuple[tuple[float, float], ...]  # ranges, one of which is chosen
    max_count: int


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A ball of ``radius_mm`` that differs from its surroundings by ``contrast_hu``.

    ``centre``: (slice, row, column), fractional indices into the patient's volume. Within a partly
    covered boundary voxel the contrast is reduced by partial volume.
    """

    centre: tuple[float, float, float]
    radius_mm: float
    contrast_hu: float
    organ: str


def draw_lesions(rng, tissue, heights, pixel_mm, slice_mm, kinds) -> tuple[Lesion, ...]:
    """Places in the organs' interior where a whole ball has room, found on the label maps."""
    lesions: list[Lesion] = []
    step = max(1, round(1.5 / pixel_mm))  # searching on a 1.5 mm grid is enough
    for kind in kinds:
        for _ in range(int(rng.integers(1, kind.max_count + 1))):
            radius = float(rng.uniform(*kind.radius_mm))
            low, high = kind.contrast_hu[rng.integers(len(kind.contrast_hu))]
            contrast = float(rng.uniform(low, high))
            k = int(rng.integers(len(heights)))
            plane = tissue[k, ::step, ::step]
            organ = plane == LABEL[kind.organ]
            host = ndimage.binary_closing(organ, iterations=max(1, round(4 / (step * pixel_mm))))
            room = ndimage.distance_transform_edt(host) * step * pixel_mm
            places = np.argwhere((room > radius + 2.5) & organ)
            if len(places) == 0:
                continue
            row, column = places[rng.integers(len(places))] * step
            centre = (float(k), float(row), float(column))
            if all(_apart(centre, radius, other, pixel_mm, slice_mm) for other in lesions):
                lesions.append(Lesion(centre, radius, contrast, kind.organ))
    return tuple(lesions)


def _apart(centre, radius, other, pixel_mm, slice_mm) -> bool:
    step = np.array([slice_mm, pixel_mm, pixel_mm])
    distance = np.linalg.norm((np.array(centre) - other.centre) * step)
    return bool(distance > radius + other.radius_mm + 4.0)


def paint_lesions(hu, tissue, table, heights, pixel_mm, slice_mm, rng) -> np.ndarray:
    """Add the lesions to ``hu`` in place, where their organ is; (N, H, W) labels, 0 = none."""
    labels = np.zeros(hu.shape, np.uint8)
    for number, lesion in enumerate(table, start=1):
        k, row, column = lesion.centre
        reach = int(lesion.radius_mm / pixel_mm) + 3
        rows = slice(max(int(row) - reach, 0), int(row) + reach + 1)
        columns = slice(max(int(column) - reach, 0), int(column) + reach + 1)
        near = int(lesion.radius_mm / slice_mm) + 2
        for i in range(max(int(k) - near, 0), min(int(k) + near + 1, len(hu))):
            part = (i, rows, columns)
            here = tissue[part]
            y = (np.arange(rows.start, rows.start + here.shape[0]) - row) * pixel_mm
            x = (np.arange(columns.start, columns.start + here.shape[1]) - column) * pixel_mm
            z = (i - k) * slice_mm
            distance = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2 + z * z) + 1e-6
            delta = (pixel_mm * np.hypot(x[None, :], y[:, None]) + slice_mm * abs(z)) / distance
            share = np.clip(
                0.5 - (distance - lesion.radius_mm) / np.maximum(delta, 0.5 * pixel_mm), 0, 1
            )
            host = here == LABEL[lesion.organ]
            if not host.any():
                continue
            # A vessel inside a lesion gives way to it: the lesion lies in plain parenchyma.
            inside_organ = ndimage.binary_closing(np.pad(host, 6, mode="edge"), iterations=5)
            inside_organ = inside_organ[6:-6, 6:-6]
            plain = float(np.median(hu[part][host]))
            vessel = inside_organ & ~host
            level = np.where(vessel, plain, hu[part])
            share = (share * inside_organ).astype(np.float32)
            hu[part] += share * (level + lesion.contrast_hu - hu[part])
            labels[part][share > 0.5] = number
    return labels
