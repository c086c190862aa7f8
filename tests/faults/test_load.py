"""Long and large: memory, file handles and compilations stay where they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ldct_jax.train import run
from ldct_jax.train.mesh import DataParallel
from tests import tiny
from tests.dicom_fixtures import anatomy, noisy, write_series

pytestmark = pytest.mark.long
ROOT = Path(__file__).parent.parent.parent
SIZE, SERIES, SLICES = 128, 10, 200

# More memory at its peak for 2,000 slices (65 MB as int16) than for 200.
MOST_GROWTH_MB = 13

CHILD = """
import json, pathlib, sys
from ldct_jax import cli
code = cli.run(sys.argv[1:])
# Not getrusage: its peak is that of the parent too, before this program took its place.
peak = int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"code": code, "peak_mb": peak}))
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Ten patients with 200 slices each; ``one`` holds the first alone."""
    root = tmp_path_factory.mktemp("scans")
    for k in range(SERIES):
        hu = noisy(anatomy(k, n=SLICES, size=SIZE), 20, k)
        for part in ("all", "one")[: 2 if k == 0 else 1]:
            write_series(root / part / f"s{k}", hu, PatientID=f"P{k}", PatientName=f"P{k}")
    return root


def peak_mb(*arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=900,
        check=True,
    )
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["code"] == 0, done.stderr[-2000:]
    return said["peak_mb"]


@pytest.mark.parametrize("command", ["prepare", "denoise"])
def test_two_thousand_slices_take_the_memory_of_two_hundred(command, scans, tmp_path):
    if command == "denoise":
        parallel = DataParallel(jax.devices()[:1])
        tiny.train(tiny.experiment(epochs=1), tiny.feeder(), tmp_path / "run", parallel=parallel)
    peaks = {}
    for part in ("one", "all"):
        out = str(tmp_path / part)
        if command == "prepare":
            peaks[part] = peak_mb("data", "prepare", str(scans / part), out)
        else:
            model = str(tmp_path / "run")
            peaks[part] = peak_mb("denoise", str(scans / part), out, "--model", model)
    print(command, {k: round(v) for k, v in peaks.items()}, "MB")
    suffix = ".npy" if command == "prepare" else ".dcm"
    written = len([p for p in (tmp_path / "all").rglob("*") if p.suffix == suffix])
    assert written == (SERIES if command == "prepare" else SERIES * SLICES)
    assert peaks["all"] - peaks["one"] < MOST_GROWTH_MB


def test_two_hundred_epochs_leak_nothing(tmp_path, monkeypatch):
    """With a checkpoint every epoch: resident memory, open files, threads and compilations."""
    monkeypatch.setattr(run, "SAVE_EVERY_S", 0.0)
    compiled, seen = [], []

    def listen(event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    def look(variables):
        status = Path("/proc/self/status").read_text()
        numbers = {
            name: int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "Threads")
        }
        open_files = len(list(Path("/proc/self/fd").iterdir()))
        seen.append({**numbers, "files": open_files, "compiled": len(compiled)})
        return lambda: {"validation_psnr": float(len(seen))}

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        tiny.train(
            tiny.experiment(epochs=200),
            tiny.feeder(),
            tmp_path,
            monitor=look,
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    early, late = seen[40], seen[-1]
    print("epoch 41:", early, "epoch 200:", late)
    assert late["compiled"] == early["compiled"]
    # Writers of checkpoints come and go.
    assert late["files"] <= max(s["files"] for s in seen[20:41]) + 4
    assert late["Threads"] <= max(s["Threads"] for s in seen[20:41]) + 4
    assert late["VmRSS"] - early["VmRSS"] < 20_000  # kB; 160 epochs
    assert len(list((tmp_path / "checkpoints" / "last").iterdir())) <= 3
