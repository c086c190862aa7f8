"""What is measured, and what follows from the numbers."""

import json

import numpy as np
import pytest

from experiments.speed import rows, table
from experiments.speed.rows import OURS, THEIRS, Plan, Work, ours, theirs

TRAIN, INFER = Work("train", "pcn_tiny", 4, 16), Work("infer", "pcn_tiny", 1, 64)


@pytest.mark.parametrize("make", [rows.gpu, rows.cpu, rows.tiny])
def test_every_plan_compares_equal_work_and_names_its_rows_apart(make):
    plan = make()
    for name, group in plan.groups.items():
        labels = [(r.work, r.name) for r in group]
        assert len(set(labels)) == len(labels), name
        if name not in ("levers", "flag", "gradients", "chain", *rows.CLOSE):
            of_side = [{r.work for r in group if r.side == side} for side in (OURS, THEIRS)]
            assert of_side[0] == of_side[1], name
    # The strongest PyTorch row uses the shortcuts that ours uses, and there is the usual one.
    pytorch = [r.how for g in plan.groups.values() for r in g if r.side == THEIRS and r.how]
    assert any(how.get("shortcuts") for how in pytorch)
    assert any(not how.get("resident") for how in pytorch)
    # Every rate that needs a limit finds one of its precision.
    limits = {r.work.dtype for r in plan.groups["matrix"]}
    timed = {r.work.dtype for g in plan.groups.values() for r in g if r.work.task == "train"}
    assert timed <= limits
    for what, (group, first, second, task) in table.PAIRS.items():
        left_out = second == rows.WITHOUT_ONEDNN and make is not rows.cpu
        left_out |= group == "chain" and make is rows.tiny
        if group in plan.groups and not left_out:
            names = {r.name for r in plan.groups[group] if r.work.task == task}
            assert {first, second} <= names, what


def test_a_gpu_checks_its_gradients_first_and_is_done_in_ten_minutes():
    plan = rows.gpu()
    assert next(iter(plan.groups)) == "gradients" and plan.minutes < 10 and plan.repeats >= 5
    checked = plan.groups["gradients"]
    forms = [r.how for r in checked]
    assert {"maps": False} in forms and {"relu": False} in forms and {"loop": "scan"} in forms
    assert {"pcn", "redcnn", "drl"} == {r.work.model for r in checked}
    # cuDNN may take a hundred times as long without our maps: such a row can't take the others'
    # time.
    slow = [r for g in plan.groups.values() for r in g if not r.how.get("maps", True)]
    assert len(slow) == 4 and all(r.limit_s <= 60 for r in slow)


def test_a_gpus_precisions_and_batches_meet_the_same_pytorch_rows():
    groups = rows.gpu().groups
    names = {r.name for r in groups["train"]} - {"PyTorch, usual: eager, DataLoader"}
    assert names == {r.name for r in groups["float32"]} and len(names) == 4
    assert {f"batch-{n}" for n in (32, 256, 512, 1024)} <= groups.keys()
    chain = {(r.how["layers"], r.how["pallas"]) for r in groups["chain"]}
    assert chain == {(2, False), (2, True), (4, False), (4, True)}


def test_xlas_convolutions_have_rows_of_their_own_where_onednn_is_the_default():
    def without(plan, *groups):
        return [r for n in groups for r in plan.groups[n] if not r.how.get("onednn", True)]

    compared = "train", "infer", "batch-4", "redcnn", "dncnn", "size-33", "mapnn"
    with_it, not_there = rows.cpu(), rows.cpu(onednn=False)
    assert len(without(with_it, *compared)) == len(compared)
    assert not without(not_there, *compared)
    for plan in (with_it, not_there):
        for name in compared:
            names = [r.name for r in plan.groups[name]]
            assert names[0] == "ours" and "PyTorch, compiled, channels_last" in names
        # Forms of XLA's convolutions: with oneDNN none of these would run.
        assert len(without(plan, "flag", "convolutions")) == 6


def record_of(groups: dict, rates: dict) -> dict:
    """A record with made-up rates: (group, row's number) → units a second, or why there is none."""
    record = table.empty(Plan(groups), ["python", "-m", "experiments.speed"])
    for name, group in groups.items():
        for i, one in enumerate(group):
            record["rows"].append(row := table.row(name, one))
            rate = rates.get((name, i), "there was no time")
            if isinstance(rate, str):
                row["reason"] = rate
                continue
            row["status"] = "measured"
            device = {"kind": "cpu", "cpu": "some CPU", "cores": 2, "threads": 2, "xla_flags": ""}
            device["onednn"] = "2023.2.0" if i == 0 else "not used"
            versions = {"jax": "0", "python": "3", "torch": "2"}
            row["facts"] = {"compile_s": 1.0, "executed_flops": 2_000_000}
            row["facts"] |= {"device": device, "versions": versions}
            units = (rate, 0.9 * rate, 1.2 * rate)
            row["repeats"] = [{"seconds": 1.0, "units": u, "steps": 2} for u in units]
            for repeat, idle in zip(row["repeats"], (0.03, 0.01, 0.02), strict=True):
                repeat |= {"idle_s": idle} if one.how.get("part") in ("loop", "everything") else {}
    nominal = {
        f"pcn_tiny {task} {size}": 1_000_000 for task, size in (("train", 16), ("infer", 64))
    }
    table.derive(record, nominal)
    return record


GROUPS = {
    "matrix": rows.matrices(64, "float32"),
    "train": [ours(TRAIN), theirs(TRAIN, "slow", {}), theirs(TRAIN, "fast", {})],
    "infer": [ours(INFER), theirs(INFER, "fast", {})],
    "levers": [ours(TRAIN, "warm start")],
    **rows.close(TRAIN, TRAIN),
}
RATES = {("matrix", 0): 0.5, ("matrix", 1): 1.0, ("infer", 0): 3.0, ("infer", 1): 4.0}
RATES |= {("train", 0): 1000.0, ("train", 1): 400.0, ("train", 2): 500.0}


def test_ratios_are_to_the_fastest_pytorch_row_and_mfu_to_the_faster_matrix_product():
    record = record_of(GROUPS, RATES)
    summary = record["summary"]
    assert summary["pcn_train_ratio"] == pytest.approx(2.0)
    # Rows where PyTorch wins are rows like the others.
    assert summary["pcn_infer_ratio"] == pytest.approx(0.75)
    # 1000 patches/s of 1 MFLOP against 1 TFLOP/s.
    assert summary["mfu"] == pytest.approx(1e-3) and summary["mfu_executed"] == pytest.approx(2e-3)
    assert (summary["device"], summary["cpu"]) == ("cpu", "some CPU")
    row = table.find(record["rows"], "train", "ours", "train")
    assert row["rate"] == {"median": 1000.0, "min": 900.0, "max": 1200.0}
    assert row["step_ms"]["median"] == pytest.approx(500.0)


def test_a_row_that_failed_says_so_and_takes_its_figures_with_it():
    record = record_of(GROUPS, RATES | {("train", 0): "exit 1: no memory"})
    assert record["summary"]["pcn_train_ratio"] is None and record["summary"]["mfu"] is None
    assert "no memory" in table.markdown(record) and "no memory" in table.line(record["rows"][2])
    # So does a group of which only some were measured.
    assert record["summary"]["pcn_infer_ratio"] == pytest.approx(0.75)


def test_what_differs_by_a_few_per_cent_is_a_ratio_of_rows_of_one_run():
    rates = {("epoch", 0): 100.0, ("epoch", 1): 99.0, ("epoch", 2): 90.0, ("levers", 0): 9.0}
    rates |= {("input", 0): 10.0, ("input", 1): 10.5}
    record = record_of(GROUPS, RATES | rates)
    medians = [p["median"] for p in record["pairs"].values()]
    assert medians == pytest.approx([10 / 10.5, 0.99, 0.9])
    assert record["summary"]["idle"] == 0.02 and record["summary"]["warm_start_s"] == 1.0
    nothing = record_of(GROUPS, RATES)
    assert nothing["pairs"] == {} and nothing["summary"]["idle"] is None


def test_the_page_says_with_which_convolutions_a_row_is_that_is_called_ours():
    assert "oneDNN 2023.2.0" in table.markdown(record_of(GROUPS, RATES))
    beside = {**GROUPS, "train": [*GROUPS["train"], ours(TRAIN, rows.WITHOUT_ONEDNN)]}
    record = record_of(beside, RATES | {("train", 3): 400.0})
    assert record["pairs"]["training step with oneDNN over without"]["median"] == 2.5


def row_of(*rates: float) -> dict:
    return {"repeats": [{"units": rate, "seconds": 1.0} for rate in rates]}


def test_two_rows_are_compared_repeat_by_repeat():
    """A machine that becomes busy slows both rows of a repeat."""
    busy = np.geomspace(1.0, 0.3, 7)
    found = table.paired(row_of(*(99.0 * busy)), row_of(*(100.0 * busy)))
    assert found["low"] == pytest.approx(0.99) and found["high"] == pytest.approx(0.99)
    # The medians of the two rows are 20 and 25.
    found = table.paired(row_of(10.0, 20.0, 60.0), row_of(10.0, 25.0, 40.0))
    assert found["median"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("n", "left_out", "coverage"),
    [(3, 0, 0.75), (6, 0, 0.96875), (12, 2, 0.96143), (15, 3, 0.96484)],
)
def test_the_interval_of_a_ratio_is_that_of_the_sign_test(n, left_out, coverage):
    ratios = np.linspace(0.9, 1.1, n)
    found = table.paired(row_of(*np.random.default_rng(0).permutation(ratios)), row_of(*[1.0] * n))
    assert found["median"] == pytest.approx(1.0)
    assert (found["low"], found["high"]) == (ratios[left_out], ratios[n - 1 - left_out])
    assert found["coverage"] == pytest.approx(coverage, abs=1e-5)


def test_the_files_hold_every_row_and_the_table_its_columns(tmp_path):
    record = record_of(GROUPS, RATES)
    table.write(record, tmp_path)
    assert json.loads((tmp_path / "speed.json").read_text()) == record
    lines = (tmp_path / "speed.md").read_text().splitlines()
    start = lines.index(next(x for x in lines if x.startswith("| work")))
    body = lines[start : start + 2 + len(record["rows"])]
    assert {x.count("|") for x in body} == {12}
    for row, line in zip(record["rows"], body[2:], strict=True):
        assert f"| {row['name']} |" in line
        assert ("there was no time" in line) == (row["status"] == "not measured")
