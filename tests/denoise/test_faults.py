"""What must not happen to files, and runs that stop in the middle."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pydicom
import pytest

from ldct_jax.cli import run as cli
from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import RECORD, Options, check_complete, denoise_path
from ldct_jax.dicom.header import read_header
from ldct_jax.dicom.pixels import read_stored
from ldct_jax.errors import DataError, LdctError, UsageError
from tests.denoise.series import IDENTITY, contents, denoiser, hu_of, two_series
from tests.dicom_fixtures import anatomy, noisy, write_series


def test_nan_fails_its_series_and_writes_nothing_of_it(tmp_path):
    source = two_series(tmp_path / "in")
    bad = hu_of(source / "a" / "002.dcm").astype(np.float32)

    def compute(hu):
        out = hu.copy()
        out[[np.array_equal(image, bad) for image in hu]] = np.nan
        return out

    summary = denoise_path(source, tmp_path / "out", denoiser(compute))
    assert sorted(contents(tmp_path / "out")) == [f"b/00{k}.dcm" for k in range(3)]
    assert summary.failed[0][0] == "a #1 → #1001"
    with pytest.raises(LdctError, match="a #1 → #1001: the result of test holds NaN"):
        check_complete(summary)
    assert not list((tmp_path / "out").glob(".*"))


def test_out_may_not_be_in_nor_below_it_nor_a_file(tmp_path):
    source = two_series(tmp_path / "in")
    (tmp_path / "link").symlink_to(source)
    before = contents(source)
    for out in (source, source / "a", source / "new", tmp_path / "link", tmp_path / "link" / "x"):
        with pytest.raises(UsageError, match="originals"):
            denoise_path(source, out, IDENTITY)
    with pytest.raises(UsageError, match="originals"):
        denoise_path(source / "a" / "000.dcm", source / "a", IDENTITY)
    with pytest.raises(UsageError, match="is a file"):
        denoise_path(source, source / "a" / "000.dcm", IDENTITY)
    assert contents(source) == before


def test_nothing_is_overwritten_without_being_told_to(tmp_path):
    source = two_series(tmp_path / "in")
    denoise_path(source, tmp_path / "out", IDENTITY)
    before = contents(tmp_path / "out")
    with pytest.raises(LdctError, match="isn't this result"):
        denoise_path(source, tmp_path / "out", find("gaussian"))
    assert contents(tmp_path / "out") == before
    denoise_path(source, tmp_path / "out", find("gaussian"), Options(overwrite=True))
    after = contents(tmp_path / "out")
    assert after.keys() == before.keys() and all(after[k] != before[k] for k in after)


def test_a_link_in_out_is_not_followed_out_of_it(tmp_path):
    source = two_series(tmp_path / "in")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="leads out of"):
        denoise_path(source, tmp_path / "out", IDENTITY)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_result_is_not_denoised_again_unasked(tmp_path):
    source = two_series(tmp_path / "in")
    denoise_path(source, tmp_path / "out", IDENTITY)
    told = []
    denoise_path(tmp_path / "out", tmp_path / "twice", IDENTITY, warn=told.append)
    assert "denoised twice" in told[0]
    with pytest.raises(DataError, match="denoised twice"):
        denoise_path(tmp_path / "out", tmp_path / "no", IDENTITY, Options(strict=True))


def test_a_second_command_in_the_same_folder_is_kept_out(tmp_path):
    from ldct_jax.system.files import locked

    source = two_series(tmp_path / "in")
    with locked(tmp_path / "out"), pytest.raises(LdctError, match="another command"):
        denoise_path(source, tmp_path / "out", IDENTITY)


def test_a_run_again_does_nothing_and_keeps_the_files(tmp_path):
    source = two_series(tmp_path / "in")
    denoise_path(source, tmp_path / "out", IDENTITY)
    before = contents(tmp_path / "out")
    record = (tmp_path / "out" / RECORD).read_text()

    def never(hu):
        raise AssertionError("nothing is left to compute")

    identity = dataclasses.replace(IDENTITY.open(), compute=never)
    summary = denoise_path(source, tmp_path / "out", identity)
    assert [(r.written, r.kept) for r in summary.results] == [(0, 3), (0, 3)]
    assert contents(tmp_path / "out") == before
    assert (tmp_path / "out" / RECORD).read_text() == record


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    source = two_series(tmp_path / "in")
    gaussian = find("gaussian").open()
    seen = []

    def compute(hu):
        seen.append(len(hu))
        if len(seen) == 5:
            raise KeyboardInterrupt
        return gaussian.compute(hu)

    with pytest.raises(KeyboardInterrupt):
        denoise_path(source, tmp_path / "out", dataclasses.replace(gaussian, compute=compute))
    finished = [name for name in contents(tmp_path / "out") if not name.startswith(".")]
    assert finished == [f"a/00{k}.dcm" for k in range(3)]
    summary = denoise_path(source, tmp_path / "out", dataclasses.replace(gaussian, compute=compute))
    assert len(seen) == 5 + 3 - (summary.results[1].kept)
    assert summary.results[0].kept == 3 and summary.results[1].kept == 1
    denoise_path(source, tmp_path / "straight", gaussian)
    for name in contents(tmp_path / "straight"):
        a, b = (pydicom.dcmread(tmp_path / f / name) for f in ("out", "straight"))
        assert a.SOPInstanceUID == b.SOPInstanceUID and a.PixelData == b.PixelData
    assert not list((tmp_path / "out").glob(".*"))


def test_a_killed_run_leaves_only_whole_files(tmp_path):
    source = tmp_path / "in"
    write_series(source, noisy(anatomy(0, n=8), 20, 0))
    program = textwrap.dedent("""
        import os, signal, sys
        from ldct_jax.system import files
        from ldct_jax.denoise.models import find
        from ldct_jax.denoise.run import denoise_path
        original, done = files.sync_folder, []
        def sync(folder):
            original(folder)
            done.append(folder)
            if len(done) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        files.sync_folder = sync
        denoise_path(sys.argv[1], sys.argv[2], find("median"))
    """)
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list((tmp_path / "out").glob("*.dcm"))
    summary = denoise_path(source, tmp_path / "out", find("median"))
    assert summary.results[0].kept in (3, 4)
    assert len(contents(tmp_path / "out")) == 8
    for path in (tmp_path / "out").glob("*.dcm"):
        read_stored(read_header(path))


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path, monkeypatch, capsys):
    import errno

    source = two_series(tmp_path / "in")
    original, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    arguments = ["denoise", str(source), str(tmp_path / "out"), "--model", "identity"]
    monkeypatch.setattr(os, "fsync", fsync)
    assert cli(arguments) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert "is full: free some space and run the same command again" in line
    monkeypatch.undo()
    assert cli(arguments) == 0
    assert len(contents(tmp_path / "out")) == 6
    assert not list((tmp_path / "out").rglob("*.part"))


def test_memory_does_not_grow_with_the_series(tmp_path):
    """The peak of 64 slices over that of 24, which have as many in the sample."""
    import tracemalloc

    size, peaks = 256, []
    for n in (24, 64):
        write_series(tmp_path / str(n), anatomy(0, n=n, size=size))
        tracemalloc.start()
        denoise_path(tmp_path / str(n), tmp_path / f"out{n}", IDENTITY)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 32 * size * size * 4
