"""Named evaluation protocols: no number without what it was measured in.

The same pair of images moves by 18 dB between HU windows, so every score carries the name of a
:class:`Protocol`, which fixes window, clipping, shift, data range, region, SSIM window and
averaging. :func:`table` averages slices within a patient, then patients.

    scores = PCN.score(prediction_hu, reference_hu)       # (N, H, W) HU, one score a slice
    summary = table(scores, patients)                     # mean ± SD over patients
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from ldct_jax import hu
from ldct_jax.errors import DataError, UsageError
from ldct_jax.metrics.image import SSIMWindow, compiled, decibel
from ldct_jax.metrics.statistics import MeanSD

PREDICTION_MAXIMUM = "maximum of the denoised image"
GAUSSIAN = SSIMWindow()
BATCH = 16  # slices in one call on an accelerator; on a CPU they go one by one
# SSIM's luminance and contrast terms mean nothing where images take both signs. A few values below
# zero are the noise of air in an unclipped window; more than this share of them are signed HU.
MAX_NEGATIVE = 0.01
METRICS = ("psnr_db", "psnr_of_mean_mse_db", "ssim", "rmse")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How two stacks in HU become PSNR, SSIM and RMSE.

    Both images go through ``window`` (shift by its lower end, scale to 1, cut where it clips), and
    are cropped to ``crop``; PSNR, SSIM and RMSE are taken there, per slice, in float32 (errors of
    about 1e-7, see :mod:`ldct_jax.metrics.image`).

    Args:
      name: stands beside every number.
      window: HU range that becomes [0, 1].
      source: what the protocol comes from and what it had to choose, in words.
      data_range: largest minus smallest possible value, in units of the window (1 = its
        width); it is SSIM's L (c1 = (0.01 L)², c2 = (0.03 L)²) and PSNR's peak.
      peak: None (PSNR's peak is ``data_range``) or :data:`PREDICTION_MAXIMUM`, another one for
        each slice.
      ssim_window: weights and border rule of SSIM.
      crop: (height, width) in pixels of the central region that is scored, or None for all.
      rmse_in_hu: report RMSE in HU instead of window units.
    """

    name: str
    window: hu.Window
    source: str
    data_range: float | None = 1.0
    peak: str | None = None
    ssim_window: SSIMWindow = GAUSSIAN
    crop: tuple[int, int] | None = None
    rmse_in_hu: bool = False

    def __post_init__(self):
        if self.data_range is None or not self.data_range > 0:
            raise UsageError(f"protocol {self.name!r} needs a data range above 0")
        if self.peak not in (None, PREDICTION_MAXIMUM):
            raise UsageError(f"protocol {self.name!r}: unknown peak {self.peak!r}")

    @property
    def unit(self) -> str:
        """Of RMSE."""
        return "HU" if self.rmse_in_hu else f"1 = {self.window.width:g} HU"

    def __str__(self) -> str:
        """The whole protocol in words, for captions."""
        region = f"central {self.crop[1]}x{self.crop[0]} pixels, " if self.crop else ""
        peak = self.peak or f"{self.data_range * self.window.width:g} HU"
        return (
            f"{self.name}: {self.window} → [0, 1], {region}PSNR peak {peak}, RMSE in "
            f"{'HU' if self.rmse_in_hu else 'units of ' + format(self.window.width, 'g') + ' HU'}, "
            f"SSIM {self.ssim_window}, data range {self.data_range * self.window.width:g} HU; "
            "mean over a patient's slices, then over patients"
        )

    def score(self, prediction_hu, reference_hu, *, no_data: np.ndarray | None = None) -> Scores:
        """Score slices pair by pair: two stacks (N, H, W) in HU, any real dtype.

        Compiled, on jax's default device; a stack that lies there already is not copied back.

        ``no_data``: (N, H, W) bool, pixels that have no share in any score; both stacks hold the
        same value there.

        Identical slices have RMSE 0, SSIM 1 and PSNR ``inf``. Raises DataError for NaN or infinite
        pixels, shapes that differ, images smaller than the crop or the SSIM window, and images far
        below an unclipped window, for which SSIM is undefined.
        """
        import jax

        n, shape = len(prediction_hu), prediction_hu.shape
        if shape != reference_hu.shape or len(shape) != 3 or n == 0:
            raise DataError(
                "prediction and reference must be equal stacks of slices (N, H, W), not "
                f"{shape} and {reference_hu.shape}"
            )
        program = self.compiled(shape[1:])
        batch = 1 if jax.default_backend() == "cpu" else BATCH
        counts = np.ones((batch, *shape[1:]), bool)
        rows = []
        for start in range(0, n, batch):
            # The last batch is filled up with its last slice: one program serves all.
            at = np.minimum(np.arange(start, start + batch), n - 1)
            if no_data is not None:
                counts = ~np.asarray(no_data[at])
            rows.append(program(prediction_hu[at], reference_hu[at], counts))
        return self.scores({k: np.concatenate([row[k] for row in rows])[:n] for k in rows[0]})

    def compiled(self, shape: tuple[int, int]):
        """:func:`ldct_jax.metrics.image.compiled` for images of ``shape``.

        For images that lie on the device; :meth:`scores` makes scores of its numbers.
        """
        return compiled(*self._region(shape), self.window, self.ssim_window, self.data_range)

    def _region(self, shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size and upper left corner of what is scored of images of ``shape``."""
        height, width = self.crop or shape
        if shape[0] < height or shape[1] < width:
            raise DataError(
                f"protocol {self.name!r} scores the central {width}x{height} pixels, but the image "
                f"has {shape[1]}x{shape[0]}: use a protocol without a crop"
            )
        side = self.ssim_window.size
        if min(height, width) < side:
            raise DataError(
                f"SSIM with a {side}x{side} window needs an image (H, W) of at least that size, "
                f"not {(height, width)}"
            )
        return (height, width), ((shape[0] - height) // 2, (shape[1] - width) // 2)

    def scores(self, found: dict[str, np.ndarray]) -> Scores:
        """From the numbers of :meth:`compiled`, (N,) each; raises as :meth:`score` does."""
        found = {k: np.asarray(v, np.float64) for k, v in found.items()}
        for what, name in (("prediction", "image"), ("reference", "reference")):
            for i in np.flatnonzero(found[name] == 0):
                raise DataError(f"{what} slice {i} holds NaN or infinite values")
        for i in np.flatnonzero(found["counted"] == 0):
            raise DataError(f"slice {i} holds no data in the region that is scored")
        if (found["negative"] > MAX_NEGATIVE).any():
            raise DataError(
                "SSIM of images with negative values (signed HU) means nothing: shift them by "
                "their window's lower end, clip or widen a window that ends above air, and fill "
                "pixels outside the scanner's field of view with air"
            )
        width = self.window.width
        squared = found["mse_hu2"] / width**2
        peak = np.full(len(squared), float(self.data_range))
        if self.peak == PREDICTION_MAXIMUM:
            peak = found["peak_hu"] / width
            if not peak.all():
                raise DataError("the denoised image is zero everywhere: its PSNR has no peak")
        psnr_db = np.array([decibel(p, s) for p, s in zip(peak, squared, strict=True)])
        scale = width if self.rmse_in_hu else 1.0
        return Scores(self, psnr_db, found["ssim"], scale * squared**0.5, scale * peak)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of N slices under one protocol: arrays (N,) of float64.

    psnr_db in dB (``inf`` for identical images), ssim at most 1, rmse and peak in
    ``protocol.unit``. Iterating gives one dict a slice, for logs and per-slice curves.
    """

    protocol: Protocol
    psnr_db: np.ndarray
    ssim: np.ndarray
    rmse: np.ndarray
    peak: np.ndarray

    def __len__(self) -> int:
        return len(self.rmse)

    def __iter__(self) -> Iterator[dict[str, float | str]]:
        for psnr_db, similarity, rmse in zip(self.psnr_db, self.ssim, self.rmse, strict=True):
            yield {
                "psnr_db": float(psnr_db),
                "ssim": float(similarity),
                "rmse": float(rmse),
                "unit": self.protocol.unit,
                "protocol": self.protocol.name,
            }

    def take(self, index) -> Scores:
        """The slices at ``index`` (anything numpy indexes by)."""
        return dataclasses.replace(self, **{k: getattr(self, k)[index] for k in _ARRAYS})


_ARRAYS = ("psnr_db", "ssim", "rmse", "peak")


def concatenate(parts: Sequence[Scores]) -> Scores:
    """Scores of several stacks as one; all must be under one protocol."""
    if not parts or any(p.protocol != parts[0].protocol for p in parts):
        raise UsageError("only scores under one protocol can be put together")
    return Scores(
        parts[0].protocol, *(np.concatenate([getattr(p, k) for p in parts]) for k in _ARRAYS)
    )


@dataclasses.dataclass(frozen=True)
class PatientScores:
    """The averages of one patient.

    psnr_db: mean of the slices' PSNR. psnr_of_mean_mse_db: PSNR of the patient's mean MSE (and
    mean squared peak, where the peak varies), lower by the slices' spread. rmse, ssim: means.
    """

    patient: str
    n_slices: int
    psnr_db: float
    psnr_of_mean_mse_db: float
    ssim: float
    rmse: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean ± SD over patients of the patients' averages, under one protocol."""

    protocol: Protocol
    patients: tuple[PatientScores, ...]
    psnr_db: MeanSD
    psnr_of_mean_mse_db: MeanSD
    ssim: MeanSD
    rmse: MeanSD

    @property
    def n_slices(self) -> int:
        return sum(p.n_slices for p in self.patients)

    def values(self, metric: str) -> dict[str, float]:
        """One of :data:`METRICS` by patient, for :mod:`ldct_jax.metrics.statistics`."""
        return {p.patient: getattr(p, metric) for p in self.patients}

    def as_record(self) -> dict:
        """Plain dicts and numbers, ready for JSON (whose writer must accept infinity)."""
        record = dataclasses.asdict(self)
        return record | {"protocol": self.protocol.name, "unit": self.protocol.unit}


def table(scores: Scores, patients: Sequence[str]) -> Summary:
    """Average ``scores`` per patient, then over patients.

    patients: one label a slice. Several runs (seeds) of one patient, put together by
    :func:`concatenate`, count as that one patient.
    """
    if len(patients) != len(scores):
        raise DataError(f"{len(scores)} scored slices but {len(patients)} patient labels")
    rows = []
    for patient in dict.fromkeys(patients):
        own = scores.take([i for i, p in enumerate(patients) if p == patient])
        pooled = decibel(np.mean(own.peak**2) ** 0.5, float(np.mean(own.rmse**2)))
        rows.append(
            PatientScores(
                patient=patient,
                n_slices=len(own),
                psnr_db=float(own.psnr_db.mean()),
                psnr_of_mean_mse_db=pooled,
                ssim=float(own.ssim.mean()),
                rmse=float(own.rmse.mean()),
            )
        )
    means = {m: MeanSD.of([getattr(r, m) for r in rows]) for m in METRICS}
    return Summary(scores.protocol, tuple(rows), **means)


def pcn(window: hu.Window = hu.FULL) -> Protocol:
    """The clone networks' paper: everything in the unit range of the training window.

    The paper names neither its window nor SSIM's: the training window is used, and 11x11, σ 1.5.
    """
    return Protocol(
        name="pcn" if window == hu.FULL else f"pcn {window}",
        window=window,
        source="Li & Wang (PCN): RMSE, PSNR = 20 log10(Imax/RMSE), SSIM with 0.01 and 0.03 Imax; "
        "window and SSIM weights are not stated there",
    )


PCN = pcn()
DCSWGAN = Protocol(
    name="dcswgan",
    window=hu.DCSWGAN,
    source="DCSCN/DCSWGAN: [-300, 300] HU and the full-size SSIM map reproduce its low-dose row on "
    "a public slice",
    ssim_window=SSIMWindow(border="reflect"),
)
DNCNN_DOSE = Protocol(
    name="dncnn_dose",
    window=hu.FULL,
    source="DnCNN at several doses: central 350x250 pixels, eq. 2's peak is the maximum of the "
    "denoised image, here above the window's lower end; window and SSIM weights are not stated",
    peak=PREDICTION_MAXIMUM,
    crop=(250, 350),
)
HRNET = Protocol(
    name="hrnet",
    window=hu.HRNET,
    source="HRNet: RMSE in HU, SSIM constants 1e-4 and 9e-4 on (HU + 1000)/2000; SSIM weights are "
    "not stated; PSNR is not reported there",
    rmse_in_hu=True,
)
MAYO_ABDOMEN = Protocol(
    name="mayo-abdomen",
    window=hu.ABDOMEN,
    source="the abdominal window of the Mayo challenge papers, data range 400 HU; shifted to start "
    "at zero before SSIM, unlike their public codes, which take SSIM of signed HU",
    rmse_in_hu=True,
)


def _benchmark(region: str, centre: float, width: float) -> Protocol:
    return Protocol(
        name=f"ldct-benchmark-{region}",
        window=hu.Window(centre - width / 2, centre + width / 2, clip=True),
        source=f"LDCT benchmark, {region}: centre {centre:g}, width {width:g} HU → [0, 1]",
        ssim_window=SSIMWindow("uniform", 7, sample_covariance=True),
    )


LDCT_BENCHMARK_CHEST = _benchmark("chest", -600, 1500)
LDCT_BENCHMARK_ABDOMEN = _benchmark("abdomen", 50, 400)
LDCT_BENCHMARK_NEURO = _benchmark("neuro", 40, 80)

ALL = (
    PCN,
    DCSWGAN,
    DNCNN_DOSE,
    HRNET,
    MAYO_ABDOMEN,
    LDCT_BENCHMARK_CHEST,
    LDCT_BENCHMARK_ABDOMEN,
    LDCT_BENCHMARK_NEURO,
)


def named(name: str) -> Protocol:
    """The protocol in :data:`ALL` of that name; UsageError lists them."""
    for protocol in ALL:
        if protocol.name == name:
            return protocol
    raise UsageError(f"unknown protocol {name!r}: use one of {', '.join(p.name for p in ALL)}")
