"""A random abdomen: organs, vessels and gut inside the trunk of :mod:`ldct_jax.ct.phantom.torso`.

z = 0 lies at the renal hilum; the lung bases begin near z = 75 mm and iliac loops near -120 mm.
"""

from __future__ import annotations

import numpy as np

from ldct_jax.ct.phantom.abdominal_vessels import AbdominalVessels
from ldct_jax.ct.phantom.canvas import WHOLE, Canvas, Ellipsoid, Tube, waves
from ldct_jax.ct.phantom.gut import Stomach, colon, small_bowel
from ldct_jax.ct.phantom.lesions import LesionKind
from ldct_jax.ct.phantom.liver import Liver
from ldct_jax.ct.phantom.torso import Habitus, Torso
from ldct_jax.ct.phantom.vessels import Bundle, chain, moved, smooth_path


class Abdomen:
    """One patient's abdomen; everything random is drawn here, ``paint`` is deterministic."""

    z_range = (-75.0, 85.0)
    lesion_kinds = (
        LesionKind("liver", (3.0, 12.0), ((-50, -15), (-25, -10), (15, 35)), 4),
        LesionKind("spleen", (3.0, 8.0), ((-40, -15),), 1),
        LesionKind("kidney", (3.0, 7.0), ((-110, -40), (-40, -15)), 2),
        LesionKind("pancreas", (3.0, 6.0), ((-40, -20),), 1),
    )

    def __init__(self, rng: np.random.Generator):
        self.body = body = Habitus.draw(rng, chest=False)
        self.a = a = body.half_width - body.fat[1] - body.wall[1]
        self.front = front = -(body.half_depth - body.fat[0] - body.wall[0])
        k = body.iodine
        steatosis = rng.uniform(0, 25) if rng.uniform() < 0.3 else 0
        self.hu = {
            "liver": 57 + 52 * k - steatosis + rng.normal() * 4,
            "spleen": 48 + 68 * k + rng.normal() * 4,
            "cortex": 34 + 150 * k + rng.normal() * 8,
            "medulla": 30 + rng.uniform(90, 150) * k,
            "pancreas": 42 + 55 * k + rng.normal() * 5,
            "artery": 42 + rng.uniform(95, 140) * k,
            "vein": 42 + rng.uniform(85, 125) * k,
            "hepatic vein": 40 + rng.uniform(85, 120) * k,
        }
        self.liver = Liver(rng, a, front, body.spine_y)
        self._left_side(rng, a)
        self._kidneys(rng)
        self.vessels = AbdominalVessels(
            rng,
            spine_y=body.spine_y,
            hilum=self.liver.hilum,
            sinuses=[(side, np.asarray(sinus.centre)) for side, _, sinus, _ in self.kidneys],
            a=a,
            front=front,
        )
        self._pancreas(rng)
        self.stomach = Stomach.draw(rng, body)
        self.colon = colon(rng, body)
        self.bowel = small_bowel(rng, body)

    def _left_side(self, rng, a):
        self.spleen = Ellipsoid(
            (0.80 * a, 20 + rng.normal() * 6, 48 + rng.normal() * 8),
            (0.30 * a, 44 * rng.uniform(0.8, 1.15), 48 * rng.uniform(0.85, 1.2)),
            rng.uniform(0.1, 0.4),
            waves(rng, 0.05),
        )
        front, ys = self.front, self.body.spine_y
        self.below_lung = (
            Ellipsoid((0.50 * a, -2, 12), (0.60 * a, 92, 102), 0.0, waves(rng, 0.015)),
            Ellipsoid((-0.46 * a, -2, 18), (0.66 * a, 96, 104), 0.0, waves(rng, 0.015)),
            Ellipsoid((6, 0.70 * front, 90), (58, 42, 70), 0.1, waves(rng, 0.04)),  # heart's fat
            Ellipsoid((4, ys - 30, 0), (26, 34, 900), 0.0, waves(rng, 0.04)),  # crura, gullet
            Ellipsoid((0, ys, 0), (31, 26, 900)),
        )

    def _kidneys(self, rng):
        ys = self.body.spine_y
        self.kidneys = []
        for side in (-1, 1):
            centre = (
                side * (60 + rng.normal() * 4),
                ys - 2 + rng.normal() * 4,
                side * 8 + rng.normal() * 6,
            )
            radii = (
                26 * rng.uniform(0.9, 1.1),
                30 * rng.uniform(0.9, 1.1),
                54 * rng.uniform(0.9, 1.1),
            )
            lean = (-side * 0.22, -0.12)
            kidney = Ellipsoid(centre, radii, -side * 0.55, waves(rng, 0.03), lean)
            sinus = Ellipsoid(
                (centre[0] - side * 13, centre[1] - 9, centre[2]),
                (11, 9, 27),
                -side * 0.55,
                waves(rng, 0.2),
                lean,
            )
            self.kidneys.append((side, kidney, sinus, rng.uniform(0, 2 * np.pi)))

    def _pancreas(self, rng):
        ys = self.body.spine_y
        points = [
            (-34, ys - 58, -14),
            (-26, ys - 62, 4),
            (0, ys - 70, 12),
            (30, ys - 64, 20),
            (62, ys - 48, 30),
            (0.6 * self.a, ys - 36, 38),
        ]
        path = smooth_path(rng, points, 4.0, 2.5)
        along = np.linspace(0, 1, len(path))
        radii = (13 - 5 * along) * rng.uniform(0.8, 1.1) * (1 + 0.12 * np.sin(along * 60))
        self.pancreas = Tube(path, radii)
        duodenum = [
            (-38, ys - 72, 16),
            (-52, ys - 60, 4),
            (-54, ys - 52, -30),
            (-30, ys - 46, -48),
            (10, ys - 47, -46),
            (30, ys - 52, -30),
        ]
        path = smooth_path(rng, duodenum, 4.0, 3.0)
        self.duodenum = Tube(path, np.full(len(path), rng.uniform(9, 12.5)))
        adrenals = []
        for side in (-1, 1):
            top = (side * 33, ys - 26, 50)
            for dx, dy in ((-6, 15), (8, 13)):
                adrenals += chain([top, moved(top, side * dx, dy, -6)], 2.3)
        self.adrenals = Bundle(adrenals)

    def paint(self, canvas: Canvas) -> None:
        body, hu = self.body, self.hu
        torso = Torso(canvas, body)
        within = torso.within
        canvas.paint(WHOLE, within, -104, "fat", coarse=5, grain=5)
        for side in (-1, 1):  # psoas grows downwards
            size = np.clip(13 - 0.10 * canvas.z, 5, 24)
            psoas = Ellipsoid(
                (side * (26 + 0.55 * size), body.spine_y + 4, 0),
                (0.8 * size, size, 900),
                side * 0.3,
            )
            psoas.paint(canvas, body.muscle_hu, "muscle", grain=body.fat_streaks)
            if canvas.z < 10:
                square = Ellipsoid((side * 62, body.spine_y + 26, 0), (22, 8, 900), side * 0.5)
                square.paint(canvas, body.muscle_hu, "muscle", grain=body.fat_streaks)
        self.vessels.mesentery.paint(canvas, hu["vein"] - 25, "vessel", within=within)
        for loop in self.bowel:
            loop.paint(canvas, within)
        self._soft_tube(canvas, self.duodenum, hu["pancreas"] - 10, "gut wall", within, lumen=15)
        for part in self.colon:
            part.paint(canvas, within)
        self._paint_kidneys(canvas)
        self._soft_tube(canvas, self.pancreas, hu["pancreas"], "pancreas", within)
        self.adrenals.paint(canvas, 40 + 35 * body.iodine, "gland", within=within)
        self.stomach.paint(canvas, within)
        self.spleen.paint(canvas, hu["spleen"], "spleen", within=within, grain=3, coarse=2)
        self.liver.paint(canvas, within, hu)
        self.vessels.paint(canvas, within, hu)
        self._paint_lung_bases(canvas, torso)
        torso.paint_spine()
        torso.paint_ribs(top_z=285, last=11, spacing=24.0, slope=135.0)
        torso.paint_table()

    def _soft_tube(self, canvas, tube, hu, label, within, lumen=None):
        box, distance = tube.field(canvas)
        if box is None:
            return
        if lumen is None:  # lobulated, with fat between the lobules
            distance = distance + 1.3 * canvas.textures["coarse"][box]
        share = np.minimum(canvas.soft(distance, 1.3 * canvas.pixel_mm), within[box])
        canvas.paint(box, share, hu, label, grain=9, coarse=6)
        if lumen is not None:
            inner = canvas.soft(distance + 2.4, canvas.pixel_mm)
            canvas.paint(box, np.minimum(inner, share), lumen, "gut content", coarse=8)

    def _paint_kidneys(self, canvas):
        for _, kidney, sinus, phase in self.kidneys:
            box = kidney.box(canvas)
            if box is None:
                continue
            f, delta = kidney.field(canvas, box)
            share = canvas.soft(f, delta)
            canvas.paint(box, share, self.hu["cortex"], "kidney", grain=5)
            u, v = canvas.x[box] - sinus.centre[0], canvas.y[box] - sinus.centre[1]
            spokes = 0.20 + 0.13 * np.cos(7 * np.arctan2(v, u) + phase + canvas.z / 6)
            medulla = canvas.soft(f + spokes, delta + 0.06)
            canvas.paint(box, np.minimum(medulla, share), self.hu["medulla"], "kidney", grain=5)
            box = sinus.box(canvas)
            if box is not None:
                canvas.paint(box, sinus.alpha(canvas, box), -85, "fat", coarse=25)
                pelvis = canvas.soft(sinus.field(canvas, box)[0] + 0.62, 0.2)
                canvas.paint(box, pelvis, 12, "gut content")

    def _paint_lung_bases(self, canvas, torso):
        if canvas.z < 40:
            return
        share = torso.within * canvas.soft(-(torso.inside - 1.5), canvas.pixel_mm)
        for solid in self.below_lung:
            box = solid.box(canvas)
            if box is not None:
                share[box] = np.minimum(share[box], 1 - solid.alpha(canvas, box))
        canvas.paint(WHOLE, share.astype(np.float32), -850, "lung", fine=28, grain=18, coarse=15)
