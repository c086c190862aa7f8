"""What an experiment can measure beside the test slices' scores: entries of ``Study.measures``.

Each is called with a :class:`~ldct_jax.study.study.Tested`, once for every run and every filter. An
own measure may be a plain function; what it reads must stand in its own file or its arguments, for
stored rows are kept as long as neither changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from ldct_jax.ct.another_scanner import reconstruct_elsewhere
from ldct_jax.denoise.filters import Gaussian
from ldct_jax.metrics.contrast import hu_bias
from ldct_jax.metrics.inserted_lesion import Lesion
from ldct_jax.metrics.noise import noise_analysis
from ldct_jax.study.study import Measured, Tested


class Measure:
    """A measure that a table of its numbers (:class:`ldct_jax.report.blocks.Numbers`) asks.

    heads: head of a column → key of the number. further: name of a row → (row, suffix of its keys)
    for numbers that a record holds beside its own row. words: what a reader must know.
    """

    heads: Mapping[str, str] = {}
    further: Mapping[str, tuple[str, str]] = {}
    words: str = ""

    def __call__(self, tested: Tested) -> Measured:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class First:
    """What was tested of the first patient: (N, H, W) float32 HU each, and the pixel's side; at
    the last dose, where there are several."""

    low: np.ndarray
    full: np.ndarray
    denoised: np.ndarray
    pixel_mm: float

    @classmethod
    def of(cls, tested: Tested) -> First:
        pairs = tested.pairs
        own = np.array(pairs.patients) == pairs.patients[0]
        if pairs.doses is not None:
            own &= pairs.doses == pairs.dose_levels[-1]
        first = pairs.take(np.flatnonzero(own))  # other patients' slices may stand between them
        low, full = first.low_hu.astype(np.float32), first.full_hu.astype(np.float32)
        return cls(low, full, tested.denoised[own], float(first.pixel_mm[0]))

    @property
    def middle(self) -> int:
        """Index of the middle slice."""
        return len(self.low) // 2


@dataclasses.dataclass(frozen=True)
class TissueSlices(Measure):
    """RMSE of single slices of the first test patient, and their images: of each tissue (name →
    HU range) the slice that holds most of it, and the ``middle`` one under that name."""

    tissues: Mapping[str, tuple[float, float]]
    middle: str

    @property
    def heads(self) -> dict[str, str]:
        return {name: f"rmse_{name}" for name in (*self.tissues, self.middle)}

    @property
    def words(self) -> str:
        most = ", ".join(f"{n} {low:g} to {high:g} HU" for n, (low, high) in self.tissues.items())
        return (
            "The slices of the first test patient with the most pixels in a range of CT numbers "
            f"({most}), and the middle one ({self.middle})."
        )

    def __call__(self, tested: Tested) -> Measured:
        first = First.of(tested)
        places = {
            name: int(((first.full > low) & (first.full < high)).sum((1, 2)).argmax())
            for name, (low, high) in self.tissues.items()
        }
        numbers, images = {}, {}
        for name, i in (places | {self.middle: first.middle}).items():
            low, full, denoised = first.low[i], first.full[i], first.denoised[i]
            scores = tested.protocol.score(denoised[None], full[None])
            numbers[f"rmse_{name}"] = float(scores.rmse[0])
            images[f"{name}_low"], images[f"{name}_full"] = _whole(low), _whole(full)
            images[f"{name}_result"] = _whole(denoised)
        return Measured(numbers, images=images)


@dataclasses.dataclass(frozen=True)
class LesionCNR(Measure):
    """CNR of a lesion that is put into the middle slice of the first test patient, and images.

    See :class:`ldct_jax.metrics.inserted_lesion.Lesion`.
    """

    contrast_hu: float
    radius_mm: float

    heads: ClassVar = {
        "CNR, |Δμ| / sqrt((σ₁² + σ₂²)/2)": "cnr",
        "CNR, 2|Δμ| / |σ₁ - σ₂|": "cnr_hrnet",
    }
    further: ClassVar = {"normal dose": ("undenoised", "_normal")}

    @property
    def words(self) -> str:
        return (
            f"A disc of {self.contrast_hu:g} HU and {self.radius_mm:g} mm radius was put into flat "
            "tissue of the low dose before denoising."
        )

    def __call__(self, tested: Tested) -> Measured:
        first, lesion = First.of(tested), Lesion(self.contrast_hu, self.radius_mm)
        i = first.middle
        slices = (tested.denoise, first.low[i], first.full[i], first.pixel_mm)
        images = lesion.images(*slices) or {}
        return Measured(
            lesion.cnr(*slices), images={f"lesion_{name}": x for name, x in images.items()}
        )


@dataclasses.dataclass(frozen=True)
class Elsewhere(Measure):
    """Scores and images of an unseen reconstruction: the middle slice of the first test patient
    projected, given noise as strong as the low dose's, and reconstructed by another scanner."""

    to_pixel_mm: float = 1.0
    kernel: str = "sharp"
    seed: int = 7

    heads: ClassVar = {"RMSE [HU]": "other_rmse_hu", "SSIM": "other_ssim"}

    @property
    def words(self) -> str:
        side = f"{self.to_pixel_mm:g}x{self.to_pixel_mm:g} mm"
        return (
            "A normal-dose slice was projected, given noise, and reconstructed with a "
            f"{self.kernel} kernel on pixels of {side}. Nobody trained on such images."
        )

    def __call__(self, tested: Tested) -> Measured:
        first = First.of(tested)
        low, full = reconstruct_elsewhere(
            first.full[first.middle],
            pixel_mm=first.pixel_mm,
            to_pixel_mm=self.to_pixel_mm,
            kernel=self.kernel,
            added_sd_hu=float(np.std(first.low - first.full)),
            seed=self.seed,
        )
        denoised = tested.denoise(low[None])
        scores = tested.protocol.score(denoised, full[None])
        return Measured(
            {"other_rmse_hu": float(scores.rmse[0]), "other_ssim": float(scores.ssim[0])},
            images={"other_low": low, "other_full": full, "other_result": denoised[0]},
        )


@dataclasses.dataclass(frozen=True)
class NoiseParts(Measure):
    """What the removed noise is made of, in the first test patient; of filtered rows only, for the
    input itself has no removed noise (:func:`ldct_jax.metrics.noise.noise_analysis`)."""

    heads: ClassVar = {
        "cosine (added, target)": "cos_added_target",
        "cosine (removed, added)": "cos_removed_added",
        "cosine (removed, target)": "cos_removed_target",
        "added noise removed": "projection_added",
        "target noise removed": "projection_target",
        "energy of the rest": "rest_energy",
    }

    def __call__(self, tested: Tested) -> Measured:
        first = First.of(tested)
        if np.array_equal(first.low, first.denoised):
            return Measured()
        found = noise_analysis(first.low, first.denoised, first.full)
        return Measured({name: float(getattr(found, name)) for name in self.heads.values()})


@dataclasses.dataclass(frozen=True)
class TissueBias(Measure):
    """``bias_hu``: mean error of CT numbers in flat parts of one tissue by dose, HU."""

    tissue: str = "soft tissue"

    def __call__(self, tested: Tested) -> Measured:
        pairs, bias = tested.pairs, {}
        for dose in pairs.dose_levels:
            own = np.full(len(pairs), True) if pairs.doses is None else pairs.doses == dose
            # Where it is flat must not depend on the reference's own noise.
            reference = Gaussian(2.0)(pairs.full_hu[own][..., None])[..., 0]
            bias[f"{dose:g}"] = hu_bias(tested.denoised[own], reference)[self.tissue]
        return Measured({"bias_hu": bias})


@dataclasses.dataclass(frozen=True)
class Blended(Measure):
    """Scores of the result blended with the low dose, and the middle test slice, both under
    :attr:`name`; share: of the result."""

    share: float

    name: ClassVar = "blended"

    def __call__(self, tested: Tested) -> Measured:
        low = tested.pairs.low_hu.astype(np.float32)
        blended = self.share * tested.denoised + (1 - self.share) * low
        scores = tested.protocol.score(blended, tested.pairs.full_hu)
        return Measured(
            scores={self.name: scores}, images={self.name: _whole(blended[len(blended) // 2])}
        )


@dataclasses.dataclass(frozen=True)
class PrintedSlice(Measure):
    """Scores of a paper's own slice where it is tested: the one whose low dose has the PSNR and the
    SSIM that the paper prints, (psnr_db, ssim, …). ``name`` begins the keys."""

    name: str
    low_dose: tuple[float, ...]

    @property
    def heads(self) -> dict[str, str]:
        return {h: f"{self.name}_{key}" for h, key in SCORES.items()}

    def __call__(self, tested: Tested) -> Measured:
        full, score = tested.pairs.full_hu, tested.protocol.score
        low, (psnr_db, ssim, *_) = score(tested.pairs.low_hu, full), self.low_dose
        same = (np.abs(low.psnr_db - psnr_db) < 6e-4) & (np.abs(low.ssim - ssim) < 4e-3)
        if same.sum() != 1:
            return Measured()
        own = score(tested.denoised[same], full[same])
        return Measured({f"{self.name}_{k}": float(getattr(own, k)[0]) for k in SCORES.values()})


SCORES = {"PSNR [dB]": "psnr_db", "SSIM": "ssim", "RMSE": "rmse"}


def _whole(image_hu: np.ndarray) -> np.ndarray:
    return np.rint(image_hu).astype(np.int16)
