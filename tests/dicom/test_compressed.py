"""Compressed pixels: damage is told from a missing decoder, and no decoder ends the reader."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from ldct_jax.dicom import trial
from ldct_jax.dicom.file import JPEG, JPEG2000, RLE
from ldct_jax.dicom.load import read_folder
from ldct_jax.errors import DataError
from tests.conftest import require
from tests.derived_fixtures import HU, IDENTITY, by_gdcm, slice_of
from tests.dicom.test_write_bad_input import crashing_jpeg2000
from tests.dicom_fixtures import read_series

pytestmark = pytest.mark.core


def overwritten(path, name, value):
    """The codestream of ``IDENTITY[name]`` with a healthy header and nothing healthy after it."""
    IDENTITY[name](path)
    data = bytearray(path.read_bytes())
    fragment = data.rindex(b"\xfe\xff\x00\xe0")
    start = data.index(b"\xff\x93" if name == "JPEG 2000" else b"\xff\xda", fragment) + 2
    end = len(data) - 8  # the sequence delimiter
    data[start:end] = bytes([value]) * (end - start)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("name", ["JPEG 2000", "JPEG-LS", "JPEG lossless"])
def test_damaged_pixels_are_not_called_a_missing_decoder(tmp_path, name, value):
    with pytest.raises(DataError, match="damaged: its compressed pixels can't be") as error:
        read_series([overwritten(tmp_path / "a", name, value)])
    assert error.value.kind == "failed" and "install" not in str(error.value)


@pytest.mark.parametrize("name", ["JPEG 2000", "JPEG-LS", "JPEG lossless"])
def test_a_missing_decoder_is_told_as_such(tmp_path, name):
    path = IDENTITY[name](tmp_path / "a")
    program = textwrap.dedent("""
        import sys
        for decoder in ("gdcm", "PIL", "pylibjpeg", "openjpeg", "jpeg_ls"):
            sys.modules[decoder] = None
        from ldct_jax.dicom.header import read_header
        from ldct_jax.dicom.pixels import read_stored
        from ldct_jax.errors import DataError
        try:
            read_stored(read_header(sys.argv[1]))
        except DataError as error:
            print(error.kind, error)
    """)
    command = [sys.executable, "-c", program, str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.startswith("failed ") and "no decoder is installed" in told
    assert "pip install 'ldct-jax[dicom]'" in told


def test_the_extra_decodes_every_syntax_that_is_read():
    """High-throughput JPEG 2000 has one decoder only: pylibjpeg with pylibjpeg-openjpeg."""
    from pydicom.pixels import get_decoder

    for module in ("gdcm", "pylibjpeg", "openjpeg", "jpeg_ls"):
        there = importlib.util.find_spec(module) is not None
        require(there, f"{module} of the extra 'dicom' is not installed")
    lacking = [s for s in (RLE, *JPEG, *JPEG2000) if not get_decoder(s).is_available]
    assert not lacking


def test_the_reader_survives_a_decoder_that_does_not(tmp_path):
    """gdcm aborts the whole process at the second slice."""
    good = [tmp_path / "in" / name for name in "ac"]
    good[0].parent.mkdir()
    for z, path in enumerate(good):
        by_gdcm("JPEG2000Lossless")(slice_of(path, z=2.0 * z, SOPInstanceUID=f"1.2.9.{z}"))
    crashing = crashing_jpeg2000(tmp_path / "in" / "b")
    # The damage does abort a decoder: that is what the reader must survive.
    program = (
        "import sys; from pathlib import Path; from ldct_jax.dicom.header import read_header; "
        "from ldct_jax.dicom.pixels import read_stored; read_stored(read_header(Path(sys.argv[1])))"
    )
    died = subprocess.run([sys.executable, "-c", program, str(crashing)], capture_output=True)
    assert died.returncode < 0
    with pytest.raises(DataError, match="the decoder crashes at its compressed pixels"):
        read_folder(tmp_path / "in")
    (series,) = read_folder(tmp_path / "in", damaged="skip")
    assert len(series) == 2
    np.testing.assert_array_equal(series.hu, [HU, HU])
    assert any("a slice skipped: damaged: the decoder crashes" in note for note in series.skipped)


def test_uncompressed_series_start_no_decoding_process(tmp_path, monkeypatch):
    started = []
    real = subprocess.Popen
    monkeypatch.setattr(
        trial.subprocess, "Popen", lambda *a, **k: started.append(a) or real(*a, **k)
    )
    read_series([slice_of(tmp_path / "a")])
    assert not started
    read_series([IDENTITY["RLE"](tmp_path / "b")])
    assert len(started) == 1
