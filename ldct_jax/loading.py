"""``ldct_jax.load``: a model in one line, as a function HU → HU."""

from __future__ import annotations

from pathlib import Path

from ldct_jax.denoise.models import Denoiser, find
from ldct_jax.record import use_code


def load(model: str | Path | None = None, *, code: str | Path | None = None) -> Denoiser:
    """The denoiser of that name or path; call it with HU.

    Args:
      model: a run folder or checkpoint, an exported ``.stablehlo`` or ``.onnx`` file, a filter's
        name (``gaussian``, ``median``, …) or ``identity``; None for the model that ships.
      code: the user's own script that ``model`` was trained with, where it was; it is imported.

    Returns: a function of (H, W) or (N, H, W) HU that gives float32 HU of that shape; it also has
      ``name``, ``digest``, ``window`` and ``trained_on``. (N, H, W) are slices of one series: the
      model that ships keeps the same share of the noise in all of them.

    Raises:
      UsageError: nothing of that name. CheckpointError: a damaged checkpoint or artefact.
    """
    if code is not None:
        use_code(code)
    return find(model).open()
