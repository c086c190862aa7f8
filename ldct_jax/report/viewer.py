"""An interactive comparison of image stacks, for reports and for ``ldct view``.

Slices are kept in whole steps of HU, predicted from their neighbours, deflated, and decoded by the
page (``templates/viewer_slices.js``) when they are shown.
"""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ldct_jax import hu
from ldct_jax.errors import DataError, UsageError

PRESETS = {
    "abdomen": (hu.ABDOMEN.low, hu.ABDOMEN.high),
    "lung": (hu.LUNG.low, hu.LUNG.high),
    "bone": (-550.0, 1450.0),
    "liver": (0.0, 150.0),
    "full": (-1024.0, 1500.0),
}
SAMPLES = 5
"""Slices by which the size of all is estimated."""


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What the page gets: ``data`` for JSON, ``packed`` (key, text) of each slice, and a note."""

    data: dict
    packed: list[tuple[str, str]] = dataclasses.field(repr=False)
    note: str


@dataclasses.dataclass(frozen=True)
class Viewer:
    """A comparison of stacks on a page.

    Args:
      stacks: label → (S, H, W) in HU, all of one shape; the first and the last are compared when
        the page opens.
      caption: what is shown, with protocol of selection, data and attribution.
      max_megabytes: bound on what the slices take in the page.
      pixel_mm: side of a pixel, for spectra; None where it isn't known.
      steps: HU; the smallest step that keeps to ``max_megabytes`` is used, so that each pixel is
        within half a step of its value. Where none does, evenly spaced slices are shown at the
        last one and the page says how many.
    """

    stacks: Mapping[str, np.ndarray]
    caption: str
    max_megabytes: float = 12.0
    pixel_mm: float | None = None
    steps: Sequence[int] = (1,)

    def __post_init__(self):
        shapes = {np.shape(s) for s in self.stacks.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 3:
            raise UsageError(
                f"a viewer takes stacks (S, H, W) of one shape, not {sorted(map(str, shapes))}"
            )
        for label, stack in self.stacks.items():
            if not all(np.isfinite(image).all() for image in stack):
                raise DataError(f"viewer stack {label!r} holds NaN or infinite values")

    def embedded(self, track: Callable[[Iterable], Iterable] = iter) -> Embedded:
        """Pack the slices; ``track`` shows the progress over them.

        Raises UsageError where not even one slice keeps to ``max_megabytes``.
        """
        n, height, width = np.shape(next(iter(self.stacks.values())))
        limit = self.max_megabytes * 1e6
        for step in self.steps:
            slice_bytes = self._estimate(step)
            if n * slice_bytes <= limit:
                break
        if slice_bytes > limit:
            raise UsageError(
                f"one slice of {len(self.stacks)} stacks of {width}x{height} pixels exceeds "
                f"{self.max_megabytes:g} MB: allow a larger page or show fewer stacks"
            )
        shown = np.unique(np.linspace(0, n - 1, min(n, int(limit / slice_bytes))).round())
        shown = shown.astype(int).tolist()
        packed, cut = [], False
        largest = step * np.iinfo(np.int16).max
        for at, k in enumerate(track(shown)):
            for i, stack in enumerate(self.stacks.values()):
                packed.append((f"{i}-{at}", pack(stack[k], step)))
                cut |= bool(max(-np.min(stack[k]), np.max(stack[k])) > largest)
        note = self.caption
        if cut:
            note += f" Values beyond ±{largest:,} HU are cut to that."
        if len(shown) < n:
            note += f" {len(shown)} of {n} slices are shown, evenly spaced."
        data = {
            "labels": list(self.stacks),
            "shape": [len(shown), height, width],
            "slices": [k + 1 for k in shown],
            "of": n,
            "step": step,
            "pixel_mm": self.pixel_mm,
            "presets": PRESETS,
        }
        return Embedded(data, packed, note.strip())

    def page(self, title: str, track: Callable[[Iterable], Iterable] = iter) -> str:
        """A page of its own; it needs no network and no file beside it."""
        return template("view.html.j2").render(title=title, viewer=self.embedded(track))

    def _estimate(self, step: int) -> float:
        """Bytes that one slice of all stacks takes, of the largest of some."""
        n = len(next(iter(self.stacks.values())))
        some = np.unique(np.linspace(0, n - 1, min(n, SAMPLES)).round().astype(int))
        return max(sum(len(pack(s[k], step)) for s in self.stacks.values()) for k in some)


def pack(image_hu: np.ndarray, step: int) -> str:
    """(H, W) HU → base64 of deflate of the errors of a prediction, as the page decodes it.

    Values are rounded to whole steps and cut to int16. The prediction is the median of the left
    neighbour, the upper one, and left + upper - upper left (Weinberger et al., LOCO-I, 2000).
    """
    limits = np.iinfo(np.int16)
    values = np.clip(np.rint(np.asarray(image_hu, np.float64) / step), limits.min, limits.max)
    padded = np.pad(values.astype(np.int32), ((1, 0), (1, 0)))
    now, left, up, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    guess = np.clip(left + up - corner, np.minimum(left, up), np.maximum(left, up))
    error = (now - guess).astype(np.int16).astype(np.int32)  # modulo 65536
    zigzag = ((error << 1) ^ (error >> 31)).astype(np.uint16).ravel()
    planes = np.concatenate([zigzag & 255, zigzag >> 8]).astype(np.uint8)
    deflate = zlib.compressobj(6, strategy=zlib.Z_FILTERED)
    return base64.b64encode(deflate.compress(planes.tobytes()) + deflate.flush()).decode("ascii")


def template(name: str):
    """A template of :mod:`ldct_jax.report`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ldct_jax.report", "templates"),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["paragraphs"] = lambda text: [
        p.strip() for p in text.split("\n\n") if p.strip()
    ]
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.get_template(name)
