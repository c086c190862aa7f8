"""The benchmark's processes: in turn, one that fails alone, nothing but the libraries it names."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.speed import __main__ as speed
from experiments.speed import rows
from experiments.speed.rows import Plan, Work, ours, theirs
from tests.conftest import require

ROOT = Path(__file__).parents[2]
HAS_TORCH = importlib.util.find_spec("torch") is not None
TRAIN = Work("train", "pcn_tiny", 4, 16)
SMALL = {"slices": 2, "slice_size": 64, "repeats": 2, "repeat_s": 0.01, "minutes": 3}


@pytest.mark.promise("twins")
@pytest.mark.long
def test_both_sides_of_a_row_agree_and_one_that_fails_says_so(tmp_path):
    require(HAS_TORCH, "torch is not installed")
    group = [
        ours(TRAIN, steps_per_call=2),
        theirs(TRAIN, "channels_last", rows.EAGER),
        theirs(TRAIN, "no such mode", {**rows.EAGER, "compile": "no-such-mode"}),
    ]
    plan = Plan({"matrix": rows.matrices(32, "float32")[:1], "train": group}, **SMALL)
    record = speed.run(plan, tmp_path / "out", sys.executable, [])
    text = (tmp_path / "out" / "speed.json").read_text()
    assert json.loads(text) == record
    assert str(tmp_path) not in text and str(Path.home()) not in text
    mine, other, broken = record["rows"][1:]
    assert mine["status"] == other["status"] == "measured", (mine["reason"], other["reason"])
    assert broken["status"] == "failed" and "no-such-mode" in broken["reason"]
    # Same weights, same patches: the same loss after the same steps.
    np.testing.assert_allclose(other["facts"]["loss"], mine["facts"]["loss"], rtol=1e-4)
    for row in (mine, other):
        assert len(row["repeats"]) == 2 and row["repeats"][0]["peak_bytes"] > 1e7
        assert row["facts"]["output_error"] <= 1e-5 and row["mfu_nominal"] > 0
    assert record["summary"]["pcn_train_ratio"] > 0


class FakeChild:
    """A row's process that only notes when it was asked."""

    asked: list

    def __init__(self, row, request, torch_python):
        self.name = row.name

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def read(self, limit_s):
        return {"compile_s": 1.0, "executed_flops": 1}

    def measure(self, limit_s):
        self.asked.append(self.name)
        if self.name == "falls over" and self.asked.count(self.name) == 2:
            raise speed.RowFailed("exit 1: no memory")
        return {"seconds": 1.0, "units": 1.0, "steps": 1}


def test_rows_take_turns_there_and_back(tmp_path, monkeypatch):
    """What drifts meets each row first and last; one that falls over is not asked again."""
    FakeChild.asked = []
    monkeypatch.setattr(speed, "Child", FakeChild)
    monkeypatch.setattr(speed, "prepare", lambda *a: {"pcn_tiny train 16": 1})
    monkeypatch.setattr(speed, "PAUSE_S", 0.0)
    group = [ours(TRAIN, "a"), ours(TRAIN, "falls over"), ours(TRAIN, "b")]
    record = speed.run(Plan({"train": group}, repeats=4), tmp_path, "", [])
    assert FakeChild.asked == ["a", "falls over", "b", "b", "falls over", "a", "a", "b", "b", "a"]
    assert [len(r["repeats"]) for r in record["rows"]] == [4, 1, 4]
    assert [r["status"] for r in record["rows"]] == ["measured", "failed", "measured"]


def test_no_time_left_is_a_reason(tmp_path):
    record = speed.run(
        Plan({"matrix": rows.matrices(32, "float32")}, minutes=0.01), tmp_path, "", []
    )
    assert all("time limit of 0.01 min" in r["reason"] for r in record["rows"])
    assert record["summary"]["pcn_train_ratio"] is None


def program(folder: Path, text: str) -> str:
    """An executable that does this instead of measuring."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import time; time.sleep(60)", "took longer than the 1 s"),
        (
            "import sys; sys.exit('error in /usr/lib/x.py: rate 3/s')",
            "exit 1: error in …: rate 3/s",
        ),
    ],
)
def test_a_row_that_fails_is_ended_and_its_last_words_have_no_paths(text, said, tmp_path):
    python, request = program(tmp_path, text), {"folder": str(tmp_path)}
    with (
        speed.Child(theirs(TRAIN, "x", {}), request, python) as child,
        pytest.raises(speed.RowFailed, match=said),
    ):
        child.read(1.0)


def test_a_row_has_a_limit_of_its_own(tmp_path):
    """Turns of other rows don't count, and what was used before does."""
    text = "import time; print('{}', flush=True); input(); time.sleep(60)"
    python, request = program(tmp_path, text), {"folder": str(tmp_path)}
    row = dataclasses.replace(theirs(TRAIN, "x", {}), limit_s=3.0)
    with speed.Child(row, request, python) as child:
        assert child.read(10.0) == {}
        time.sleep(2.0)
        with pytest.raises(speed.RowFailed, match=r"took longer than the [23] s"):
            child.measure(10.0)


@pytest.mark.parametrize(("how", "said"), [({}, None), ({"onednn": False}, "0")])
def test_a_row_without_onednn_is_a_process_without_it(how, said, tmp_path, monkeypatch):
    monkeypatch.delenv("LDCT_ONEDNN", raising=False)
    text = "import json, os; print(json.dumps(os.environ.get('LDCT_ONEDNN')))"
    monkeypatch.setattr(sys, "executable", program(tmp_path, text))
    with speed.Child(ours(TRAIN, "x", **how), {"folder": str(tmp_path)}, "") as child:
        assert child.read(10.0) == said


def test_a_rows_flags_replace_those_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_cpu_experimental_ynn_fusion_type=-reduce")
    text = "import json, os; print(json.dumps(os.environ['XLA_FLAGS']))"
    monkeypatch.setattr(sys, "executable", program(tmp_path, text))
    row = ours(TRAIN, "x", rows.WITH_YNNPACK)
    with speed.Child(row, {"folder": str(tmp_path)}, "") as child:
        assert child.read(10.0) == f"--a=1 {rows.WITH_YNNPACK}"


def test_an_unknown_group_is_a_wrong_use(capsys):
    with pytest.raises(SystemExit) as ended:
        speed.main(["--plan", "tiny", "--only", "trane"])
    assert ended.value.code == 2 and "'trane': use gradients, matrix" in capsys.readouterr().err


@pytest.mark.long
def test_a_gpu_benchmark_needs_no_more_than_its_libraries(tmp_path):
    """jax, flax, optax, orbax-checkpoint, numpy (scipy, rich come with them): others are barred."""
    code = """
import sys
barred = "pydicom grain matplotlib skimage click jinja2 tensorboardX torch nibabel onnx h5py"
for name in barred.split():
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from pathlib import Path
from experiments.speed import __main__ as speed, ours, rows, scaling
plan, folder = rows.tiny(), Path(sys.argv[1])
row = plan.groups["train"][0]
speed.prepare(plan, [row], folder)
kind, fields = rows.MODELS[row.work.model]
request = {**vars(row.work), "kind": kind, "fields": fields, "how": row.how, "folder": str(folder)}
facts, run, units, step = ours.train({**request, "loss_steps": 2})
assert 0 < facts["loss"] < 1 and run(2) > 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_the_tiny_plan_measures_every_row(tmp_path):
    require(HAS_TORCH, "torch is not installed")
    plan = dataclasses.replace(rows.tiny(), minutes=8)
    record = speed.run(plan, tmp_path, sys.executable, [])
    assert [r["reason"] for r in record["rows"]] == [""] * len(record["rows"])
    assert len(record["pairs"]) == 6 and record["summary"]["warm_start_s"] > 0
    assert 0 <= record["summary"]["idle"] < 1
