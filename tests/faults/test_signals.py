"""SIGTERM and SIGINT in every phase of a command: the exit code, in time, and the restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from ldct_jax.train.checkpoint import load_arrays
from ldct_jax.train.mesh import DataParallel
from ldct_jax.train.signals import Interrupted, StopRequest
from tests import tiny
from tests.dicom_fixtures import anatomy, write_series
from tests.faults.trainings import assert_same_end, log_of, monitor

ROOT = Path(__file__).parent.parent.parent

# Marks that a phase was reached and then goes on with it, slowly enough to be interrupted within.
WRAPPER = """
import importlib, pathlib, sys, time
target, mark, *arguments = sys.argv[1:]
module, _, path = target.partition(":")
owner = importlib.import_module(module)
*parents, name = path.split(".")
for parent in parents:
    owner = getattr(owner, parent)
original = getattr(owner, name)

def marked(*args, **kwargs):
    pathlib.Path(mark).touch()
    result = original(*args, **kwargs)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        time.sleep(0.01)
    return result

setattr(owner, name, marked)
from ldct_jax.cli import main
main(arguments)
"""
PHASES = {
    "set-up": "ldct_jax.train.state:create",
    "compile": "ldct_jax.train.mesh:DataParallel.compile_steps",
    "step": "ldct_jax.train.log:MetricsLog.step",
    "evaluation": "ldct_jax.models.whole_slices:WholeSlices.__call__",
    "data preparation": "ldct_jax.data.prepare:write_array",
    "export": "ldct_jax.export.source:Source.open",
    "report": "ldct_jax.report.make:write",
}


def command(phase: str, folder: Path) -> list[str]:
    out = str(folder / "out")
    if phase == "data preparation":
        return ["data", "prepare", str(folder / "in"), out]
    if phase == "export":
        return ["export", str(folder / "run"), out, "--format", "safetensors"]
    small = ["--scale", "smoke", "--variant", "full PCN", "--set", "model.n_clones=2"]
    return ["train", "pcn_ablation", *small, "--out", out]


def start(phase: str, folder: Path, *, marked: bool) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    how = ["-c", WRAPPER, PHASES[phase], str(folder / "mark")] if marked else ["-m", "ldct_jax"]
    line = [sys.executable, *how, *command(phase, folder)]
    return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_every_phase_ends_the_command_and_the_same_one_goes_on(phase, number, tmp_path):
    if phase == "data preparation":
        write_series(tmp_path / "in" / "a", anatomy(0), PatientID="A")
        write_series(tmp_path / "in" / "b", anatomy(1), PatientID="B")
    if phase == "export":
        parallel = DataParallel(jax.devices()[:1])
        tiny.train(tiny.experiment(epochs=1), tiny.feeder(), tmp_path / "run", parallel=parallel)
    process = start(phase, tmp_path, marked=True)
    end = time.monotonic() + 120
    while not (tmp_path / "mark").exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    began = time.monotonic()
    said = process.communicate(timeout=60)[1]
    took = time.monotonic() - began
    assert process.returncode == 128 + number, said[-3000:]
    assert took < 30
    assert "Traceback" not in said and f"{number.name}: stopping" in said
    folder = tmp_path / "out" / "full-pcn"
    if phase in ("step", "evaluation"):
        # A checkpoint at the step where it was interrupted: the last one that was logged.
        steps = [r["step"] for r in log_of(folder) if "loss" in r]
        assert int(load_arrays(folder / "checkpoints" / "last")[0]["step"]) == steps[-1] > 0
    again = start(phase, tmp_path, marked=False)
    said = again.communicate(timeout=200)[1]
    assert again.returncode == 0, said[-3000:]
    if command(phase, tmp_path)[0] == "train":
        assert json.loads((folder / "result.json").read_text())["steps"] == 4
        rows = log_of(folder)
        assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4]
        # A training counted in steps is looked at ten times: here after each of the four.
        assert sum("evaluation" in r for r in rows) == 4
        assert (tmp_path / "out" / "report.html").exists()
    print(f"{phase}: {number.name} answered within {took:.1f} s")


@pytest.mark.parametrize("part", ["beginning", "numbers"])
def test_a_signal_during_an_evaluation_saves_and_evaluates_again(part, tmp_path):
    """At once, not at the evaluation's end, and nothing of it is lost or logged twice."""
    parallel = DataParallel(jax.devices()[:1])
    job = tiny.experiment(epochs=3)
    tiny.train(job, tiny.feeder(), tmp_path / "straight", parallel=parallel, monitor=monitor)

    def interrupting():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)

    # While work is handed over, and while the device is at the next steps.
    interrupted = {
        "beginning": lambda variables: interrupting(),
        "numbers": lambda variables: interrupting,
    }[part]

    began = time.monotonic()
    with pytest.raises(Interrupted) as caught, StopRequest().watching() as stop:
        tiny.train(
            job,
            tiny.feeder(),
            tmp_path / "pieces",
            parallel=parallel,
            monitor=interrupted,
            stop=stop,
        )
    assert caught.value.exit_code == 143 and time.monotonic() - began < 15
    assert int(load_arrays(tmp_path / "pieces")[0]["step"]) == 8
    assert not any("evaluation" in row for row in log_of(tmp_path / "pieces"))
    tiny.train(job, tiny.feeder(), tmp_path / "pieces", parallel=parallel, monitor=monitor)
    assert_same_end(tmp_path / "straight", tmp_path / "pieces")
    best = [load_arrays(tmp_path / f / "checkpoints" / "best")[0] for f in ("straight", "pieces")]
    assert int(best[0]["step"]) == int(best[1]["step"])


BUSY = """
import ctypes
from ldct_jax.train import signals
signals.GRACE_S = 0.5
lock = ctypes.create_string_buffer(64)
with signals.StopRequest().watching():
    print("ready", flush=True)
    # As in a compilation: no way back to Python, where handlers would run. Locked twice for ever.
    ctypes.CDLL(None).pthread_mutex_lock(lock)
    ctypes.CDLL(None).pthread_mutex_lock(lock)
"""


def test_a_main_thread_that_never_returns_to_python_is_left_after_the_grace():
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert time.monotonic() - began < 15
    process.stdout.close()
