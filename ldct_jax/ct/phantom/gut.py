"""Hollow organs: stomach, colon and small bowel with wall, content and gas-fluid levels."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.ct.phantom.canvas import Canvas, Ellipsoid, Tube, waves
from ldct_jax.ct.phantom.vessels import smooth_path


@dataclasses.dataclass(frozen=True)
class Bowel:
    """A tube of gut. ``level`` is the height of its gas (mm, anterior is negative), per point."""

    tube: Tube
    wall_mm: float
    wall_hu: float
    content_hu: float
    gas: float  # share of the lumen's height filled with gas, from the front
    stool: bool

    def paint(self, canvas: Canvas, within) -> None:
        box, distance = self.tube.field(canvas)
        if box is None:
            return
        soft = canvas.pixel_mm
        share = np.minimum(canvas.soft(distance, soft), within[box])
        canvas.paint(box, share, self.wall_hu, "gut wall", grain=8)
        lumen = np.minimum(canvas.soft(distance + self.wall_mm, soft), share)
        if self.stool:
            canvas.paint(box, lumen, self.content_hu, "gut content", coarse=55, grain=45)
            mottle = np.clip(canvas.textures["coarse"][box] - 0.7, 0, 0.6) / 0.6
            canvas.paint(box, lumen * mottle, -700, "gut gas")
        else:
            canvas.paint(box, lumen, self.content_hu, "gut content", coarse=6)
        if self.gas > 0 and lumen.max() > 0.5:
            self._paint_gas(canvas, box, lumen)

    def _paint_gas(self, canvas, box, lumen):
        """Gas collects in front: everything above one level in each connected cross-section."""
        from scipy import ndimage

        parts, n = ndimage.label(lumen > 0.5)
        for i, where in enumerate(ndimage.find_objects(parts), start=1):
            if where is None or i > n:
                continue
            y = canvas.y[box][where]
            own = ndimage.binary_dilation(parts[where] == i)
            top, bottom = y[own].min(), y[own].max()
            level = top + self.gas * (bottom - top)
            share = canvas.soft(y - level, canvas.pixel_mm) * lumen[where] * own
            inner = (
                slice(box[0].start + where[0].start, box[0].start + where[0].stop),
                slice(box[1].start + where[1].start, box[1].start + where[1].stop),
            )
            canvas.paint(inner, share.astype(np.float32), -985, "gut gas")


def colon(rng, body) -> list[Bowel]:
    """Ascending, transverse and descending colon with haustra."""
    a, b = body.half_width, body.half_depth
    reach = a - body.fat[1] - body.wall[1]
    front = -(b - body.fat[0] - body.wall[0])
    droop = rng.uniform(-50, 5)
    ways = (
        [(-0.72 * reach, 18, -170), (-0.74 * reach, 22, -90), (-0.72 * reach, 10, -30)],
        [
            (-0.72 * reach, 0, -25),
            (-0.55 * reach, front + 32, droop - 5),
            (0, front + 24, droop - 25),
            (0.5 * reach, front + 32, droop + 10),
            (0.75 * reach, 0, 35),
        ],
        [
            (0.77 * reach, 5, 38),
            (0.79 * reach, 30, -20),
            (0.76 * reach, 28, -90),
            (0.70 * reach, 15, -170),
        ],
    )
    parts = []
    for points, radius in zip(ways, (22, 18, 14), strict=True):
        path = smooth_path(rng, points, 4.0, 5.0)
        along = np.arange(len(path)) * 4.0
        haustra = 1 + 0.16 * np.abs(np.sin(np.pi * along / rng.uniform(24, 34) + rng.uniform(0, 3)))
        radii = radius * rng.uniform(0.75, 1.1) * haustra
        stool = rng.uniform() < 0.55
        parts.append(
            Bowel(
                Tube(path, radii),
                wall_mm=rng.uniform(1.6, 2.6),
                wall_hu=55 + 30 * body.iodine,
                content_hu=rng.uniform(20, 60),
                gas=rng.uniform(0.15, 0.9) if not stool else rng.uniform(0, 0.4),
                stool=stool,
            )
        )
    return parts


def small_bowel(rng, body) -> list[Bowel]:
    """Loops in the lower and left middle abdomen."""
    a = body.half_width - body.fat[1] - body.wall[1]
    front = -(body.half_depth - body.fat[0] - body.wall[0])
    oral = rng.uniform() < 0.15
    loops = []
    for _ in range(rng.integers(34, 48)):
        centre = np.array(
            [rng.uniform(-0.5, 0.62) * a, rng.uniform(front + 28, 8), rng.uniform(-170, 25)]
        )
        if centre[2] > -40 and centre[0] < 0.15 * a:
            continue  # there lie duodenum and pancreas
        points = [centre + rng.normal(size=3) * (26, 13, 12) for _ in range(4)]
        path = smooth_path(rng, points, 3.5, 1.0)
        radius = rng.uniform(7.0, 12.5)
        folds = 1 + 0.06 * np.sin(2 * np.pi * np.arange(len(path)) * 3.5 / 9)
        loops.append(
            Bowel(
                Tube(path, radius * folds),
                wall_mm=rng.uniform(1.8, 3.2),
                wall_hu=58 + 38 * body.iodine,
                content_hu=rng.uniform(120, 260)
                if oral
                else rng.choice([rng.uniform(8, 30), 45 + 25 * body.iodine]),
                gas=rng.uniform(0.2, 0.6) if rng.uniform() < 0.2 else 0.0,
                stool=False,
            )
        )
    return loops


@dataclasses.dataclass(frozen=True)
class Stomach:
    """Fundus and body as two merged ellipsoids, half full."""

    parts: tuple[Ellipsoid, ...]
    wall_hu: float
    content_hu: float
    level_y: float
    crumbs: float

    @staticmethod
    def draw(rng, body) -> Stomach:
        a = body.half_width - body.fat[1] - body.wall[1]
        front = -(body.half_depth - body.fat[0] - body.wall[0])
        fill = rng.uniform(0.7, 1.15)
        fundus = Ellipsoid(
            (0.52 * a, 0.18 * front, 62), (40 * fill, 34 * fill, 42), 0.5, waves(rng, 0.05)
        )
        body_part = Ellipsoid(
            (0.36 * a, 0.62 * front, 22),
            (44 * fill, 22 * fill, 48),
            rng.uniform(-0.5, -0.1),
            waves(rng, 0.06),
            (0.25, 0.12),
        )
        return Stomach(
            (fundus, body_part),
            wall_hu=70 + 35 * body.iodine,
            content_hu=rng.uniform(5, 45),
            level_y=float(0.62 * front + rng.uniform(-14, 8)),
            crumbs=rng.uniform(3, 35),
        )

    def paint(self, canvas: Canvas, within) -> None:
        for part in self.parts:
            part.paint(canvas, self.wall_hu, "gut wall", within=within, grain=8)
        for part in self.parts:
            box = part.box(canvas)
            if box is None:
                continue
            lumen = np.minimum(part.alpha(canvas, box, -4.0), within[box])
            canvas.paint(box, lumen, self.content_hu, "gut content", coarse=self.crumbs, grain=5)
            gas = lumen * canvas.soft(canvas.y[box] - self.level_y, canvas.pixel_mm)
            canvas.paint(box, gas, -985, "gut gas")
