"""pydicom's own test files: no traceback, and the HU that pydicom computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from ldct_jax.dicom.load import load
from ldct_jax.dicom.survey import survey

CORPUS = Path(get_testdata_file("CT_small.dcm", download=False)).parent


def test_every_file_is_done_or_told():
    found = survey(CORPUS, derivable=True)
    slices = [h for s in found.series for h in s.headers]
    files = [p for p in CORPUS.rglob("*") if p.is_file() and p.name != "DICOMDIR"]
    told = {h.path for h in slices} | {one.path for one in found.left_out}
    assert {p for p in files if not p.name.startswith(".")} == told
    reasons = {one.path.name: one for one in found.left_out}
    assert reasons["MR_small.dcm"].reason == "modality MR, not CT"
    assert "deflated" in reasons["image_dfl.dcm"].reason
    assert {h.path.name for h in slices} >= {"CT_small.dcm", "693_J2KI.dcm"}


def test_hu_are_those_of_pydicom():
    for series in survey(CORPUS).series:
        if abs(series.first.pixel_mm[0] / series.first.pixel_mm[1] - 1) > 1e-3:
            continue
        loaded = load(series)
        for header, hu in zip(loaded.files, loaded.hu, strict=True):
            image = pydicom.dcmread(header.path)
            theirs = pydicom.pixels.apply_rescale(image.pixel_array, image)
            inside = np.ones(hu.shape, bool) if header.padding is None else hu != -1024
            np.testing.assert_array_equal(hu[inside], np.rint(theirs)[inside], header.path.name)


@pytest.mark.parametrize("name", ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_real_ct_slices_are_among_them(name):
    assert any(h.path.name == name for s in survey(CORPUS).series for h in s.headers)
