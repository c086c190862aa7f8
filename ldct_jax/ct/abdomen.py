"""A random abdomen: organs, vessels and gut inside the trunk of :mod:`ldct_jax.ct.torso`.

z = 0 lies at the renal hilum; the lung bases begin near z = 75 mm and iliac loops near -120 mm.
"""

from __future__ import annotations

import numpy as np

from ldct_jax.ct.canvas import LABEL, WHOLE, Canvas, Ellipsoid, Tube, waves
from ldct_jax.ct.gut import Stomach, colon, small_bowel
from ldct_jax.ct.lesions import LesionKind
from ldct_jax.ct.torso import Habitus, Torso
from ldct_jax.ct.vessels import Bundle, chain, smooth_path, tree


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
        self._liver(rng, a, front)
        self._left_side(rng, a, front)
        self._kidneys(rng, a)
        self._great_vessels(rng)
        self._pancreas(rng)
        self.stomach = Stomach.draw(rng, body)
        self.colon = colon(rng, body)
        self.bowel = small_bowel(rng, body)
        self._mesentery(rng)

    def _liver(self, rng, a, front):
        size = rng.uniform(0.9, 1.08)
        self.right_lobe = Ellipsoid(
            (-0.55 * a, -4, 42),
            (0.66 * a * size, 84 * size, 92 * size),
            0.15,
            waves(rng, 0.035),
            (0.05, 0.0),
        )
        self.left_lobe = Ellipsoid(
            (-0.02 * a, 0.60 * front, 58),
            (0.60 * a * size, 28 * size, 46),
            rng.uniform(-0.12, 0.12),
            waves(rng, 0.06),
        )
        # The visceral surface: liver gives way to the gut from the middle and below.
        self.hollow = Ellipsoid(
            (0.22 * a * rng.uniform(0.8, 1.2), 0.12 * front, -14 + rng.normal() * 6),
            (0.66 * a, 0.80 * abs(front), 92 * rng.uniform(0.9, 1.1)),
            rng.uniform(-0.3, 0.1),
            waves(rng, 0.03),
        )
        self.caudate = Ellipsoid((-16, self.body.spine_y - 48, 52), (17, 15, 26), 0.4)
        self.gallbladder = Ellipsoid(
            (-0.36 * a, 0.42 * front, rng.uniform(-12, 8)),
            (rng.uniform(11, 17), rng.uniform(13, 19), 26),
            rng.uniform(-0.6, 0.6),
            waves(rng, 0.05),
            (0.2, 0.15),
        )
        self.fissure = chain(
            [(-0.16 * a, 0.84 * front, 50), (-0.13 * a, 0.5 * front, 30), (-0.12 * a, 0.35 * front, 12)],
            4.0,
        )
        self.hilum = np.array([-0.24 * a, self.body.spine_y - 62, 24.0])

        def in_liver(p):
            for lobe in (self.right_lobe, self.left_lobe):
                c, s = np.cos(lobe.angle), np.sin(lobe.angle)
                d = p - np.asarray(lobe.centre)
                u = np.array([c * d[0] + s * d[1], c * d[1] - s * d[0], d[2]])
                if np.sum((u / (np.asarray(lobe.radii) - 7)) ** 2) < 1:
                    return p[0] > -a + 10
            return False

        start = self.hilum
        self.portal = Bundle(
            tree(rng, start, (-1, -0.25, 0.45), 5.6, length=30, least_radius=0.7, inside=in_liver)
            + tree(rng, start, (0.55, -0.9, 0.6), 4.4, length=26, least_radius=0.7, inside=in_liver)
        )
        cava = np.array([-21, self.body.spine_y - 30, 84.0])
        self.hepatic = Bundle(
            [
                part
                for way in ((-1, -0.1, -0.45), (-0.55, -0.9, -0.5), (0.4, -1, -0.4))
                for part in tree(
                    rng, cava, way, rng.uniform(4, 5.2), length=34, least_radius=0.7,
                    inside=lambda p: in_liver(p) or np.linalg.norm(p - cava) < 40,
                )
            ]
        )

    def _left_side(self, rng, a, front):
        self.spleen = Ellipsoid(
            (0.80 * a, 20 + rng.normal() * 6, 48 + rng.normal() * 8),
            (0.30 * a, 44 * rng.uniform(0.8, 1.15), 48 * rng.uniform(0.85, 1.2)),
            rng.uniform(0.1, 0.4),
            waves(rng, 0.05),
        )
        self.dome_left = Ellipsoid((0.50 * a, -2, 12), (0.60 * a, 92, 102))
        self.dome_right = Ellipsoid((-0.46 * a, -2, 18), (0.66 * a, 96, 104))

    def _kidneys(self, rng, a):
        ys = self.body.spine_y
        self.kidneys = []
        for side in (-1, 1):
            centre = (side * (60 + rng.normal() * 4), ys - 2 + rng.normal() * 4, side * 8 + rng.normal() * 6)
            radii = (26 * rng.uniform(0.9, 1.1), 30 * rng.uniform(0.9, 1.1), 54 * rng.uniform(0.9, 1.1))
            lean = (-side * 0.22, -0.12)
            kidney = Ellipsoid(centre, radii, -side * 0.55, waves(rng, 0.03), lean)
            sinus = Ellipsoid(
                (centre[0] - side * 13, centre[1] - 9, centre[2]),
                (11, 9, 27), -side * 0.55, waves(rng, 0.2), lean,
            )
            self.kidneys.append((side, kidney, sinus, rng.uniform(0, 2 * np.pi)))

    def _great_vessels(self, rng):
        ys = self.body.spine_y
        bend = rng.normal() * 5
        self.aorta_radius = rng.uniform(8.5, 12.5)
        aorta = smooth_path(
            rng, [(7, ys - 29, 150), (8 + bend, ys - 31, 40), (5 + bend, ys - 32, -60), (2, ys - 31, -110)], 8, 1.0
        )
        self.aorta = Bundle(chain(aorta, self.aorta_radius))
        self.iliac = Bundle(
            [c for side in (-1, 1) for c in chain([aorta[-1], (side * 18, ys - 30, -140), (side * 40, ys - 22, -190)], 6.0)]
        )
        cava = [(-21, ys - 30, 95), (-20, ys - 26, 40), (-22, ys - 25, -50), (-18, ys - 26, -115)]
        self.cava = Bundle(chain(smooth_path(rng, cava, 8, 1.0), rng.uniform(8.5, 12)))
        top = np.array([8 + bend, ys - 30 - self.aorta_radius, 20.0])
        self.arteries = [*chain([top, top + (-2, -16, -6), top + (-4, -22, -45), top + (-8, -24, -110)], [4, 3.6, 3.2, 2.2])]
        celiac = top + (0, 0, 16)
        self.arteries += chain([celiac, celiac + (2, -14, -2)], 3.8)
        self.arteries += chain(
            smooth_path(rng, [celiac + (2, -14, -2), celiac + (30, -10, 4), celiac + (60, 8, 8), (0.72 * self.a, 16, 46)], 6, 2), 2.5
        )
        self.arteries += chain([celiac + (2, -14, -2), celiac + (-22, -16, -3), self.hilum + (8, 0, -4)], 2.4)
        veins = []
        confluence = np.array([-10.0 + bend, ys - 58, 10])
        veins += chain([confluence + (-2, -2, -110), confluence + (-1, -1, -50), confluence, self.hilum], [4.4, 5, 6, 6.2])
        veins += chain(
            smooth_path(rng, [confluence, confluence + (30, -4, 6), confluence + (62, 16, 18), (0.70 * self.a, 20, 48)], 6, 2), 3.8
        )
        for side, kidney, sinus, _ in self.kidneys:
            hilum = np.asarray(sinus.centre)
            crossing = np.array([-14.0 if side < 0 else 0, ys - 26 if side < 0 else ys - 44, hilum[2] + 4])
            veins += chain([crossing, (crossing + hilum) / 2 + (0, -3, 2), hilum], [5, 4.6, 4.2])
            self.arteries += chain([(7 + bend, ys - 30, hilum[2] + 10), hilum + (-side * 12, 3, 6), hilum], 2.4)
        self.veins = Bundle(veins)
        self.arteries = Bundle(self.arteries)
        self.calcified = [
            Ellipsoid(
                (7 + bend + self.aorta_radius * np.cos(t), ys - 31 + self.aorta_radius * np.sin(t), rng.uniform(-100, 80)),
                (2.2, 1.4, 5), t + np.pi / 2,
            )
            for t in rng.uniform(0, 2 * np.pi, rng.integers(0, 9))
        ]

    def _pancreas(self, rng):
        ys = self.body.spine_y
        points = [(-34, ys - 58, -14), (-26, ys - 62, 4), (0, ys - 70, 12), (30, ys - 64, 20), (62, ys - 48, 30), (0.6 * self.a, ys - 36, 38)]
        path = smooth_path(rng, points, 4.0, 2.5)
        along = np.linspace(0, 1, len(path))
        radii = (13 - 5 * along) * rng.uniform(0.8, 1.1) * (1 + 0.12 * np.sin(along * 60))
        self.pancreas = Tube(path, radii)
        duodenum = [(-38, ys - 72, 16), (-52, ys - 60, 4), (-54, ys - 52, -30), (-30, ys - 46, -48), (10, ys - 47, -46), (30, ys - 52, -30)]
        self.duodenum = Tube(smooth_path(rng, duodenum, 4.0, 3.0), 11.0)
        self.duodenum = Tube(self.duodenum.points, np.full(len(self.duodenum.points), rng.uniform(9, 12.5)))
        self.adrenals = Bundle(
            [
                c
                for side in (-1, 1)
                for limb in ((-6, 15), (8, 13))
                for c in chain([(side * 33, ys - 26, 50), (side * 33 + side * limb[0], ys - 26 + limb[1], 44)], 2.3)
            ]
        )

    def _mesentery(self, rng):
        root = np.array([0.0, self.body.spine_y - 62, -40])
        parts = []
        for _ in range(9):
            way = (rng.uniform(-1, 1), rng.uniform(-1, -0.1), rng.uniform(-0.9, 0.2))
            parts += tree(rng, root, way, 2.6, length=30, least_radius=0.65, wander=0.25)
        for _ in range(14):  # omental and retroperitoneal twigs
            start = (rng.uniform(-0.7, 0.7) * self.a, rng.uniform(self.front * 0.8, 20), rng.uniform(-140, 20))
            parts += tree(rng, start, rng.normal(size=3), 1.6, length=24, least_radius=0.6)
        self.mesentery = Bundle(parts)

    # -- painting ----------------------------------------------------------------------------

    def paint(self, canvas: Canvas) -> None:
        body, hu = self.body, self.hu
        torso = Torso(canvas, body)
        within = torso.within
        canvas.paint(WHOLE, within, -104, "fat", coarse=5, grain=5)
        for side in (-1, 1):  # psoas grows downwards
            size = np.clip(13 - 0.10 * canvas.z, 5, 24)
            psoas = Ellipsoid((side * (26 + 0.55 * size), body.spine_y + 4, 0), (0.8 * size, size, 900), side * 0.3)
            psoas.paint(canvas, body.muscle_hu, "muscle", grain=body.fat_streaks)
            if canvas.z < 10:
                square = Ellipsoid((side * 62, body.spine_y + 26, 0), (22, 8, 900), side * 0.5)
                square.paint(canvas, body.muscle_hu, "muscle", grain=body.fat_streaks)
        self.mesentery.paint(canvas, hu["vein"] - 25, "vessel", within=within)
        gut_space = within
        for loop in self.bowel:
            loop.paint(canvas, gut_space)
        self._soft_tube(canvas, self.duodenum, hu["pancreas"] - 10, "gut wall", within, lumen=15)
        for part in self.colon:
            part.paint(canvas, gut_space)
        self._paint_kidneys(canvas)
        self._soft_tube(canvas, self.pancreas, hu["pancreas"], "pancreas", within)
        self.adrenals.paint(canvas, 40 + 35 * body.iodine, "gland", within=within)
        self.stomach.paint(canvas, within)
        self.spleen.paint(canvas, hu["spleen"], "spleen", within=within, grain=3, coarse=2)
        self._paint_liver(canvas, within)
        self._paint_vessels(canvas, within)
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

    def _paint_liver(self, canvas, within):
        texture = {"grain": 3.0, "coarse": 2.5}
        torso_within = within
        self.left_lobe.paint(canvas, self.hu["liver"], "liver", within=within, **texture)
        right = within
        box = self.hollow.box(canvas)
        if box is not None:
            right = within.copy()
            right[box] = np.minimum(right[box], 1 - self.hollow.alpha(canvas, box))
        self.right_lobe.paint(canvas, self.hu["liver"], "liver", within=right, **texture)
        self.caudate.paint(canvas, self.hu["liver"], "liver", within=within, **texture)
        for part in self.fissure:
            part.paint(canvas, -70, "fat", within=within)
        within = (canvas.tissue == LABEL["liver"]).astype(np.float32)
        self.portal.paint(canvas, self.hu["vein"], "vessel", within=within)
        self.hepatic.paint(canvas, self.hu["hepatic vein"], "vessel", within=within)
        self.gallbladder.paint(canvas, 0.6 * self.hu["liver"], "gut wall", within=torso_within)
        self.gallbladder.paint(
            canvas, 9, "gallbladder", within=torso_within, grow_mm=-1.2, grain=2
        )

    def _paint_vessels(self, canvas, within):
        hu = self.hu
        self.cava.paint(canvas, hu["vein"] - 12, "vessel", grain=3)
        self.veins.paint(canvas, hu["vein"], "vessel", within=within, grain=2)
        self.arteries.paint(canvas, hu["artery"], "vessel", within=within, grain=2)
        if canvas.z > -112:
            self.aorta.paint(canvas, -80, "fat", grow_mm=1.8)
            self.aorta.paint(canvas, 50, "vessel", grow_mm=1.3)
            self.aorta.paint(canvas, hu["artery"], "vessel", grain=3)
        self.iliac.paint(canvas, hu["artery"], "vessel")
        for plaque in self.calcified:
            plaque.paint(canvas, 700, "cortical bone", within=within)

    def _paint_lung_bases(self, canvas, torso):
        if canvas.z < 40:
            return
        x = canvas.x
        share = torso.within.copy()
        for dome in (self.dome_left, self.dome_right):
            box = dome.box(canvas)
            if box is not None:
                share[box] = np.minimum(share[box], 1 - dome.alpha(canvas, box))
        # The midline (crura, oesophagus, heart's base) is never lung.
        middle = canvas.soft(27 - np.abs(x - 3) + 0.25 * (canvas.y < -10) * 60, 3.0)
        share = np.minimum(share, middle) * canvas.soft(-(torso.inside - 1.5), canvas.pixel_mm)
        canvas.paint(WHOLE, share.astype(np.float32), -850, "lung", fine=28, grain=18, coarse=15)
