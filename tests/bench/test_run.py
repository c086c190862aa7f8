"""The benchmark end to end at a size that measures nothing: processes, checks, JSON, report."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ldct_jax.bench import plans, prepare
from ldct_jax.bench import run as bench
from ldct_jax.bench.__main__ import report, script
from ldct_jax.bench.cells import OURS, THEIRS
from ldct_jax.bench.run import Request, run
from tests.conftest import require

ROOT = Path(__file__).parent.parent.parent
HAS_TORCH = importlib.util.find_spec("torch") is not None


def only(*names: str, cells: int | None = None):
    """The tiny plan with some groups, and of each the first cells."""
    plan = plans.tiny()
    groups = [g for g in plan.groups if g.name in names]
    groups = [dataclasses.replace(g, cells=g.cells[:cells]) for g in groups]
    return dataclasses.replace(plan, groups=tuple(groups))


@pytest.mark.long
def test_our_cells_run_alone_and_pytorch_rows_say_that_they_did_not(tmp_path):
    path = tmp_path / "runs" / "speed.json"
    record = run(Request(path), only("matrix", "train", cells=2))
    assert json.loads(path.read_text()) == record
    for row in record["rows"]:
        if row["side"] == OURS:
            assert row["status"] == "measured" and len(row["repeats"]) == 2
            assert row["rate"]["min"] <= row["rate"]["median"] <= row["rate"]["max"]
            assert row["facts"]["peak_bytes"] > 0 and row["facts"]["compile_s"] > 0
        else:
            assert row["status"] == "not measured" and "--torch" in row["reason"]
    train = next(r for r in record["rows"] if r["group"] == "train")
    assert 0 < train["facts"]["loss"] < 1 and train["facts"]["output_error"] <= 1e-5
    assert train["mfu"] > 0 and train["executed_gflop"] > 0
    assert str(tmp_path) not in path.read_text() and str(Path.home()) not in path.read_text()


def test_no_time_left_is_a_reason(tmp_path):
    record = run(Request(tmp_path / "speed.json", minutes=0.01), only("matrix"))
    assert all(r["status"] == "not measured" for r in record["rows"])
    reasons = {"time limit" if "time limit" in r["reason"] else r["reason"] for r in record["rows"]}
    assert "time limit" in reasons
    assert all("not asked for" in reason for reason in reasons - {"time limit"})
    assert record["summary"]["pcn_train_ratio"] is None


class _Child:
    """A cell's process that only notes when it was asked."""

    def __init__(self, name: str, asked: list):
        self.name, self.asked = name, asked

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def answer(self, seconds):
        return {"compile_s": 1.0, "executed_flops": 1}

    def ask(self, what, seconds):
        if what == "go":
            self.asked.append(self.name)
            return {"seconds": 1.0, "units": 1.0, "steps": 1}
        return {}


@pytest.mark.parametrize(("repeats", "rounds"), [(None, 2), (5, 5)])
def test_cells_take_turns_there_and_back(tmp_path, monkeypatch, repeats, rounds):
    """As often as the group asks for, and what drifts meets each cell first and last."""
    asked: list[str] = []
    monkeypatch.setattr(bench, "_start", lambda cell, *rest: _Child(cell.name, asked))
    monkeypatch.setattr(bench, "_prepare", lambda plan, groups, folder: _no_flops(groups, folder))
    monkeypatch.setattr(bench, "PAUSE_S", 0.0)
    plan = only("input")
    plan = dataclasses.replace(plan, groups=(dataclasses.replace(plan.groups[0], repeats=repeats),))
    record = run(Request(tmp_path / "speed.json"), plan)
    there = [c.name for c in plan.groups[0].cells]
    turns = [there, there[::-1]] * rounds
    assert asked == [name for turn in turns[:rounds] for name in turn]
    assert record["summary"]["pairs"]["input_share"]["repeats"] == rounds


def _no_flops(groups, folder) -> None:
    cells = [c for g in groups for c in g.cells]
    works = {f"{c.work.model} {c.work.task} {c.work.size}": 1 for c in cells}
    (Path(folder) / "flops.json").write_text(json.dumps(works))


@pytest.mark.long
def test_whole_epochs_run_through_the_training_loop(tmp_path):
    record = run(Request(tmp_path / "speed.json"), only("epoch"))
    assert [r["status"] for r in record["rows"]] == ["measured"] * 3, record["rows"]
    assert len({r["repeats"][0]["steps"] for r in record["rows"]}) == 1
    summary = record["summary"]
    assert summary["loop_share"] > 0 < summary["evaluated_share"]
    assert 0 <= summary["outside_device"]["median"] < 1
    calls, loop, everything = record["rows"]
    assert "outside" not in calls and "outside" in everything
    assert len(loop["repeats"]) == 3, "as many as the group asks for, not the plan"


@pytest.mark.long
def test_a_step_and_its_convolutions_are_timed_beside_each_other(tmp_path):
    record = run(Request(tmp_path / "speed.json"), only("convolutions"))
    assert [r["status"] for r in record["rows"]] == ["measured"] * 2, record["rows"]
    step, alone = (r["facts"]["executed_flops"] for r in record["rows"])
    assert step == alone > 0
    assert record["summary"]["over_convolutions"] > 0


@pytest.mark.long
def test_both_sides_and_every_lever(tmp_path):
    require(HAS_TORCH, "torch is not installed")
    plan = plans.tiny()
    record = run(Request(tmp_path / "speed.json", torch_script=script()), plan)
    for row in record["rows"]:
        wanted = ("not measured", "needs a GPU") if _gpu_only(plan, row) else ("measured", "")
        assert (row["status"], row["reason"]) == wanted, row["name"]
    train = [r for r in record["rows"] if r["group"] == "train"]
    # Same weights, same patches: the same loss after the same steps.
    losses = [r["facts"]["loss"] for r in train]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)
    assert record["summary"]["pcn_train_ratio"] > 0 and record["summary"]["missing"] == {}
    levers = [r for r in record["rows"] if r["group"] == "levers" and r["status"] == "measured"]
    by_name = {r["name"]: r["facts"] for r in levers}
    # The arms differ: less work with the shortcuts, more with remat, other data if it is fixed.
    default = by_name["default"]
    cut, fixed = (r for r in record["rows"] if r["group"] == "input")
    assert cut["facts"]["loss"] == default["loss"] != fixed["facts"]["loss"]
    assert by_name["no algebraic shortcuts"]["executed_flops"] > default["executed_flops"]
    assert by_name["remat of each clone"]["executed_flops"] > default["executed_flops"]
    for same in ("unrolled clones", "no algebraic shortcuts", "remat of each clone", "warm start"):
        np.testing.assert_allclose(by_name[same]["loss"], default["loss"], rtol=1e-4)
    # The same steps reach the same quality on both sides.
    ours, theirs = (r for r in record["rows"] if r["group"] == "reach")
    assert ours["reached"] and theirs["reached"] and ours["steps"] == theirs["steps"]
    assert "report.html" in report(record, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("side", [OURS, THEIRS])
def test_weights_that_are_not_the_shared_ones_are_not_timed(tmp_path, monkeypatch, side):
    require(side == OURS or HAS_TORCH, "torch is not installed")
    plan = only("train", cells=2)
    request = {"slices": 3, "slice_size": 64, "stride": 4, "folder": str(tmp_path)}
    cell = next(c for c in plan.groups[0].cells if c.side == side)
    asked = cell.request(str(tmp_path), plan.settings)
    prepare.main({**request, "works": [asked]})
    path = tmp_path / "model-pcn_tiny.npz"
    arrays = dict(np.load(path))
    arrays["params/clone/conv1/kernel"] = 1.01 * arrays["params/clone/conv1/kernel"]
    np.savez(path, **arrays)
    (tmp_path / "cell.json").write_text(json.dumps(asked))
    program = [str(script())] if side == THEIRS else ["-m", "ldct_jax.bench.jax_cell"]
    done = subprocess.run(
        [sys.executable, *program, str(tmp_path / "cell.json")],
        input="end\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    said = [x for x in done.stdout.splitlines() if x.startswith("@")]
    assert json.loads(said[0][1:])["event"] == "refused" and "not timed" in said[0]


@pytest.mark.core
def test_a_gpu_benchmark_needs_no_more_than_its_libraries(tmp_path):
    """jax, flax, optax, orbax-checkpoint, numpy (scipy, rich come with them): others are barred."""
    code = """
import json, sys
barred = "pydicom grain matplotlib skimage click jinja2 tensorboardX torch nibabel onnx h5py"
for name in barred.split():
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from ldct_jax.bench import __main__, jax_cell, plans, prepare, scaling
__main__.parser().parse_args([])
plan = plans.tiny()
group = next(g for g in plan.groups if g.name == "train")
asked = group.cells[0].request(sys.argv[1], plan.settings)
prepare.main({"folder": sys.argv[1], "slices": 3, "slice_size": 64, "stride": 4, "works": [asked]})
cell = jax_cell.PREPARE["train"](asked)
assert cell.repeat()["seconds"] > 0 and cell.close()["peak_bytes"] > 0
assert "is missing here" in __main__.report({}, None)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _gpu_only(plan, row) -> bool:
    group = next(g for g in plan.groups if g.name == row["group"])
    return next(c for c in group.cells if c.name == row["name"] and c.side == row["side"]).needs_gpu
