"""What is measured: the plans, the rows, and what follows from the numbers."""

import copy
import json
from html import escape

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldct_jax.bench import page, plans, results
from ldct_jax.bench.cells import MODELS, OURS, THEIRS, Work
from ldct_jax.bench.child import without_paths
from ldct_jax.bench.convolutions import convolutions
from ldct_jax.bench.levers import FixedBatch, RematClones
from ldct_jax.bench.prepare import build, nominal_flops
from ldct_jax.bench.run import Request, run
from ldct_jax.errors import UsageError
from ldct_jax.models.clones import ClonesNet
from ldct_jax.models.convolution import conv
from ldct_jax.models.flops import flops
from tests import tiny

pytestmark = pytest.mark.core
DEVICE = {"backend": "cpu", "kind": "cpu", "count": 1, "cpu": "some CPU", "cores": 2}


@pytest.mark.parametrize("plan", [plans.gpu(), plans.cpu(), plans.tiny()], ids=lambda p: p.name)
def test_every_plan_compares_equal_work_and_names_its_rows_apart(plan):
    names = [g.name for g in plan.groups]
    assert len(set(names)) == len(names) and names[:3] == ["matrix", "train", "infer"]
    for group in plan.groups:
        labels = [(c.work, c.name) for c in group.cells]
        assert len(set(labels)) == len(labels)
        if group.name not in ("levers", "epoch", "convolutions", "input"):
            ours, theirs = ({c.work for c in group.cells if c.side == s} for s in (OURS, THEIRS))
            assert ours == theirs
    train = next(g for g in plan.groups if g.name == "train")
    # The strongest PyTorch row uses the shortcuts that ours uses, and there is the usual one.
    assert any(c.how.get("shortcuts") for c in train.cells if c.side == THEIRS)
    assert any(c.how.get("resident") is False for c in train.cells)
    # Every rate that needs a limit finds one of its precision.
    limits = {c.work.dtype for g in plan.groups[:1] for c in g.cells}
    works = {c.work for g in plan.groups for c in g.cells if not c.needs_gpu}
    assert {w.dtype for w in works} <= limits


def test_the_targets_are_part_of_the_plans():
    assert plans.gpu().minutes < 10 and plans.gpu().repeats >= 5 <= plans.cpu().repeats
    levers = {c.name for c in plans.levers(Work("train"), on_gpu=True)}
    for word in ("unrolled", "shortcuts", "layers", "command buffers", "remat", "batch", "a call"):
        assert any(word in name for name in levers)
    assert all(c.prediction for c in plans.levers(Work("train"), on_gpu=False))


def test_nominal_work_is_that_of_the_paper():
    """The design counts 0.438 GMAC a clone forward: 10.5 GFLOP a training patch of the full PCN."""
    kind, fields = MODELS["pcn"]
    model = build(kind, fields)
    x = jax.ShapeDtypeStruct((1, 55, 55, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert nominal_flops(model, variables, "train", 55) == pytest.approx(10.5e9, rel=0.01)


def test_a_steps_convolutions_are_all_of_them():
    """Rolled and unrolled clones have the same ones, and their products are the step's."""
    x = jnp.zeros((2, 16, 16, 1))

    def gradient(loop):
        net = ClonesNet(n_filters=4, n_clones=3, n_layers=4, loop=loop)
        variables = net.init(jax.random.key(0), x)
        return jax.grad(lambda v: jnp.mean(jnp.square(net.apply(v, x)))), variables

    rolled, unrolled = (convolutions(*gradient(loop)) for loop in ("scan", "unrolled"))
    assert rolled == unrolled and rolled.total() > len(rolled)
    products = 0
    for one, times in rolled.items():
        program, a, b = one.compiled()
        out = program(a, b)
        # Each output value is a sum over the kernel's window and input channels.
        products += times * out.size * b.size // out.shape[-1]
    assert 2 * products == flops(*gradient("scan"), padding=True)


def test_of_branches_for_platforms_the_one_of_this_device_counts():
    x = jnp.zeros((4, 16, 16, 1))
    kernel = jnp.zeros((3, 3, 1, 2))
    grad = jax.grad(lambda k: jnp.sum(conv(x, k) ** 2))
    text = jax.jit(grad).lower(kernel).as_text()
    assert convolutions(grad, kernel).total() == text.count("stablehlo.convolution")

    def either(k):
        return jax.lax.cond(k[0, 0, 0, 0] > 0, lambda: conv(x, k), lambda: x[:, 2:, 2:])

    with pytest.raises(UsageError, match="through a cond"):
        convolutions(lambda k: jnp.sum(either(k)), jnp.zeros((3, 3, 1, 1)))


def test_remat_changes_memory_and_not_the_function():
    fields = dict(n_filters=4, n_clones=3, n_layers=4)
    plain, again = ClonesNet(**fields), RematClones(**fields)
    x = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    variables = plain.init(jax.random.key(0), x)

    def gradients(net):
        return jax.grad(lambda v: jnp.mean(jnp.square(net.apply(v, x))))

    assert "remat" in str(jax.make_jaxpr(gradients(again))(variables))
    assert "remat" not in str(jax.make_jaxpr(gradients(plain))(variables))
    a, b = (jax.jit(gradients(net))(variables) for net in (plain, again))
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-7), a, b)


def test_a_fixed_batch_is_the_first_one_for_every_step():
    feeder = tiny.feeder()
    fixed = FixedBatch(feeder)

    def place(array, split):
        return jax.device_put(array)

    inputs = fixed.inputs(0, 0, 1, place)
    first = feeder.batch(feeder.inputs(0, 0, 1), 0)
    for step in (0, 5):
        jax.tree.map(np.testing.assert_array_equal, tuple(fixed.batch(inputs, step)), tuple(first))
    assert fixed.inputs(1, 3, 2, place) is inputs
    later = feeder.batch(feeder.inputs(0, 0, 1), 5)
    assert not np.array_equal(later.low_hu, first.low_hu)


def derive(record: dict) -> None:
    """What follows from the repeats, where every patch and slice is a million operations."""
    nominal = {
        f"{r['work']['model']} {r['work']['task']} {r['work']['size']}": 1_000_000
        for r in record["rows"]
    }
    results.derive(record, nominal)


def fake(plan, rates: dict, failed=()) -> dict:
    """A record with made-up rates: (group, row's number) → units a second."""
    record = results.empty(plan, DEVICE, "ldct bench --torch", torch=True)
    for group in plan.groups:
        for i, cell in enumerate(group.cells):
            row = results.row(group, cell)
            record["rows"].append(row)
            if (group.name, i) in failed:
                row |= {"status": "failed", "reason": "its process ended with 1: no memory"}
            elif (group.name, i) in rates:
                rate = rates[group.name, i]
                units = [rate, 0.9 * rate, 1.2 * rate]
                row["status"] = "measured"
                row["facts"] = {"compile_s": 1.0, "executed_flops": 2_000_000}
                row["repeats"] = [
                    {"seconds": 1.0, "units": u, "steps": 2, "reached": True} for u in units
                ]
    derive(record)
    record["seconds"] = 1.0
    return record


RATES = {("matrix", 0): 0.5, ("matrix", 1): 1.0} | {("train", 0): 1000.0, ("train", 1): 400.0}
RATES |= {("train", 2): 500.0, ("infer", 0): 3.0, ("infer", 1): 4.0}
RATES |= {("reach", 0): 0.5, ("reach", 1): 0.25, ("levers", 0): 10.0}


def test_ratios_are_against_the_fastest_pytorch_row_and_mfu_against_the_faster_matrix_product():
    record = fake(plans.tiny(), RATES)
    summary = record["summary"]
    assert summary["pcn_train_ratio"] == pytest.approx(2.0)
    # Rows where PyTorch wins are rows like the others.
    assert summary["pcn_infer_ratio"] == pytest.approx(0.75)
    # 1000 patches/s of 1 MFLOP against 1 TFLOP/s.
    assert summary["mfu"] == pytest.approx(1e-3) and summary["mfu_executed"] == pytest.approx(2e-3)
    assert summary["missing"] == {}
    row = next(r for r in record["rows"] if r["group"] == "train")
    assert row["rate"] == {"median": 1000.0, "min": 900.0, "max": 1200.0}
    assert row["step_ms"]["median"] == pytest.approx(500.0)


def test_the_time_outside_the_device_is_a_ratio_of_rows_of_one_run():
    rates = RATES | {("epoch", 0): 100.0, ("epoch", 1): 99.0, ("epoch", 2): 90.0}
    plan = plans.tiny()
    (levers,) = (g for g in plan.groups if g.name == "levers")
    place = {c.name: i for i, c in enumerate(levers.cells)}
    rates |= {("input", 0): 10.0, ("input", 1): 10.5, ("levers", place["warm start"]): 9.0}
    summary = fake(plan, rates)["summary"]
    assert summary["loop_share"] == pytest.approx(0.99)
    assert summary["evaluated_share"] == pytest.approx(0.9)
    assert summary["input_share"] == pytest.approx(10 / 10.5)
    assert summary["warm_start_s"] == 1.0
    nothing = fake(plan, RATES)["summary"]
    assert nothing["loop_share"] is nothing["input_share"] is nothing["warm_start_s"] is None


def row_of(*rates: float) -> dict:
    return {"repeats": [{"units": rate, "seconds": 1.0} for rate in rates]}


def test_two_rows_are_compared_repeat_by_repeat():
    """A machine that becomes busy slows both cells of a repeat."""
    busy = np.geomspace(1.0, 0.3, 7)
    found = results.paired(row_of(*(99.0 * busy)), row_of(*(100.0 * busy)))
    assert found["low"] == pytest.approx(0.99) and found["high"] == pytest.approx(0.99)
    assert found["repeats"] == 7
    # The medians of the two rows are 20 and 25.
    found = results.paired(row_of(10.0, 20.0, 60.0), row_of(10.0, 25.0, 40.0))
    assert found["median"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("n", "left_out", "coverage"),
    [(3, 0, 0.75), (6, 0, 0.96875), (12, 2, 0.96143), (15, 3, 0.96484)],
)
def test_the_interval_of_a_ratio_is_that_of_the_sign_test(n, left_out, coverage):
    ratios = np.linspace(0.9, 1.1, n)
    found = results.paired(
        row_of(*np.random.default_rng(0).permutation(ratios)), row_of(*[1.0] * n)
    )
    assert found["median"] == pytest.approx(1.0)
    assert (found["low"], found["high"]) == (ratios[left_out], ratios[n - 1 - left_out])
    assert found["coverage"] == pytest.approx(coverage, abs=1e-5)


def test_every_lever_that_needs_a_gpu_says_so_without_one():
    record = fake(plans.tiny(), RATES)
    (levers,) = (g for g in plans.tiny().groups if g.name == "levers")
    needy = [c.name for c in levers.cells if c.needs_gpu]
    assert len(needy) >= 5
    rows = [r for r in record["rows"] if r["name"] in needy]
    assert len(rows) == len(needy) and all("not measured" in results.line(r) for r in rows)


def test_a_row_that_failed_says_so_and_takes_its_figure_with_it():
    record = fake(plans.tiny(), RATES, failed={("train", 0)})
    assert record["summary"]["pcn_train_ratio"] is None and record["summary"]["mfu"] is None
    assert "no memory" in record["summary"]["missing"]["pcn_train_ratio"]
    row = next(r for r in record["rows"] if r["group"] == "train")
    assert "failed: its process ended" in results.line(row)


def test_the_report_holds_every_row(tmp_path):
    record = fake(plans.tiny(), RATES, failed={("train", 0)})
    before = copy.deepcopy(record)
    page.write(json.loads(json.dumps(record)), tmp_path)
    assert record == before
    html = (tmp_path / "report.html").read_text()
    for row in record["rows"]:
        assert escape(row["name"]) in html
    assert "no memory" in html and "not measured" in html
    table = json.loads((tmp_path / "tables" / "speed.json").read_text())
    assert len(table["rows"]) == 9


def test_a_record_of_an_earlier_version_still_has_a_report(tmp_path):
    record = fake(plans.tiny(), RATES)
    for key in ("pairs", "outside_device", "loop_share", "over_convolutions", "warm_start_s"):
        del record["summary"][key]
    assert page.write(record, tmp_path).is_file()


def test_the_report_says_how_two_rows_compare_and_how_long_the_device_waited(tmp_path):
    plan = plans.tiny()
    rates = RATES | {("epoch", 0): 100.0, ("epoch", 1): 97.0}
    record = fake(plan, rates)
    loop = next(r for r in record["rows"] if r["name"] == "training loop")
    for repeat, idle in zip(loop["repeats"], (0.03, 0.01, 0.02), strict=True):
        repeat["outside_s"] = idle
    derive(record)
    assert record["summary"]["outside_device"] == {"median": 0.02, "min": 0.01, "max": 0.03}
    html = page.write(record, tmp_path).read_text()
    assert "had no call: 2.0 %" in html and "compiled calls alone: 0.970" in html
    table = json.loads((tmp_path / "tables" / "pairs.json").read_text())
    assert len(table["rows"]) == 1


def test_the_sweep_is_plotted(tmp_path):
    plan = plans.cpu()
    rates = {(g.name, i): 10.0 for g in plan.groups for i, c in enumerate(g.cells)}
    page.write(fake(plan, rates), tmp_path)
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        "sweep_batch.png",
        "sweep_size.png",
    }


def test_a_curve_has_one_point_for_each_batch(tmp_path, monkeypatch):
    """Also where another group did the same work once more."""
    drawn, lines = [], page.figures.lines

    def noted(name, title, curves, *words, **how):
        drawn.extend(curves)
        return lines(name, title, curves, *words, **how)

    monkeypatch.setattr(page.figures, "lines", noted)
    plan = plans.cpu()
    rates = {(g.name, i): 10.0 for g in plan.groups for i, c in enumerate(g.cells)}
    page.write(fake(plan, rates), tmp_path)
    assert drawn and all(len(set(curve.x)) == len(curve.x) for curve in drawn)


def test_no_path_gets_into_a_reason():
    text = without_paths("error in /usr/lib/python3/x.py line 3\n  /tmp/ab/cell.json: rate 3/s")
    assert text == "error in … line 3 …: rate 3/s"


def test_an_unknown_group_is_a_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="train"):
        run(Request(tmp_path / "speed.json", only=("trane",)), plans.tiny())
