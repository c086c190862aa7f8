"""Signals in a real process: what is saved, the exit code, and that a restart goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ldct_jax.train.checkpoint import find, load_arrays
from ldct_jax.train.signals import Interrupted, StopRequest


def start(out, tmp_path, *arguments):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": str(tmp_path / "c")}
    # The restart compiles nothing again.
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "compiled")
    command = [sys.executable, "-m", "ldct_jax", "train", "pcn_ablation", "--scale", "smoke"]
    small = "epochs=400 model.n_clones=2 model.n_layers=4"
    command += ["--variant", "full PCN", "--out", str(out), "--set", small, *arguments]
    with (tmp_path / "stderr").open("w") as said:
        return subprocess.Popen(command, env=environment, stderr=said)


def wait_for(condition, process, seconds=600):
    """Much longer than it takes: a machine with other work may be slow, and that is no fault."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            ended = process.poll() is not None
            process.kill()
            process.wait()  # or a test of something else is blamed for it
            pytest.fail("it ended by itself" if ended else "it never came so far")
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_training_saves_and_the_restart_goes_on(number, tmp_path):
    out = tmp_path / "runs"
    log = out / "full-pcn" / "metrics.jsonl"
    process = start(out, tmp_path)
    wait_for(lambda: log.exists() and log.stat().st_size > 0, process)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    saved = int(find(out / "full-pcn").name)
    assert 0 < saved < 800
    # Only to look at: the restart continues behind the saved step, not from the beginning.
    again = start(out, tmp_path)
    rows = lambda: [json.loads(x) for x in log.read_text().splitlines()]  # noqa: E731
    wait_for(lambda: len([r for r in rows() if "loss" in r]) > saved, again)
    again.kill()
    again.wait()
    steps = [r["step"] for r in rows() if "loss" in r]
    assert steps == list(range(1, len(steps) + 1))
    arrays, _ = load_arrays(out / "full-pcn")
    assert int(arrays["step"]) >= saved
    assert all(np.isfinite(x).all() for x in arrays["params"]["clone"]["conv1"].values())


def test_outside_the_loop_a_signal_ends_the_command_at_once():
    stop = StopRequest()
    with pytest.raises(Interrupted) as caught, stop.watching():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert caught.value.exit_code == 143


def test_inside_the_loop_it_waits_for_the_check():
    stop = StopRequest()
    with stop.watching(), stop.deferring():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        assert stop.number == signal.SIGINT
        with pytest.raises(Interrupted) as caught:
            stop.check()
    assert caught.value.exit_code == 130


def test_the_handlers_are_put_back():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest().watching():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_signal_leaves_at_once():
    code = (
        "import os, signal, time\n"
        "from ldct_jax.train.signals import StopRequest\n"
        "stop = StopRequest()\n"
        "with stop.watching(), stop.deferring():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 143
