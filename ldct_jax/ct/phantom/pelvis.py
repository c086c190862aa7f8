"""A random pelvis at the level of the hip joints: the widest bone that X-rays meet in a trunk.

z = 0 lies at the centres of the femoral heads. Rays from side to side pass both hips, and at low
dose their photons run out first: this is where streaks are seen.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.ct.phantom.canvas import WHOLE, Canvas, Capsule, Ellipsoid, waves
from ldct_jax.ct.phantom.lesions import LesionKind
from ldct_jax.ct.phantom.torso import Habitus, Torso


class Pelvis:
    """One patient's hips; everything random is drawn here, ``paint`` is deterministic."""

    z_range = (-8.0, 14.0)
    lesion_kinds = (LesionKind("muscle", (4.0, 9.0), ((-40, -20), (25, 50)), 2),)

    def __init__(self, rng: np.random.Generator):
        body = Habitus.draw(rng, chest=False)
        half_width = float(np.clip(1.05 * body.half_width, 156, 181))
        self.body = body = dataclasses.replace(
            body,
            half_width=half_width,
            half_depth=half_width * rng.uniform(0.60, 0.67),
            wall=(7.0, 4.0, 4.0),
        )
        self.hip = np.array([rng.uniform(80, 87), rng.uniform(-8, 0), 0.0])
        self.head = rng.uniform(21.5, 25.5)
        self.bladder = Ellipsoid(
            (rng.normal() * 3, -26, 14),
            (rng.uniform(28, 44), rng.uniform(22, 32), 40),
            0,
            waves(rng, 0.04),
        )
        self.urine = rng.uniform(0, 14)
        self.middle = Ellipsoid((0, 10, -2), (24, 15, 28), 0, waves(rng, 0.05))
        self.rectum = Ellipsoid((rng.normal() * 4, 44, 0), (17, 14, 900), 0, waves(rng, 0.08))
        self.gas = rng.uniform(3, 9)
        self.muscles = self._muscles(rng)

    def _muscles(self, rng) -> list[Ellipsoid]:
        """Those of the right side, mirrored when painted; outlines differ from side to side."""
        w, d = self.body.half_width, self.body.half_depth
        x, y, _ = self.hip
        return [
            Ellipsoid((side * cx, cy, 0), (rx, ry, 900), side * angle, waves(rng, 0.04))
            for side in (-1, 1)
            for cx, cy, rx, ry, angle in (
                (0.52 * w, 0.52 * d, 0.38 * w, 0.24 * d, -0.35),  # gluteus maximus
                (x + 40, y - 12, 17, 34, 0.15),  # gluteus medius and minimus
                (x - 8, y - 44, 20, 14, 0.2),  # iliopsoas
                (x + 22, y - 50, 14, 11, 0.3),  # rectus femoris, tensor fasciae latae
                (x - 33, y + 16, 8, 30, 0.12),  # obturator internus
                (x + 4, y + 44, 26, 9, -0.3),  # piriformis, quadratus
            )
        ]

    def paint(self, canvas: Canvas) -> None:
        body = self.body
        torso = Torso(canvas, body)
        canvas.paint(WHOLE, torso.within, -102, "fat", coarse=6, grain=5)
        under_skin = canvas.soft(5.0 - torso.depth, canvas.pixel_mm)
        streaks = {"grain": 1.5 * body.fat_streaks, "coarse": 1.2 * body.fat_streaks}
        for muscle in self.muscles:
            muscle.paint(canvas, body.muscle_hu, "muscle", within=under_skin, **streaks)
        self._paint_organs(canvas)
        for side in (-1, 1):
            self._paint_hip(canvas, side)
            self._paint_vessels(canvas, side)
        sacrum = Ellipsoid((0, 0.62 * body.half_depth, 62), (44, 20, 66))
        self._bone(canvas, sacrum)
        torso.paint_table()

    def _paint_organs(self, canvas: Canvas) -> None:
        enhanced = 30 * self.body.iodine
        self.middle.paint(canvas, 42 + enhanced, "gland", coarse=6, grain=4)
        self.bladder.paint(canvas, 35 + enhanced, "gut wall")
        self.bladder.paint(canvas, self.urine, "gut content", grow_mm=-3, fine=2)
        self.rectum.paint(canvas, 38 + enhanced, "gut wall", grain=5)
        self.rectum.paint(canvas, 30, "gut content", grow_mm=-4, coarse=15)
        gas = Ellipsoid((self.rectum.centre[0], 40, 0), (self.gas, 0.7 * self.gas, 900))
        gas.paint(canvas, -950, "gut gas")

    def _bone(self, canvas: Canvas, shape, shell_mm: float = 2.2) -> None:
        density = self.body.bone_density
        shape.paint(canvas, 620 + density, "cortical bone", fine=30)
        shape.paint(
            canvas, 90 + density, "spongy bone", grow_mm=-shell_mm, fine=45, grain=30, coarse=20
        )

    def _paint_hip(self, canvas: Canvas, side: int) -> None:
        """Socket first, then the joint's gap, then head, neck and trochanter."""
        x, y, z = self.hip

        def at(dx, dy, dz=0.0):
            return (side * (x + dx), y + dy, z + dz)

        for start, end, r0, r1 in (
            (at(-26, -24, 20), at(-6, -32, -18), 10, 8),  # anterior column
            (at(-30, 26, 22), at(-4, 33, -20), 11, 10),  # posterior column
            (at(-26, -26), (side * 10, y - 48, -26), 8, 8),  # upper branch of the pubis
        ):
            self._bone(canvas, Capsule(start, end, r0, r1), 2.4)
        self._bone(canvas, Ellipsoid(at(-31, 2), (5.0, 27, 44)), 2.0)  # the plate between them
        gap = Ellipsoid(at(0, 0), (self.head + 3.2,) * 3)
        gap.paint(canvas, 55, "muscle")
        self._bone(canvas, Capsule(at(8, 3, -3), at(40, 16, -14), 0.62 * self.head, 15), 2.8)
        self._bone(canvas, Ellipsoid(at(44, 20, -10), (14, 21, 30), side * -0.25), 2.0)
        self._bone(canvas, Ellipsoid(at(0, 0), (self.head,) * 3), 1.6)

    def _paint_vessels(self, canvas: Canvas, side: int) -> None:
        body, (x, y, _) = self.body, self.hip
        for dx, dy, radius, hu in (
            (-24, -56, 4.6, 42 + 150 * body.iodine),
            (-35, -53, 5.8, 42 + 110 * body.iodine),
        ):
            place = (side * (x + dx), y + dy)
            vessel = Capsule((*place, -300.0), (*place, 300.0), radius, radius)
            vessel.paint(canvas, hu, "vessel")
