"""Rows of a benchmark: from the repeats to rates, MFU, a summary, JSON and text."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import statistics
from pathlib import Path

from ldct_jax.bench.cells import OURS, THEIRS, Cell, Group, Plan
from ldct_jax.system import provenance, xla_flags

FORMAT = 1


def empty(plan: Plan, device: dict, command: str, *, torch: bool) -> dict:
    """The record of a run that has no rows yet."""
    return {
        "format": FORMAT,
        "plan": plan.name,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "revision": provenance.revision(),
        "device": device,
        "versions": provenance.versions(),
        "flags": _flags(),
        "torch": torch,
        "settings": {
            "repeats": plan.repeats,
            "repeats_of_groups": {g.name: g.repeats for g in plan.groups if g.repeats},
            "repeat_seconds": plan.repeat_seconds,
            "loss_steps": plan.loss_steps,
            "minutes": plan.minutes,
            "optimizer": "Adam, constant rate",
            "memory": "XLA_PYTHON_CLIENT_PREALLOCATE=false",
        },
        "rows": [],
        "matrix_tflops": {},
        "summary": {},
    }


def _flags() -> list[str]:
    """The flags of XLA and of memory that are set for all cells; no path among them."""
    words = os.environ.get("XLA_FLAGS", "").split()
    if tunables := os.environ.get(xla_flags.TUNABLES):
        words.append(f"{xla_flags.TUNABLES}={tunables}")
    return [w for w in words if "/" not in w]


def row(group: Group, cell: Cell) -> dict:
    """The row of a cell before anything is known about it."""
    return {
        "group": group.name,
        "title": group.title,
        "side": cell.side,
        "name": cell.name,
        "work": dataclasses.asdict(cell.work),
        "how": dict(cell.how),
        "xla_flags": cell.xla_flags,
        "prediction": cell.prediction,
        "status": "not measured",
        "reason": "",
        "facts": {},
        "repeats": [],
    }


def measured(row: dict) -> bool:
    return row["status"] == "measured"


def derive(record: dict, nominal: dict[str, int]) -> None:
    """Fill in what follows from the repeats: rates, step times, MFU, ratios, the summary.

    ``nominal``: operations of one patch or slice by ``"model task size"``.
    """
    for r in record["rows"]:
        if not measured(r):
            continue
        rates = [x["units"] / x["seconds"] for x in r["repeats"]]
        r["rate"] = _spread(rates)
        if r["work"]["task"] == "reach":
            r["seconds"] = _spread([x["seconds"] for x in r["repeats"]])
            r["steps"] = r["repeats"][-1]["steps"]
            r["reached"] = all(x["reached"] for x in r["repeats"])
        else:
            r["step_ms"] = _spread([1e3 * x["seconds"] / x["steps"] for x in r["repeats"]])
        if all("outside_s" in x for x in r["repeats"]):
            r["outside"] = _spread([x["outside_s"] / x["seconds"] for x in r["repeats"]])
    _limits(record)
    for r in record["rows"]:
        _utilisation(r, record["matrix_tflops"], nominal)
    _ratios(record["rows"])
    record["summary"] = summary(record)


def _spread(values: list[float]) -> dict:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def paired(above: dict, below: dict) -> dict:
    """The ratio of two rows' rates, taken repeat by repeat: the cells of a group work in turn.

    What drifts from repeat to repeat (a shared machine) falls out of each ratio. ``median``, and
    ``low`` to ``high``: two of the ordered ratios between which the true median lies with
    probability ``coverage``, at least 95 % from six repeats on, if repeats are independent,
    whatever their distribution (sign test); of fewer repeats all of them.
    """
    rates = [[x["units"] / x["seconds"] for x in row["repeats"]] for row in (above, below)]
    ratios = sorted(a / b for a, b in zip(*rates, strict=True))
    n = len(ratios)

    def coverage(k: int) -> float:
        """Of the interval that leaves out ``k`` ratios at each end."""
        return 1 - 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n

    left_out = max((k for k in range(n // 2) if coverage(k) >= 0.95), default=0)
    return {
        "median": statistics.median(ratios),
        "low": ratios[left_out],
        "high": ratios[n - 1 - left_out],
        "coverage": coverage(left_out),
        "repeats": n,
    }


def _limits(record: dict) -> None:
    """The faster of the two sides' matrix products: what MFU is measured against."""
    for r in record["rows"]:
        if r["work"]["task"] == "matrix" and measured(r):
            dtype, found = r["work"]["dtype"], r["rate"]["median"]
            record["matrix_tflops"][dtype] = max(record["matrix_tflops"].get(dtype, 0.0), found)


def _utilisation(r: dict, limits: dict, nominal: dict[str, int]) -> None:
    work = r["work"]
    limit = limits.get(work["dtype"])
    if not measured(r) or work["task"] not in ("train", "infer") or limit is None:
        return
    per_unit = nominal[f"{work['model']} {work['task']} {work['size']}"]
    r["nominal_gflop"] = 1e-9 * per_unit
    r["mfu"] = 1e-12 * per_unit * r["rate"]["median"] / limit
    executed = r["facts"]["executed_flops"]
    r["executed_gflop"] = 1e-9 * executed
    r["mfu_executed"] = 1e-12 * executed * r["rate"]["median"] / limit


def _ratios(rows: list[dict]) -> None:
    """Each row against the fastest PyTorch row of the same group and work."""
    for r in rows:
        best = strongest(rows, r["group"], r["work"])
        if measured(r) and best is not None:
            r["ratio"] = r["rate"]["median"] / best["rate"]["median"]


def strongest(rows: list[dict], group: str, work: dict) -> dict | None:
    """The fastest PyTorch row for ``work`` in ``group``, or None where none was measured."""
    candidates = [
        r
        for r in rows
        if r["side"] == THEIRS and r["group"] == group and r["work"] == work and measured(r)
    ]
    # Who didn't reach the goal has no time to it.
    candidates = [r for r in candidates if r.get("reached", True)]
    return max(candidates, key=lambda r: r["rate"]["median"], default=None)


def summary(record: dict) -> dict:
    """The figures of the targets; None where a row is missing, and ``missing`` says which."""
    out: dict = {"device": record["device"]["kind"], "cpu": record["device"]["cpu"]}
    out["missing"] = {}
    for key, group in (("pcn_train_ratio", "train"), ("pcn_infer_ratio", "infer")):
        ours = next((r for r in record["rows"] if r["group"] == group and r["side"] == OURS), None)
        out[key] = None if ours is None else ours.get("ratio")
        if out[key] is None:
            out["missing"][key] = _why(record["rows"], group)
    ours = next((r for r in record["rows"] if r["group"] == "train" and r["side"] == OURS), {})
    for key in ("mfu", "mfu_executed"):
        out[key] = ours.get(key)
    if out["mfu"] is None:
        out["missing"]["mfu"] = "needs the train and the matrix group"
    # The loop of `ldct train` against its compiled calls alone; steps on cut patches against
    # steps on a fixed batch; the step's time over that of its convolutions; the share of the
    # loop's time in which no call was with the device; compilation where the persistent cache has
    # the program.
    by_name = {(r["group"], r["name"]): r for r in record["rows"] if measured(r)}
    loop, everything = "training loop", "training loop, evaluated and saved every epoch"
    out["pairs"] = {}
    for key, group, above, below in (
        ("loop_share", "epoch", loop, "compiled calls alone"),
        ("evaluated_share", "epoch", everything, "compiled calls alone"),
        ("input_share", "input", "patches cut in the step", "one batch"),
        ("over_convolutions", "convolutions", "its convolutions alone", "ours"),
    ):
        pair = [by_name.get((group, name)) for name in (above, below)]
        out[key] = None
        if None not in pair:
            out["pairs"][key] = paired(*pair)
            out[key] = out["pairs"][key]["median"]
    out["outside_device"] = by_name.get(("epoch", loop), {}).get("outside")
    warm = [r for r in record["rows"] if r["name"] == "warm start" and measured(r)]
    out["warm_start_s"] = warm[0]["facts"]["compile_s"] if warm else None
    return out


def _why(rows: list[dict], group: str) -> str:
    here = [r for r in rows if r["group"] == group and not measured(r)]
    return here[0]["reason"] if here else "its group was not run"


def write(record: dict, path: Path) -> None:
    """Write the JSON beside ``path`` and rename it, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".part")
    new.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    new.replace(path)


def describe(work: dict) -> str:
    """``pcn train, batch 16, 55x55, float32``."""
    if work["task"] == "matrix":
        return f"{work['size']}x{work['size']} matrix product, {work['dtype']}"
    return (
        f"{work['model']} {work['task']}, batch {work['batch']}, {work['size']}x{work['size']}, "
        f"{work['dtype']}"
    )


def unit(work: dict) -> str:
    """What a row's rate counts."""
    return {"infer": "slices/s", "matrix": "TFLOP/s", "reach": "1/s"}.get(work["task"], "patches/s")


def line(r: dict) -> str:
    """One row as a line of text."""
    head = f"{describe(r['work']):<52} {r['name']:<42}"
    if not measured(r):
        return f"{head} {r['status']}: {r['reason']}"
    ratio = f"  {r['ratio']:.2f}x" if "ratio" in r else ""
    if r["work"]["task"] == "reach":
        goal = f"+{r['work']['gain_db']:g} dB"
        if not r["reached"]:
            return f"{head} {goal} not reached in {r['steps']} steps"
        return f"{head} {goal} in {r['seconds']['median']:.1f} s ({r['steps']} steps){ratio}"
    rate = r["rate"]
    spread = f"{_number(rate['median'])} ({_number(rate['min'])}-{_number(rate['max'])})"
    share = f"  MFU {100 * r['mfu']:.1f} %" if "mfu" in r else ""
    return (
        f"{head} {spread} {unit(r['work'])}, {r['step_ms']['median']:.4g} ms{share}{ratio}, "
        f"compiled in {r['facts']['compile_s']:.1f} s"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
