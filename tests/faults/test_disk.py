"""Disks and clocks that misbehave: one line, a failure, and the last good checkpoint is there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ldct_jax import cli
from ldct_jax.errors import CheckpointError, LdctError
from ldct_jax.train.checkpoint import Checkpoints, load_arrays
from tests import tiny
from tests.conftest import require
from tests.faults.worker import start


def train(folder: Path, epochs: int, monitor=None):
    return tiny.train(
        dataclasses.replace(tiny.experiment(), epochs=epochs),
        tiny.feeder(),
        folder,
        monitor=monitor,
    )


@contextlib.contextmanager
def read_only(folder: Path):
    """``folder`` can't be written, not even by root."""
    if os.geteuid():
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    bind = ["mount", "--bind", str(folder), str(folder)]
    done = subprocess.run(bind, capture_output=True, check=False)
    require(done.returncode == 0, "root can't mount a folder read-only here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_folder_is_one_line_and_keeps_its_checkpoint(tmp_path, capfd):
    folder = tmp_path / "run"
    train(folder, 1)
    with read_only(folder):
        with pytest.raises(LdctError) as error:
            train(folder, 2)
        assert "\n" not in str(error.value) and "can't be written" in str(error.value)
        assert int(load_arrays(folder)[0]["step"]) == 8
        arguments = ["train", "pcn_ablation", "--scale", "smoke", "--out", str(folder / "out")]
        assert cli.run(arguments) == 1
        said = capfd.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ") and "can't be written" in said
    train(folder, 2)
    assert int(load_arrays(folder)[0]["step"]) == 16


@pytest.mark.long
def test_a_disk_that_fills_up_keeps_the_last_whole_checkpoint(tmp_path):
    disk, told = tmp_path / "disk", [tmp_path / "first", tmp_path / "second"]
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, check=False)
    require(done.returncode == 0, "mounting a small file system needs root")
    last, ballast = disk / "run" / "checkpoints" / "last", disk / "ballast"
    (disk / "run").mkdir()
    try:
        with told[0].open("w") as file:
            process = start(disk / "run", 100_000, file)
        try:
            end = time.monotonic() + 240
            while len([p for p in last.glob("*") if p.name.isdigit()]) < 2:
                assert process.poll() is None and time.monotonic() < end, told[0].read_text()
                time.sleep(0.01)
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            assert process.wait(240) == 1
        finally:
            process.kill()
            process.wait()
        error = [x for x in told[0].read_text().splitlines() if x.startswith("ldct_jax.errors.")]
        assert error and "space" in error[-1], told[0].read_text()[-3000:]
        saved = int(load_arrays(last)[0]["step"])
        assert saved > 0
        ballast.unlink()
        with told[1].open("w") as file:
            process = start(disk / "run", saved // 8 + 2, file)
        assert process.wait(240) == 0, told[1].read_text()[-3000:]
        assert f"resumes from step {saved} " in told[1].read_text()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("removed", ["checkpoints", "checkpoints/last", "checkpoints/last/8"])
def test_a_checkpoint_folder_removed_under_the_run_is_noticed(removed, tmp_path):
    """Either what was saved last reads back from the disk, or the run fails and says so."""
    train(tmp_path, 1)
    before = load_arrays(tmp_path)[0]
    shutil.copytree(tmp_path / "checkpoints", tmp_path / "kept")

    def remove(variables):
        shutil.rmtree(tmp_path / removed, ignore_errors=True)
        return dict

    try:
        train(tmp_path, 2, monitor=remove)
    except CheckpointError as error:
        assert "\n" not in str(error) and "again" in str(error)
    else:
        assert int(load_arrays(tmp_path)[0]["step"]) == 16
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    (tmp_path / "kept").rename(tmp_path / "checkpoints")
    again = load_arrays(tmp_path)[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, before, again))


def test_what_is_durable_is_read_back_from_the_disk(tmp_path, monkeypatch):
    """The manager believes in a checkpoint whose files are gone: the run must not."""
    wait = Checkpoints.wait

    def lose(self):
        wait(self)
        for path in self.folder.glob("16/state/d/*"):
            path.unlink()

    train(tmp_path, 1)
    monkeypatch.setattr(Checkpoints, "wait", lose)
    with pytest.raises(CheckpointError, match="step 16 is not on the disk as it was saved"):
        train(tmp_path, 2)
    monkeypatch.undo()
    outcome = train(tmp_path, 2)
    assert outcome.steps == 16 and int(load_arrays(tmp_path)[0]["step"]) == 16


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path, monkeypatch):
    now = [time.time()]

    def backwards():
        now[0] -= 3600.0
        return now[0]

    train(tmp_path / "right", 1)
    train(tmp_path / "right", 3)
    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "time_ns", lambda: int(backwards() * 1e9))
    train(tmp_path / "wrong", 1)
    train(tmp_path / "wrong", 3)
    monkeypatch.undo()
    assert now[0] < time.time() - 3600
    a, b = (load_arrays(tmp_path / name)[0] for name in ("right", "wrong"))
    assert int(a["step"]) == 24
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
