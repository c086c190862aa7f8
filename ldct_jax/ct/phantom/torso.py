"""What abdomen and thorax share: habitus, body wall, ribs, spine, and the table."""

from __future__ import annotations

import dataclasses

import numpy as np

from ldct_jax.ct.phantom.canvas import LABEL, WHOLE, Canvas, Capsule, Ellipsoid, waves

LEVEL_MM = 31.0  # one vertebra and one disc
ANGLES = np.linspace(-np.pi, np.pi, 721, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Habitus:
    """Size and composition of a patient's trunk; lengths in mm, all drawn by :func:`draw`."""

    half_width: float
    half_depth: float
    power: float
    fat: tuple[float, float, float]  # subcutaneous: front, flank, back
    wall: tuple[float, float, float]  # muscle: front, flank, back
    spine_y: float
    muscle_hu: float
    fat_streaks: float
    bone_density: float
    iodine: float  # 0 without contrast medium, 1 in a strong portal-venous phase
    ripple: tuple[tuple[int, float, float], ...]
    level_offset: float
    table_y: float
    muscle_waves: tuple[tuple[float, float, float, float], ...]

    @staticmethod
    def draw(rng: np.random.Generator, *, chest: bool) -> Habitus:
        weight = rng.beta(1.6, 2.2)  # 0 slim, 1 obese
        half_width = 138 + 40 * weight + rng.normal() * 4 + (4 if chest else 0)
        half_width = float(np.clip(half_width, 122, 181))
        half_depth = half_width * rng.uniform(0.66, 0.74)
        front = 4 + 26 * weight * rng.uniform(0.5, 1.4)
        flank = 5 + 26 * weight * rng.uniform(0.6, 1.3)
        back = 6 + 22 * weight * rng.uniform(0.7, 1.3)
        if chest:
            # Under the skin lie also the muscles of shoulder and breast (Torso.paint_layer).
            front, flank, back = 0.5 * front + 12, 0.55 * flank + 11, 0.55 * back + 6
        muscular = rng.uniform(0.8, 1.25)
        return Habitus(
            half_width=half_width,
            half_depth=half_depth,
            power=rng.uniform(2.0, 2.25) if chest else rng.uniform(2.1, 2.5),
            fat=(front, flank, back),
            wall=(9 * muscular, 15 * muscular, 13 * muscular),
            spine_y=half_depth - back - rng.uniform(52, 62),
            muscle_hu=rng.uniform(48, 62),
            fat_streaks=rng.uniform(3, 10),
            bone_density=rng.uniform(110, 240),
            iodine=0.0 if rng.uniform() < 0.2 else rng.uniform(0.6, 1.1),
            ripple=tuple(
                (k, rng.normal() * 0.006, rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)
            ),
            level_offset=rng.uniform(-LEVEL_MM / 2, LEVEL_MM / 2),
            table_y=half_depth + rng.uniform(1, 4),
            muscle_waves=waves(rng, 0.06, (2, 3, 4, 5, 7)),
        )


class Torso:
    """The wall of one slice: painted at once; leaves what the organs are cut to.

    Attributes: ``inside`` mm to the inner wall (positive inside), ``within`` the (H, W) share of
    each pixel inside it, ``behind`` angle from the spine (0) to the front (π).
    """

    def __init__(self, canvas: Canvas, body: Habitus):
        self.canvas, self.body = canvas, body
        radius = np.hypot(canvas.x, canvas.y)
        theta = np.arctan2(canvas.y, canvas.x)  # +π/2 is posterior
        outer, skin, wall, cavity = self._curves()

        def table(curve):
            return np.interp(theta, ANGLES, curve).astype(np.float32)

        self.depth = table(outer) - radius
        self.inside = table(cavity) - radius
        wall_depth = table(wall) - radius
        soft = canvas.pixel_mm
        body_share = canvas.soft(-self.depth, soft)
        canvas.paint(WHOLE, body_share, 15, "skin", fine=8)
        canvas.paint(WHOLE, canvas.soft(skin - self.depth, soft), -106, "fat", coarse=5, grain=4)
        self._septa(wall_depth)
        self.muscle_share = canvas.soft(-wall_depth, soft)
        canvas.paint(
            WHOLE,
            self.muscle_share,
            body.muscle_hu,
            "muscle",
            grain=body.fat_streaks,
            coarse=0.8 * body.fat_streaks,
        )
        self._muscle_layers(wall_depth, theta)
        self.within = canvas.soft(-self.inside, soft)
        self.behind = np.abs(np.angle(np.exp(1j * (theta - np.pi / 2)))).astype(np.float32)
        self.ring = wall_depth

    def _curves(self):
        """Polar curves over ANGLES: skin, subcutis (a depth), outer and inner wall, mm."""
        body, z = self.body, self.canvas.z
        c, s = np.abs(np.cos(ANGLES)), np.abs(np.sin(ANGLES))
        back = np.clip(np.sin(ANGLES), 0, 1) ** 2
        # The back lies flat on the table; the waist is a little narrower than chest and hips.
        depth = body.half_depth * (1 - 0.05 * back)
        width = body.half_width * (1 - 0.03 * np.exp(-(((z + 60) / 70) ** 2)))
        outer = ((c / width) ** body.power + (s / depth) ** body.power) ** (-1 / body.power)
        for k, amplitude, phase in body.ripple:
            outer = outer * (1 + amplitude * np.cos(k * ANGLES + phase + z / 150))

        def blend(values):
            front, flank, rear = values
            return np.where(
                np.sin(ANGLES) < 0, front + (flank - front) * c**2, rear + (flank - rear) * c**2
            )

        wall = outer - blend(body.fat) - 2
        # Muscle bulges at the linea alba's sides and thins in the midline.
        cavity = wall - blend(body.wall) * (
            1 - 0.45 * np.exp(-(((ANGLES + np.pi / 2) / 0.07) ** 2))
        )
        return outer, np.float32(1.8), wall, cavity

    def _septa(self, wall_depth):
        """Thin fibrous septa and small vessels in the subcutaneous fat."""
        canvas = self.canvas
        line = np.abs(canvas.textures["coarse"]) * 5
        share = np.clip(0.35 - line, 0, 0.35) * (self.depth > 3) * (wall_depth < -1)
        region = canvas.hu
        region += share * 90

    def _muscle_layers(self, wall_depth, theta):
        """Fat planes between the oblique muscles, and the gap of the linea alba."""
        canvas, body = self.canvas, self.body
        flank = np.abs(np.cos(theta)) ** 1.5
        for part in (0.36, 0.68):
            plane = np.abs(wall_depth - part * body.wall[1]) - 0.25
            share = canvas.soft(plane, 1.6 * canvas.pixel_mm) * flank * 0.75
            canvas.paint(WHOLE, share.astype(np.float32), -80, "fat")
        for side in (-1, 1):  # lateral edge of rectus abdominis
            gap = np.abs(canvas.x - side * 0.42 * body.half_width) - 1.2
            share = canvas.soft(gap, canvas.pixel_mm) * self.muscle_share * (canvas.y < 0)
            canvas.paint(WHOLE, share * (wall_depth < body.wall[0] * 1.3), -70, "fat")

    def paint_layer(self, angle, half_angle, thickness, **texture_sd) -> None:
        """A muscle outside the wall, centred ``angle`` from the spine, on both sides."""
        canvas = self.canvas
        bump = np.clip(1 - ((self.behind - angle) / half_angle) ** 2, 0, 1) ** 0.7
        share = canvas.soft(-(self.ring + thickness * bump), canvas.pixel_mm)
        share = np.minimum(share, canvas.soft(self.ring + 0.6, canvas.pixel_mm))
        share = share * np.clip(self.depth - 2.5, 0, 1) * (bump > 0)
        canvas.paint(WHOLE, share, self.body.muscle_hu, "muscle", **texture_sd)

    def paint_ribs(self, *, top_z: float, last: int, spacing: float, slope: float) -> None:
        """Ribs as one function of angle, depth and z, so that they run on from slice to slice.

        Rib i leaves the spine at z = ``top_z`` - i ``spacing`` and falls by ``slope`` mm to the
        front; ribs after ``last`` - 2 end early (floating).
        """
        canvas, body = self.canvas, self.body
        thickness = 0.5 * float(np.mean(body.wall))
        # (φ/π)^0.8: steep at the back, as ribs are.
        fall = slope * (self.behind / np.pi) ** 0.8
        u = (top_z - fall - canvas.z) / spacing
        index = np.round(u)
        s = (u - index) * spacing / 5.5  # half height of a rib
        q = (self.ring - 0.5 * thickness - 2.0) / 3.6
        reach = np.pi * np.clip(0.78 - 0.16 * (index - (last - 2.5)), 0.35, 0.74)
        f = np.sqrt(s * s + q * q) - 1
        f = np.where((index < 0) | (index > last) | (self.behind > reach), 1.0, f)
        f = np.where(self.behind < 0.30, 1.0, f).astype(np.float32)
        delta = np.float32(canvas.pixel_mm / 3.6 + 0.25 * canvas.slice_mm / 5.5)
        # Cartilage from three quarters of the way to the front.
        front = np.clip((self.behind / np.pi - 0.66) * 12, 0, 1)
        share = canvas.soft(f, delta)
        canvas.paint(WHOLE, share * (1 - front), 560 + 0.8 * body.bone_density, "cortical bone")
        canvas.paint(WHOLE, share * front, 120, "muscle", grain=12)
        marrow = canvas.soft(f + 0.36, delta) * (1 - front)
        canvas.paint(WHOLE, marrow, body.bone_density, "spongy bone", fine=50)

    def paint_spine(self) -> None:
        """Vertebra or disc, arch, processes, canal, and the muscles around them."""
        canvas, body = self.canvas, self.body
        ys, z = body.spine_y, canvas.z
        u = (z - body.level_offset) / LEVEL_MM
        level = (u - np.floor(u)) * LEVEL_MM  # 0 … LEVEL_MM within the segment; disc at the top
        streaks = {"grain": 1.5 * body.fat_streaks, "coarse": 1.2 * body.fat_streaks}
        under_skin = canvas.soft(4.0 - self.depth, canvas.pixel_mm)
        for side in (-1, 1):
            for cx, cy, rx, ry, angle in (
                (40, 38, 32, 20, -0.30),  # erector spinae
                (17, 46, 16, 15, 0.0),  # multifidus
            ):
                muscle = Ellipsoid(
                    (side * cx, ys + cy, 0), (rx, ry, 900), side * angle, body.muscle_waves
                )
                muscle.paint(canvas, -60, "fat", within=under_skin, grow_mm=0.7)
                muscle.paint(canvas, body.muscle_hu, "muscle", within=under_skin, **streaks)
        disc = level > LEVEL_MM - 8
        waist = 1 - 0.10 * np.sin(np.pi * np.clip(level / (LEVEL_MM - 8), 0, 1))
        width, depth = 24 * waist, 17.5 * waist
        centre = Ellipsoid((0, ys, 0), (width, depth, 900), waves=((3, 0.05, 1.57, 0),))
        box = centre.box(canvas)
        f, delta = centre.field(canvas, box)
        notch, notch_delta = Ellipsoid((0, ys + 25, 0), (14, 11, 900)).field(canvas, box)
        share = np.minimum(canvas.soft(f, delta), 1 - canvas.soft(notch, notch_delta))
        bone, shell = body.bone_density, 500 + body.bone_density
        if disc:
            canvas.paint(box, share, 85, "disc", grain=8)
        else:
            plate = min(level, LEVEL_MM - 8 - level)
            canvas.paint(box, share, shell, "cortical bone", fine=40)
            inner = canvas.soft(np.maximum(f + 1.6 / depth, -notch + 1.2 / 11 - 1.0), delta)
            inner = np.minimum(inner, 1 - canvas.soft(notch - 0.13, notch_delta))
            dense = np.clip(1.3 - plate / 2.0, 0, 1)
            canvas.paint(box, inner, bone + dense * 220, "spongy bone", fine=45, grain=25)
            vein = Capsule((0, ys + 4, z), (0, ys + 15, z), 1.6, 2.4)
            if 9 < level < 15:
                vein.paint(canvas, 60, "spongy bone", within=None)
        self._arch(level, ys, z, bone, shell)

    def _arch(self, level, ys, z, bone, shell):
        canvas = self.canvas
        base = z - level  # z of this level's lower endplate

        def strut(start, end, r0, r1):
            part = Capsule(
                (start[0], ys + start[1], base + start[2]),
                (end[0], ys + end[1], base + end[2]),
                r0,
                r1,
            )
            part.paint(canvas, shell, "cortical bone")
            part.paint(canvas, bone, "spongy bone", grow_mm=-1.6, fine=50)

        for side in (-1, 1):
            strut((side * 15, 12, 16), (side * 15, 27, 15), 4.6, 4.2)  # pedicle
            strut((side * 15, 27, 15), (side * 3, 38, 7), 4.0, 3.6)  # lamina
            strut((side * 17, 26, 15), (side * 42, 30, 17), 4.0, 2.6)  # transverse process
            strut((side * 17, 29, 22), (side * 15, 32, -3), 5.0, 4.6)  # facet joint
            strut((side * 14, 27, 22), (side * 16, 25, 30), 4.2, 3.8)  # its upper partner
        strut((0, 39, 8), (0, 62, 1), 3.4, 3.8)  # spinous process
        canal = Ellipsoid((0, ys + 26, 0), (11.5, 9.5, 900))
        canal.paint(canvas, -60, "fat")
        Ellipsoid((0, ys + 25.5, 0), (8.8, 7.6, 900)).paint(canvas, 22, "spinal canal", fine=3)
        Ellipsoid((0, ys + 26.0, 0), (5.0, 3.9, 900)).paint(canvas, 42, "spinal canal", fine=3)

    def paint_table(self) -> None:
        """A curved carbon-fibre couch under the patient, where there is air."""
        canvas, body = self.canvas, self.body
        x, y = canvas.axis[None, :], canvas.axis[:, None]
        top = body.table_y - 0.0011 * x**2
        air = canvas.tissue == LABEL["air"]
        for offset, thickness, hu in ((0, 1.6, -280), (13, 1.4, -330)):
            shell = np.abs(y - top - offset) - thickness / 2
            share = canvas.soft(shell, canvas.pixel_mm) * air * (np.abs(x) < 205)
            canvas.paint(WHOLE, share, hu, "table")
        foam = (y - top > 1) & (y - top < 12.5) & air & (np.abs(x) < 205)
        canvas.hu[foam & (canvas.hu < -940)] = -945
