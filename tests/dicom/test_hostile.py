"""Damaged and malicious files: one line each, judged before anything large is allocated."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest

from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.load import read_folder
from ldct_jax.dicom.values import Unusable
from ldct_jax.errors import DataError
from tests.dicom_fixtures import anatomy, read_series, write_series, write_slice

BODY = anatomy(0)
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"


def deflate_bomb(path, megabytes=400):
    """A DICOM file whose data set inflates to ``megabytes`` MB of zeros."""
    write_slice(path, BODY[0], z=0)
    raw = path.read_bytes()
    start = raw.index(b"1.2.840.10008.1.2.1\0")
    # Same length, odd value padded: 1.2.840.10008.1.2.1.99 needs two bytes more of group 2.
    length = int.from_bytes(raw[start - 2 : start], "little")
    meta = raw[: start - 2] + len(DEFLATED).to_bytes(2, "little") + DEFLATED.encode()
    group = int.from_bytes(raw[140:144], "little") + len(DEFLATED) - length
    meta = meta[:140] + group.to_bytes(4, "little") + meta[144:] + raw[start + length : 144 + group]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(megabytes)) + squeeze.flush()
    path.write_bytes(meta[: 144 + group] + body)
    return path


@pytest.mark.core
def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path):
    path = deflate_bomb(tmp_path / "bomb", megabytes=2)
    with pytest.raises(Unusable, match="deflated transfer syntax is refused"):
        read_header(path)


@pytest.mark.core
def test_an_absurd_matrix_is_refused_in_the_header(tmp_path):
    for rows, columns in ((40000, 40000), (0, 64), (64, 0), (5000, 1)):
        path = write_slice(
            tmp_path / "a", BODY[0], z=0, Rows=rows, Columns=columns, PixelData=b"\0\0"
        )
        with pytest.raises(DataError, match=f"{rows} x {columns} pixels"):
            read_series([path])


def test_a_bomb_takes_neither_memory_nor_an_inflated_byte(tmp_path):
    """The peak of memory over that of a healthy file, in processes of their own."""
    bomb = deflate_bomb(tmp_path / "bomb")
    rle = write_slice(tmp_path / "rle", BODY[0], z=0, Rows=4000, Columns=40000, PixelData=b"\0\0")
    healthy = write_slice(tmp_path / "ok", BODY[0], z=0)
    program = textwrap.dedent("""
        import resource, sys
        from ldct_jax.dicom.load import read_folder
        from ldct_jax.errors import DataError
        try:
            read_folder(sys.argv[1])
        except DataError:
            pass
        assert "jax" not in sys.modules
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """)

    def peak_mb(path):
        command = [sys.executable, "-c", program, str(path)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    usual = peak_mb(healthy)
    assert peak_mb(bomb) < usual + 50
    assert peak_mb(rle) < usual + 50


@pytest.mark.core
def test_truncated_files_are_named(tmp_path):
    path = write_slice(tmp_path / "a", BODY[0], z=0)
    whole = path.read_bytes()
    for length in (100, 131, 140, 200, 600, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError) as error:
            read_series([path])
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_flipped_bits_end_in_an_image_or_in_one_line(tmp_path):
    path = write_slice(tmp_path / "a", BODY[0], z=0)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    header = len(whole) - BODY[0].nbytes
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = whole.copy()
        at = rng.integers(128, header, 3)
        damaged[at] ^= (1 << rng.integers(0, 8, 3)).astype(np.uint8)
        path.write_bytes(damaged.tobytes())
        try:
            series = read_series([path])
            assert series.hu.dtype == np.int16
        except DataError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 20 < refused < 150


def test_pydicom_neither_warns_nor_logs_values(tmp_path, caplog):
    import pydicom

    # A node of an earlier test in this process may have silenced it.
    caplog.set_level(logging.WARNING, logger="pydicom")
    path = write_slice(tmp_path / "a", BODY[0], z=0, SpecificCharacterSet="ISO_IR 100")
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"CANARY 100"))
    with pytest.warns(UserWarning, match="CANARY"):
        pydicom.dcmread(path)
    assert "CANARY" in caplog.text
    caplog.clear()
    assert len(read_series([path])) == 1  # a warning would be an error here
    assert caplog.records == []


def test_missing_and_foreign_pixels(tmp_path):
    from pydicom import dcmread

    path = write_slice(tmp_path / "a", BODY[0], z=0)
    image = dcmread(path)
    del image.PixelData
    image.add_new(0x00091010, "OB", bytes(BODY[0].nbytes))  # long enough, but no pixels
    image.save_as(path)
    with pytest.raises(DataError, match="no integer pixel data"):
        read_series([path])
    image.add_new(0x7FE00008, "OF", bytes(BODY[0].nbytes * 2))
    image.save_as(path)
    with pytest.raises(DataError, match="no integer pixel data"):
        read_series([path])
    path = write_slice(tmp_path / "b", BODY[0], z=0, SamplesPerPixel=3)
    with pytest.raises(DataError, match="a colour image"):
        read_series([path])
    path = write_slice(tmp_path / "c", BODY[0], z=0, BitsAllocated=8)
    with pytest.raises(DataError, match="bits a pixel"):
        read_series([path])


def test_a_codestream_may_not_claim_another_size_than_the_header(tmp_path):
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    image = dcmread(get_testdata_file("J2K_pixelrep_mismatch.dcm"))
    data = bytearray(image.PixelData)
    siz = data.index(b"\xff\x4f\xff\x51")
    data[siz + 8 : siz + 16] = (40000).to_bytes(4, "big") * 2
    image.PixelData = bytes(data)
    path = tmp_path / "a"
    image.save_as(path)
    with pytest.raises(DataError, match=r"codestream claims \(40000, 40000\)"):
        read_series([path])


def test_a_damaged_slice_stops_reading_or_is_skipped_and_said(tmp_path):
    paths = write_series(tmp_path, BODY)
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated"):
        read_folder(tmp_path)
    (series,) = read_folder(tmp_path, damaged="skip")
    assert len(series) == 5
    assert "about 1 slice missing" in series.skipped[-1]
