"""Small series, and what a folder of results holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldct_jax.data.acquisition import Trained
from ldct_jax.denoise.models import Denoiser, find
from ldct_jax.denoise.run import RECORD
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.pixels import read_stored, to_hu
from ldct_jax.hu import FULL
from tests.dicom_fixtures import anatomy, noisy, write_series

IDENTITY = find("identity")


def two_series(root: Path) -> Path:
    for seed, name in enumerate("ab"):
        write_series(root / name, noisy(anatomy(seed, n=3), 20, seed), SeriesNumber=seed + 1)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != RECORD
    }


def hu_of(path: Path) -> np.ndarray:
    header = read_header(path)
    return to_hu(read_stored(header), header)[0]


def denoiser(compute=lambda hu: hu, **fields) -> Denoiser:
    settings = {
        "name": "test",
        "digest": "ab" * 32,
        "batch": 2,
        "window": FULL,
        "trained_on": Trained(),
        "learned": True,
    }
    return Denoiser(**{**settings, **fields}, compute=compute)
