"""Mutated files through the whole of `ldct denoise`: a result or a documented error, no more."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

# One process takes many files: its memory and time are limited as a whole.
WORKER = textwrap.dedent("""
    import re, resource, sys, time, traceback, warnings
    from pathlib import Path
    import numpy as np
    from ldct_jax.cli import run
    from ldct_jax.dicom import survey, trial
    from ldct_jax.dicom.header import read_header
    from ldct_jax.dicom.pixels import read_stored
    from tests.derived_fixtures import IDENTITY
    import click

    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = np.random.default_rng(seed)
    sources = []
    for name in ("unsigned 12 bit", "signed, padding -2000", "implicit VR", "RLE", "JPEG 2000",
                 "JPEG-LS", "JPEG lossless"):
        path = IDENTITY[name](folder / "source" / "x.dcm")
        sources.append((name, path.read_bytes()))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    def mutate(data):
        data = bytearray(data)
        kind = rng.integers(5)
        header = data.find(b"\\xe0\\x7f\\x10\\x00")
        end = header if rng.random() < 0.8 else len(data)
        if kind == 0:  # flipped bits
            for at in rng.integers(128, end, rng.integers(1, 9)):
                data[at] ^= 1 << rng.integers(8)
        elif kind == 1:  # other bytes
            for at in rng.integers(128, end, rng.integers(1, 5)):
                data[at] = rng.integers(256)
        elif kind == 2:  # cut short
            del data[rng.integers(1, len(data)):]
        elif kind == 3:  # a piece removed or doubled
            at, n = rng.integers(128, end), rng.integers(1, 64)
            data[at:at + n] = b"" if rng.random() < 0.5 else data[at:at + n] * 2
        else:  # lengths and numbers gone mad
            at = rng.integers(132, end - 4)
            value = rng.choice([0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
            data[at:at + 4] = value.astype("<u4").tobytes()
        return bytes(data)

    class Shared(trial.Trials):  # one decoding process for all files, not one for each
        __exit__ = lambda *_: None

    shared = Shared()
    survey.Trials = lambda: shared
    errors, outcomes = [], {0: 0, 1: 0, 2: 0}
    click.echo = lambda message=None, err=False, **_: errors.append(str(message)) if err else None
    slowest = 0.0
    for k in range(count):
        name, data = sources[k % len(sources)]
        source, out = folder / f"{k}.dcm", folder / f"out{k}"
        source.write_bytes(mutate(data))
        errors.clear()
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = run(["denoise", str(source), str(out), "--model", "identity"])
        except BaseException:
            traceback.print_exc()
            print(f"FAILED {name}, seed {seed}, file {k}", file=sys.stderr)
            sys.exit(3)
        slowest = max(slowest, time.process_time() - began)
        lines = [e for e in errors if e.startswith("error: ")]
        assert code in outcomes and len(lines) == (code != 0), (name, seed, k, code, errors)
        outcomes[code] += 1
        if code == 0:
            result = out / source.name
            a, b = (read_stored(read_header(p)) for p in (source, result))
            assert np.array_equal(a, b), (name, seed, k)
            result.unlink()
        source.unlink()
    assert "jax" not in sys.modules
    with open("/proc/self/status") as file:  # ru_maxrss counts the parent's memory too
        peak = int(re.search(r"VmHWM:\\s*(\\d+)", file.read())[1]) // 1024
    print(outcomes[0], outcomes[1] + outcomes[2], slowest, peak)
""")


def mutated(tmp_path, seed: int, count: int) -> tuple[int, int]:
    """(denoised, refused) of ``count`` files in one process."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path), str(seed), str(count)],
        capture_output=True,
        text=True,
        timeout=60 + count,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    denoised, refused, slowest, peak = done.stdout.split()
    assert float(slowest) < 2 and float(peak) < 512
    return int(denoised), int(refused)


def test_mutated_files_give_a_result_or_one_line(tmp_path):
    denoised, refused = mutated(tmp_path, 0, 150)
    assert denoised > 30 and refused > 30


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 21))
def test_ten_thousand_mutated_files(tmp_path, seed):
    mutated(tmp_path, seed, 500)
