"""A model by its name or path → a function HU → HU: checkpoint, exported artefact, or filter.

Two steps: :func:`find` tells what a name means without importing jax, so that a wrong name and
bad input are told at once; :meth:`Found.open` loads it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ldct_jax.ct.no_data import air_filled
from ldct_jax.data.acquisition import Trained
from ldct_jax.denoise import choices
from ldct_jax.denoise.filters import FILTERS
from ldct_jax.errors import NumericsError, UsageError
from ldct_jax.export import package
from ldct_jax.hu import Window
from ldct_jax.shipped import SHIPPED
from ldct_jax.user_script import own_errors, use_code, warned

ARTEFACTS = (".stablehlo", ".onnx")
RELEASED = ".npz"
SERIES_SAMPLE = 16
"""Slices of a series that are looked at where something is to be the same for all of it."""


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A function of whole slices, (N, H, W) or (H, W) HU → float32 HU of the same shape.

    Args:
      name: short, for file headers and tables. digest: sha256 (hex) of what computes.
      batch: slices that :meth:`run` takes at best at a time.
      window: the model's HU window; None for filters, which have none.
      trained_on: the range of its training images; None where it isn't known.
      learned: whether a training range matters at all.
      doubts: warnings that hold for whatever it denoises, such as a script that has changed.
      step: of the training at which a checkpoint was saved; None for anything else.
      of_series: a function of some of a series' slices, each (H, W) HU → ``compute`` for that
        series; None where every slice is for itself.
    """

    name: str
    digest: str
    batch: int
    window: Window | None
    trained_on: Trained | None
    learned: bool
    compute: Callable[[np.ndarray], np.ndarray] = dataclasses.field(repr=False)
    of_series: Callable[[Iterable[np.ndarray]], Callable] | None = dataclasses.field(
        default=None, repr=False
    )
    step: int | None = None
    doubts: tuple[str, ...] = ()

    def for_series(self, read: Callable[[int], np.ndarray], n: int) -> Denoiser:
        """This denoiser for slices of one series; ``read(i)`` gives the i-th of ``n``, (H, W) HU.

        At most :data:`SERIES_SAMPLE` of them are read, evenly spread. Raises NumericsError for NaN.
        """
        if self.of_series is None or n < 2:
            return dataclasses.replace(self, of_series=None)
        sample = (_checked(np.asarray(read(i), np.float32)) for i in sample_of(n))
        return dataclasses.replace(self, compute=self.of_series(sample), of_series=None)

    def __call__(self, hu) -> np.ndarray:
        """Denoise an array of HU; (N, H, W) are slices of one series.

        Pixels without data (:mod:`ldct_jax.ct.no_data`) are air for the network and come out as
        they went in. Raises UsageError or NumericsError.
        """
        hu = np.asarray(hu)
        if hu.ndim not in (2, 3) or hu.dtype.kind not in "iuf" or 0 in hu.shape:
            raise UsageError(
                f"a denoiser takes HU as (H, W) or (N, H, W) numbers, not {hu.dtype} {hu.shape}"
            )
        slices = hu[None] if hu.ndim == 2 else hu
        of_these = self.for_series(lambda i: air_filled(slices[i])[0], len(slices))
        out = np.empty(slices.shape, np.float32)
        for start in range(0, len(slices), self.batch):
            part = slices[start : start + self.batch]
            air, empty = air_filled(part)
            result = of_these.run(air)
            out[start : start + len(part)] = (
                result if empty is None else np.where(empty, part, result)
            )
        return out.reshape(hu.shape)

    def cut(self, hu: np.ndarray, empty: np.ndarray | None = None) -> int:
        """How many pixels of ``hu`` the model's window cuts, outside ``empty`` (bool)."""
        if self.window is None or not self.window.clip:
            return 0
        outside = (hu < self.window.low) | (hu > self.window.high)
        return int(np.count_nonzero(outside if empty is None else outside & ~empty))

    def run(self, hu_bhw: np.ndarray) -> np.ndarray:
        """A few slices (B, H, W) → float32 (B, H, W); NumericsError for NaN on either side."""
        hu_bhw = _checked(np.asarray(hu_bhw, np.float32))
        with own_errors(f"denoising images {hu_bhw.shape}"):
            out = self.compute(hu_bhw)
        if out.shape != hu_bhw.shape:
            raise UsageError(f"{self.name} returned {out.shape} for images of {hu_bhw.shape}")
        if not np.isfinite(out).all():
            raise NumericsError(f"the result of {self.name} holds NaN or infinite values")
        return out


def sample_of(n: int) -> list[int]:
    """Which of a series' ``n`` slices it is judged by: at most :data:`SERIES_SAMPLE`, spread."""
    return np.linspace(0, n - 1, min(n, SERIES_SAMPLE)).round().astype(int).tolist()


def for_series(method: Callable, read: Callable[[int], np.ndarray], n: int) -> Callable:
    """Any function HU → HU for slices of one series; only a :class:`Denoiser` tells them apart."""
    return method.for_series(read, n) if isinstance(method, Denoiser) else method


def _checked(hu: np.ndarray) -> np.ndarray:
    if not np.isfinite(hu).all():
        raise NumericsError("the image holds NaN or infinite values; replace them first")
    return hu


@dataclasses.dataclass(frozen=True)
class Found:
    """What a model's name means: ``kind`` is filter, checkpoint, stablehlo or onnx.

    ``texture`` and ``quality``: see :func:`load`.
    """

    kind: str
    name: str
    path: Path | None = None
    texture: str | float = choices.ROUTINE
    quality: str = choices.NORMAL

    @property
    def needs_jax(self) -> bool:
        return self.kind in ("checkpoint", "stablehlo")

    def open(self) -> Denoiser:
        """Load the model. Raises UsageError for a texture that it doesn't have."""
        if self.kind == "checkpoint":
            found = _checkpoint(self.path, self.name, self.texture)
        elif self.texture != choices.ROUTINE:
            raise UsageError(
                f"{self.name} has no texture to choose: take a checkpoint such as the shipped model"
            )
        else:
            found = _filter(self.name) if self.kind == "filter" else _artefact(self.path)
        return choices.best(found) if self.quality == choices.BEST else found

    def chosen(self, *, texture: str | float, quality: str) -> Found:
        """The same with another texture and quality; UsageError for what is none."""
        return dataclasses.replace(
            self, texture=choices.texture(texture), quality=choices.quality(quality)
        )


def find(model: str | Path | None) -> Found:
    """What ``model`` means: a shipped model, a filter, a run folder or checkpoint, an artefact.

    None is the default: the first shipped model.

    Raises:
      UsageError: nothing of that name, with what there is.
      CheckpointError: a package of which a file is missing or changed.
    """
    names = ", ".join((*SHIPPED, *FILTERS))
    if model is None:
        model = next(iter(SHIPPED))
    if model in SHIPPED:
        return Found("checkpoint", str(model), SHIPPED[model])
    if model in FILTERS:
        return Found("filter", str(model))
    path = Path(model)
    if path.is_file() and path.suffix == RELEASED:
        return Found("checkpoint", path.stem, path)
    if path.is_file() and path.suffix in ARTEFACTS:
        return Found(path.suffix[1:], path.stem, path)
    if path.is_dir() and package.is_package(path) and not (path / "checkpoints").is_dir():
        model = package.model_in(path)
        return Found(model.suffix[1:], path.resolve().name, model)
    if path.is_dir():
        return Found("checkpoint", path.resolve().name, path)
    if path.is_file():
        raise UsageError(
            f"{path} is no model: give a run folder, or a .npz, .stablehlo or .onnx file"
        )
    raise UsageError(
        f"there is no model {str(model)!r}: give a run folder, a checkpoint, a package, "
        f"an exported .stablehlo or .onnx file, or one of {names}"
    )


def load(
    model: str | Path | None = None,
    *,
    code: str | Path | None = None,
    texture: str | float = choices.ROUTINE,
    quality: str = choices.NORMAL,
) -> Denoiser:
    """``ldct_jax.load``: the denoiser of that name or path; call it with HU.

    Args:
      model: a run folder or checkpoint, an exported ``.stablehlo`` or ``.onnx`` file, a package of
        ``ldct export``, a filter's name (``gaussian``, ``median``, …) or ``identity``; None for the
        model that ships.
      code: the user's own script that ``model`` was trained with, where it was; it is imported.
      texture: how much noise stays, for the model that ships and its kin: ``routine``, as a routine
        scan has; ``smooth``, the smallest share; or so many HU of it by the model's own measure
        (models/slice_noise.py), of which an ROI shows 20 to 70 % more.
      quality: ``normal``, or ``best``: the mean over a slice's eight flips and rotations, which
        takes eight times as long.

    Returns: a function of (H, W) or (N, H, W) HU that gives float32 HU of that shape; it also has
      ``name``, ``digest``, ``window`` and ``trained_on``. (N, H, W) are slices of one series: the
      model that ships keeps the same share of the noise in all of them.

    Raises:
      UsageError: nothing of that name, or a texture that it doesn't have.
      CheckpointError: a damaged checkpoint or artefact.
    """
    if code is not None:
        use_code(code)
    denoiser = find(model).chosen(texture=texture, quality=quality).open()
    for text in denoiser.doubts:
        warned(text)
    return denoiser


def _filter(name: str) -> Denoiser:
    filtered = FILTERS[name]()
    settings = json.dumps({"filter": name, **dataclasses.asdict(filtered)}, sort_keys=True)
    return Denoiser(
        name=name,
        digest=hashlib.sha256(settings.encode()).hexdigest(),
        batch=1,
        window=None,
        trained_on=None,
        learned=False,
        compute=lambda hu: filtered(hu[..., None])[..., 0],
    )


def _checkpoint(path: Path, name: str, texture: str | float) -> Denoiser:
    import jax

    from ldct_jax.models.noise_scaled import NoiseScaled
    from ldct_jax.models.whole_slices import WholeSlices
    from ldct_jax.train.checkpoint import load_model

    doubts: list[str] = []
    model, variables, window, meta = load_model(path, tell=doubts.append)
    if isinstance(model, NoiseScaled):
        model = choices.with_texture(model, texture)
    elif texture != choices.ROUTINE:
        raise UsageError(f"{name} keeps no chosen share of the noise, so it has no other texture")
    slices = WholeSlices(model, window)
    variables = jax.device_put(variables)

    def alone(hu: np.ndarray) -> np.ndarray:
        return slices(variables, hu)

    compute, of_series = alone, None
    if isinstance(model, NoiseScaled):
        compute, of_series = _by_noise(model, slices, variables)

    found = Denoiser(
        name=meta["name"],
        digest=meta["digest"],
        step=meta.get("step"),
        batch=slices.batch,
        window=window,
        trained_on=Trained.from_record(meta["record"].get("trained_on")),
        learned=True,
        compute=compute,
        of_series=of_series,
        doubts=tuple(doubts),
    )
    if texture == choices.ROUTINE:
        return found
    words = texture if texture == choices.SMOOTH else f"{texture:g} HU"
    return choices.renamed(found, words)


def _by_noise(model, slices, variables) -> tuple[Callable, Callable]:
    """(compute, of_series) of a network that keeps a share of the noise.

    Slices of which everything is kept come back bit for bit, as the network would return them, and
    skip it.
    """
    from ldct_jax.models.noise_scaled import SERIES, with_series_noise
    from ldct_jax.models.slice_noise import measured_noise_hu

    def of_share(known: dict, series_hu: float | None, hu: np.ndarray) -> np.ndarray:
        own = measured_noise_hu(hu)
        kept = np.asarray(model.share_kept(own, own if series_hu is None else series_hu))
        out, todo = np.array(hu), kept < 1
        if todo.any():
            out[todo] = slices(known, hu[todo])
        return out

    def of_series(sample: Iterable[np.ndarray]) -> Callable:
        known = with_series_noise(variables, sample)
        return functools.partial(of_share, known, float(known[SERIES]["noise_hu"]))

    return functools.partial(of_share, variables, None), of_series


def _artefact(path: Path) -> Denoiser:
    from ldct_jax.export import artefacts

    artefact = artefacts.load(path)
    card = artefact.card

    def of_series(sample: Iterable[np.ndarray]) -> Callable:
        noise = np.median([float(artefact.noise(hu[None])[0]) for hu in sample])
        return lambda hu: artefact.compute(hu, float(noise))

    return Denoiser(
        name=card.name,
        digest=artefact.digest,
        batch=artefact.batch,
        window=card.window,
        trained_on=card.trained_on,
        learned=True,
        compute=artefact.compute,
        of_series=of_series if artefact.noise else None,
    )
