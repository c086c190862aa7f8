"""Texture of what the shipped model makes, as makers of scanners tell it: noise, NPS, TTF, bias.

    python -m experiments.shipped.texture --model runs/pcn3.npz --out docs/results/shipped

A phantom with discs is shown as scanners with kernels of three half-frequencies do, at a quarter of
the dose with which it has the noise of a routine scan. Measured for each choice of `--texture`:
how much noise is gone, the mean frequency of the noise power spectrum and the frequencies at which
the TTF falls to 50 and 10 %, each over the input's, at two contrasts, and the bias of the body.
Expected time on two CPU cores: a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

import ldct_jax
from experiments.shipped.in_hu import ROUTINE_HU
from ldct_jax.ct.add_noise_to_images import sample_noise
from ldct_jax.ct.fbp import Kernel
from ldct_jax.denoise.choices import ROUTINE, SMOOTH
from ldct_jax.metrics.noise import power_spectrum
from ldct_jax.metrics.quality_phantom import BODY_HU, DISCS, QualityPhantom
from ldct_jax.metrics.resolution import TransferFunction, disc_transfer
from ldct_jax.report import tables
from ldct_jax.system import accelerator
from ldct_jax.system.progress import track

LOW_DOSE_HU = 2 * ROUTINE_HU  # a quarter of the dose
PHANTOM = QualityPhantom(size=320, pixel_mm=0.7, noise_hu=LOW_DOSE_HU, realisations=12)
KERNELS = tuple(Kernel(f"{half:g} /mm", half, 2.5) for half in (0.25, 0.38, 0.55))
TEXTURES = (ROUTINE, SMOOTH, round(0.55 * LOW_DOSE_HU, 1))
CONTRASTS = ("fat", "bone")
SIDE = 48  # of the squares in which noise is measured, pixels
COLUMNS = (-0.22, 0.0, 0.22)  # of their centres, below the middle, in parts of the image's side

# What makers tell of their networks on phantoms: noise against the low dose, the mean frequency of
# the NPS over that of the input, TTF within so much.
NOISE_GONE = (0.40, 0.50)
MIN_FREQUENCY = 0.84
TTF_WITHIN = {"f50_per_mm": 0.014, "f10_per_mm": 0.036}
MAX_BIAS_HU = 1.0


@dataclasses.dataclass(frozen=True)
class Texture:
    """SD and mean of flat squares [HU], mean frequency of the NPS [/mm], TTF by disc."""

    sd_hu: float
    mean_hu: float
    frequency_per_mm: float
    ttf: dict[str, TransferFunction]


def images(kernel: Kernel) -> np.ndarray:
    """The phantom as ``kernel`` shows it at low dose: (N, H, W) float32 HU."""
    truth = PHANTOM.truth(lesions=False)
    rows = np.fft.fftfreq(PHANTOM.size, PHANTOM.pixel_mm)[:, None]
    columns = np.fft.rfftfreq(PHANTOM.size, PHANTOM.pixel_mm)
    shown = np.fft.irfft2(np.fft.rfft2(truth) * kernel.window(np.hypot(rows, columns)), truth.shape)
    noise = sample_noise(
        (PHANTOM.realisations, *truth.shape),
        LOW_DOSE_HU,
        PHANTOM.pixel_mm,
        PHANTOM.seed,
        kernel=kernel,
    )
    return shown.astype(np.float32) + noise


def measure(stack: np.ndarray) -> Texture:
    """Of (N, H, W) HU, realisations of one image."""
    squares = []
    for column in COLUMNS:
        top, left = (round(v - SIDE / 2) for v in PHANTOM.place(0.12, column))
        squares.append(stack[:, top : top + SIDE, left : left + SIDE].astype(np.float64))
    flat = np.concatenate(squares)
    noise = np.concatenate([s - s.mean(axis=0) for s in squares])
    return Texture(
        sd_hu=float(noise.std() * (len(stack) / (len(stack) - 1)) ** 0.5),
        mean_hu=float(flat.mean()),
        frequency_per_mm=power_spectrum(noise, PHANTOM.pixel_mm).mean_per_mm,
        ttf={
            name: disc_transfer(
                stack, PHANTOM.place(*DISCS[name][1:]), PHANTOM.disc_radius, PHANTOM.pixel_mm
            )
            for name in CONTRASTS
        },
    )


def compared(before: Texture, after: Texture) -> list:
    """Noise gone, ratios of frequencies, bias: the columns of the table after the first two."""
    ratios = []
    for name in CONTRASTS:
        for level in TTF_WITHIN:
            ours, theirs = getattr(after.ttf[name], level), getattr(before.ttf[name], level)
            ratios.append(None if ours is None or theirs is None else ours / theirs)
    return [
        1 - after.sd_hu / before.sd_hu,
        after.frequency_per_mm / before.frequency_per_mm,
        *ratios,
        after.mean_hu - BODY_HU,
    ]


def missed(row: list) -> list[str]:
    """What of the makers' figures a row of :func:`compared` doesn't reach, in words."""
    gone, frequency, *ratios, bias = row
    within = [w for _ in CONTRASTS for w in TTF_WITHIN.values()]
    found = []
    if not NOISE_GONE[0] <= gone:
        found.append("noise")
    if frequency < MIN_FREQUENCY:
        found.append("NPS")
    # To half a rounded per mille.
    if any(r is None or abs(r - 1) > w + 5e-4 for r, w in zip(ratios, within, strict=True)):
        found.append("TTF")
    if abs(bias) > MAX_BIAS_HU:
        found.append("bias")
    return found


def as_table(rows: list[list], digest: str) -> tables.Table:
    return tables.Table(
        name="texture",
        title="Texture by kernel and choice",
        columns=(
            tables.Column("kernel's half"),
            tables.Column("--texture"),
            tables.Column("noise gone", "", 2),
            tables.Column("NPS mean frequency, ratio", "", 2),
            *(
                tables.Column(f"TTF {level} %, {DISCS[name][0] - BODY_HU:+.0f} HU, ratio", "", 3)
                for name in CONTRASTS
                for level in (50, 10)
            ),
            tables.Column("bias", "HU", 2),
            tables.Column("not as makers'"),
        ),
        rows=rows,
        protocol=f"{PHANTOM.realisations} images of {PHANTOM.size}x{PHANTOM.size} pixels of "
        f"{PHANTOM.pixel_mm:g} mm, {LOW_DOSE_HU:g} HU of noise; ratios are result over input",
        data="phantom with discs, noise and edges as the kernel shows them",
        note=f"Makers' figures: noise gone {NOISE_GONE[0]:.0%} to {NOISE_GONE[1]:.0%} (more isn't "
        f"counted as missed), NPS mean frequency at least {MIN_FREQUENCY:g} of the input's, TTF "
        f"50 % within {TTF_WITHIN['f50_per_mm']:.1%} and 10 % within "
        f"{TTF_WITHIN['f10_per_mm']:.1%}, bias up to {MAX_BIAS_HU:g} HU. Model: sha256 {digest}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None, help="a run or checkpoint [the shipped model]")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    accelerator.start()
    rows, digest = [], ldct_jax.load(given.model).digest
    for kernel in track(list(KERNELS), "texture", "kernels"):
        low = images(kernel)
        before = measure(low)
        for choice in TEXTURES:
            model = ldct_jax.load(given.model, texture=choice)
            row = compared(before, measure(np.asarray(model(low))))
            name = choice if isinstance(choice, str) else f"{choice:g}"
            rows.append([kernel.name, name, *row, ", ".join(missed(row))])
    made = as_table(rows, digest)
    given.out.mkdir(parents=True, exist_ok=True)
    made.write(given.out)
    print(made.markdown())


if __name__ == "__main__":
    main()
