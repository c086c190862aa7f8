"""Bad input to `ldct denoise`: a stated outcome each, without jax, in bounded memory and time.

Each case is a process of its own. The limits are those of ``ldct --help`` plus 2 s of processor
time, and 512 MB.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests.derived_fixtures import BIG_ENDIAN, IDENTITY, slice_of
from tests.dicom.test_hostile import deflate_bomb
from tests.dicom_fixtures import anatomy, noisy, write_series

MOST_MB = 512
MORE_SECONDS = 2.0
RLE = "1.2.840.10008.1.2.5"
PROGRAM = textwrap.dedent("""
    import re, sys, time
    from ldct_jax.cli import run
    code = run(sys.argv[1:])
    assert "jax" not in sys.modules, "jax was imported"
    with open("/proc/self/status") as file:  # ru_maxrss counts the parent's memory too
        peak = int(re.search(r"VmHWM:\\s*(\\d+)", file.read())[1])
    print("USED", peak // 1024, time.process_time())
    sys.exit(code)
""")


def command(*arguments, shell="") -> tuple[int, str, str, float, float]:
    """(exit code, stdout, the error line, peak MB, processor seconds) of an ldct command.

    ``shell``: what a shell is told beforehand, as ``ulimit``.
    """
    words = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    if shell:
        words = ["sh", "-c", f'{shell}; exec "$@"', "sh", *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    out, _, used = done.stdout.rpartition("USED ")
    megabytes, seconds = map(float, used.split())
    errors = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert len(errors) == (done.returncode != 0), done.stderr
    return done.returncode, out, "".join(errors), megabytes, seconds


@pytest.fixture(scope="module")
def help_seconds() -> float:
    return command("--help")[4]


def flip(path: Path, find: bytes, change: bytes) -> Path:
    data = path.read_bytes()
    assert find in data
    path.write_bytes(data.replace(find, change, 1))
    return path


def without_pixels(path: Path) -> Path:
    import pydicom

    image = pydicom.dcmread(slice_of(path))
    del image.PixelData
    image.add_new(0x7FE10010, "OB", bytes(1 << 16))  # long enough to hold pixels
    image.save_as(path)
    return path


def float_pixels(path: Path) -> Path:
    import pydicom

    image = pydicom.dcmread(slice_of(path))
    del image.PixelData
    image.FloatPixelData = bytes(4 * 64 * 64)
    image.save_as(path)
    return path


def truncated(path: Path) -> Path:
    slice_of(path)
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def damaged_rle(path: Path) -> Path:
    """A healthy header, and segments that claim to lie outside of the file."""
    import pydicom

    image = pydicom.dcmread(slice_of(path))
    image.compress(RLE)
    image.save_as(path)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"\xfe\xff\x00\xe0") + 8  # the fragment: number of segments, offsets
    data[at + 4 : at + 12] = b"\xff" * 8
    path.write_bytes(data)
    return path


def crashing_jpeg2000(path: Path) -> Path:
    """A codestream that claims 65535 components; gdcm 3.2 aborts the whole process at it."""
    IDENTITY["JPEG 2000"](path)
    data = bytearray(path.read_bytes())
    siz = data.index(b"\xff\x4f\xff\x51")
    data[siz + 40 : siz + 44] = b"\xff" * 4
    path.write_bytes(data)
    return path


def endless_jpeg_ls(path: Path) -> Path:
    """Two bytes too many; one of the decoders computes for seconds on them."""
    IDENTITY["JPEG-LS"](path)
    data = path.read_bytes()
    at = data.index(b"\xff\xd8\xff\xf7") + 2091
    path.write_bytes(data[:at] + b"\x00\x0f" + data[at:])
    return path


def npy(path: Path, header: bytes, body: bytes = b"") -> Path:
    path = path.with_suffix(".npy")
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body)
    return path


def npy_of(path: Path, array, **options) -> Path:
    path = path.with_suffix(".npy")
    np.save(path, array, **options)
    return path


def cut_nifti(path: Path) -> Path:
    import nibabel

    path = path.with_name("x.nii.gz")
    rng = np.random.default_rng(0)
    image = nibabel.Nifti1Image(rng.integers(0, 999, (64, 64, 8), np.int16), np.eye(4))
    image.to_filename(path)
    path.write_bytes(path.read_bytes()[:-5000])
    return path


def absurd_nifti(path: Path) -> Path:
    """Dimensions of 32767³ in a header of 352 bytes."""
    import nibabel

    path = path.with_name("x.nii.gz")
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    data = bytearray(image.to_bytes())
    data[42:48] = (32767).to_bytes(2, "little") * 3
    path.write_bytes(gzip.compress(bytes(data)))
    return path


CASES = {
    "truncated": (truncated, "truncated"),
    "deflate bomb": (lambda p: deflate_bomb(p, 559), "deflated transfer syntax is refused"),
    "RLE 40000 x 40000": (
        lambda p: slice_of(p, Rows=40000, Columns=40000, syntax=RLE, PixelData=_encapsulated()),
        "40000 x 40000 pixels",
    ),
    "RLE 4096 x 4096 without data": (
        lambda p: slice_of(p, Rows=4096, Columns=4096, syntax=RLE, PixelData=_encapsulated()),
        "compressed|while it was read",
    ),
    "RLE damaged": (damaged_rle, "compressed|while it was read"),
    "JPEG 2000 that crashes a decoder": (crashing_jpeg2000, "compressed"),
    "JPEG-LS that holds a decoder up": (endless_jpeg_ls, "compressed"),
    "no rows": (lambda p: slice_of(p, Rows=0), "0 x 64 pixels"),
    "no pixel data": (without_pixels, "no integer pixel data"),
    "float pixel data": (float_pixels, "no integer pixel data|shorter than its pixels"),
    "wrong modality": (lambda p: slice_of(p, Modality="MR"), "modality MR, not CT"),
    "colour": (lambda p: slice_of(p, SamplesPerPixel=3), "a colour image"),
    "big endian": (
        lambda p: flip(slice_of(p), b"1.2.840.10008.1.2.1\0", BIG_ENDIAN.encode() + b"\0"),
        "big-endian|pixels, but",
    ),
    "enhanced": (
        lambda p: slice_of(p, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"),
        "multi-frame image without the geometry of its frames",
    ),
    "no DICOM": (lambda p: (p.write_bytes(b"hello"), p)[1], "not a DICOM file"),
    "an empty file": (lambda p: (p.write_bytes(b""), p)[1], "an empty file"),
    "only a DICOMDIR": (
        lambda p: ((p.parent / "DICOMDIR").write_bytes(bytes(128) + b"DICM"), p.parent)[1],
        "holds no DICOM file",
    ),
    "a broken link": (
        lambda p: (p.symlink_to(p.parent / "nothing"), p.parent)[1],
        "a link to nothing",
    ),
    ".npy with objects": (
        lambda p: npy_of(p, np.array([{}], object), allow_pickle=True),
        "not a usable .npy file",
    ),
    ".npy of absurd size": (
        lambda p: npy(
            p, b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 4096, 4096)}\n"
        ),
        "not a usable .npy file",
    ),
    ".npy with NaN": (lambda p: npy_of(p, np.full((8, 8), np.nan)), "holds NaN"),
    ".npy of complex numbers": (lambda p: npy_of(p, np.zeros((8, 8), complex)), "not HU"),
    "NIfTI cut short": (cut_nifti, "not a usable NIfTI file"),
    "NIfTI of absurd size": (absurd_nifti, "not possible|but 1 to 4096"),
}


def _encapsulated() -> bytes:
    from pydicom.encaps import encapsulate

    return encapsulate([(2).to_bytes(4, "little") + bytes(60) + b"\x81\0" * 100])


@pytest.mark.parametrize("name", CASES)
def test_bad_files(name, tmp_path, help_seconds):
    build, words = CASES[name]
    (tmp_path / "in").mkdir()
    source = build(tmp_path / "in" / "x.dcm")
    code, _, error, megabytes, seconds = command(
        "denoise", source, tmp_path / "out", "--model", "identity"
    )
    assert code in (1, 2)
    assert any(w in error for w in words.split("|")), error
    assert megabytes < MOST_MB and seconds < help_seconds + MORE_SECONDS
    assert not (tmp_path / "out").exists()


def test_odd_folders(tmp_path, help_seconds):
    """Two series in one folder with missing slices, a DICOMDIR, links and a broken link."""
    source = tmp_path / "in"
    for series in "ab":
        paths = write_series(
            source,
            noisy(anatomy(0, n=5), 20, 0),
            name=lambda k, s=series: f"{s}{k}",
            SeriesInstanceUID=f"1.2.{ord(series)}",
        )
        paths[2].unlink()
    elsewhere = write_series(tmp_path / "elsewhere", anatomy(1, n=1))[0]
    (source / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (source / "linked.dcm").symlink_to(elsewhere)
    (source / "folder").symlink_to(tmp_path / "elsewhere")
    (source / "loop").symlink_to(source)
    (source / "broken").symlink_to(tmp_path / "nothing")
    out = tmp_path / "out"
    code, text, error, megabytes, seconds = command("denoise", source, out, "--model", "identity")
    assert code == 1 and "in" in text  # everything but the broken link is done
    assert "1 file that was not read left out" in error
    written = {p.name for p in out.rglob("*") if p.is_file()} - {"ldct_denoise.json"}
    # The linked folder is followed, once; the link beside it is a copy of the slice in there.
    assert written == {f"{s}{k}" for s in "ab" for k in (0, 1, 3, 4)} | {"000.dcm"}
    assert not (out / "folder").is_symlink() and not (out / "folder" / "000.dcm").is_symlink()
    assert megabytes < MOST_MB and seconds < help_seconds + MORE_SECONDS
    code, _, error, _, _ = command(
        "denoise", source, tmp_path / "strict", "--model", "identity", "--strict"
    )
    assert code == 1 and "a link to nothing" in error and not (tmp_path / "strict").exists()


def test_a_file_size_limit_is_met_as_a_full_disk(tmp_path):
    """The kernel itself refuses to write on."""
    source = slice_of(tmp_path / "in" / "a.dcm")
    arguments = ("denoise", source, tmp_path / "out", "--model", "identity")
    code, _, error, _, _ = command(*arguments, shell="trap '' XFSZ; ulimit -f 4")
    assert code == 1 and "is full: free some space" in error
    assert not list((tmp_path / "out").rglob("*.dcm"))
    assert command(*arguments)[0] == 0
    assert (tmp_path / "out" / "a.dcm").exists()


def test_a_disk_that_fills_up(tmp_path):
    """A file system of 100 kB, in a name space of its own."""
    write_series(tmp_path / "in", noisy(anatomy(0, n=20), 20, 0))
    (tmp_path / "out").mkdir()
    mount = ["unshare", "-rm", "sh", "-c"]
    script = f'mount -t tmpfs -o size=100k none "{tmp_path}/out" && "$@"; code=$?; ls -A '
    script += f'"{tmp_path}/out" | sed "s/^/LEFT /"; exit $code'
    probe = [*mount, f'mount -t tmpfs none "{tmp_path}/out"']
    try:
        possible = subprocess.run(probe, capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("mounting a small file system needs user name spaces, which are off here")
    arguments = ["denoise", tmp_path / "in", tmp_path / "out", "--model", "identity"]
    done = subprocess.run(
        [*mount, script, "sh", sys.executable, "-m", "ldct_jax", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 1, done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert "is full: free some space" in line
    left = [x[5:] for x in done.stdout.splitlines() if x.startswith("LEFT ")]
    assert len(left) == 1 and left[0].startswith(".2.25."), "only the staging folder"


def test_output_that_cannot_be_written(tmp_path):
    source = slice_of(tmp_path / "in" / "a.dcm")
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    code, _, error, _, _ = command("denoise", source, out, "--model", "identity")
    assert code == 1 and "can't be written" in error
