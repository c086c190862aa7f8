"""From repeats to rates, MFU, ratios, a summary; as JSON and as one markdown table a group."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import statistics
from pathlib import Path

from experiments.speed.rows import CHAINS, OURS, THEIRS, WITHOUT_ONEDNN, Plan, Row, Work
from ldct_jax.system import provenance, xla_flags
from ldct_jax.system.files import write_bytes

LOOP, EVALUATED = "training loop", "training loop, evaluated and saved every epoch"
FLAG_OFF = "convolutions by YNNPACK"
# Two rows of ours and what the rate of the first over that of the second is: (group, first, second,
# task).
PAIRS = {
    **{
        f"{what} with oneDNN over without": (group, "ours", WITHOUT_ONEDNN, task)
        for group, task, what in (
            ("train", "train", "training step"),
            ("infer", "infer", "whole slices"),
            ("batch-4", "train", "batch 4"),
            ("redcnn", "train", "RED-CNN"),
            ("dncnn", "train", "DnCNN"),
            ("size-33", "train", "33x33"),
            ("mapnn", "train", "MAP-NN"),
        )
    },
    **{
        f"{n} layers by Pallas over cuDNN's": (
            "chain",
            f"{n} layers, Pallas",
            f"{n} layers",
            "chain",
        )
        for n in CHAINS
    },
    "step time over that of its convolutions alone": (
        "convolutions",
        "its convolutions alone",
        "ours",
        "train",
    ),
    "speed with the input pipeline over one batch": (
        "input",
        "patches cut in the step",
        "one batch",
        "train",
    ),
    "training loop over compiled calls": ("epoch", LOOP, "compiled calls alone", "epoch"),
    "the same, evaluated and saved every epoch": (
        "epoch",
        EVALUATED,
        "compiled calls alone",
        "epoch",
    ),
    "training step with the flag over without": ("flag", "ours", FLAG_OFF, "train"),
    "whole slices with the flag over without": ("flag", "ours", FLAG_OFF, "infer"),
}


def empty(plan: Plan, command: list[str]) -> dict:
    """The record of a run that has no rows yet."""
    settings = dataclasses.asdict(plan)
    del settings["groups"]
    return {
        "format": 2,
        "command": " ".join(word.rsplit("/", 1)[-1] for word in command),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "revision": provenance.revision(),
        "large_pages": os.environ.get(xla_flags.TUNABLES, ""),
        "settings": settings,
        "rows": [],
        "matrix_tflops": {},
        "pairs": {},
        "summary": {},
    }


def row(group: str, row: Row) -> dict:
    """A row before anything is known about it."""
    known = {"status": "not measured", "reason": "", "facts": {}, "repeats": []}
    return {"group": group, **dataclasses.asdict(row), **known}


def measured(r: dict) -> bool:
    return r["status"] == "measured" and bool(r["repeats"])


def derive(record: dict, nominal: dict[str, int]) -> None:
    """Fill in what follows from the repeats.

    ``nominal``: operations of one patch or slice by "model task size".
    """
    rows = record["rows"]
    for r in filter(measured, rows):
        r["rate"] = spread([x["units"] / x["seconds"] for x in r["repeats"]])
        r["step_ms"] = spread([1e3 * x["seconds"] / x["steps"] for x in r["repeats"]])
        if "idle_s" in r["repeats"][0]:
            r["idle"] = spread([x["idle_s"] / x["seconds"] for x in r["repeats"]])
    limits = record["matrix_tflops"]
    for r in filter(measured, rows):
        if r["work"]["task"] == "matrix":
            # The faster of both sides: what MFU is measured against.
            dtype = r["work"]["dtype"]
            limits[dtype] = max(limits.get(dtype, 0.0), r["rate"]["median"])
    for r in filter(measured, rows):
        utilisation(r, limits, nominal)
        if (best := strongest(rows, r)) is not None:
            r["ratio"] = r["rate"]["median"] / best["rate"]["median"]
    record["pairs"] = {
        what: paired(first, second)
        for what, (group, a, b, task) in PAIRS.items()
        if (first := find(rows, group, a, task)) and (second := find(rows, group, b, task))
    }
    record["summary"] = summary(record)


def spread(values: list[float]) -> dict:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def utilisation(r: dict, limits: dict, nominal: dict[str, int]) -> None:
    """MFU: operations over time over the matrix products' rate, nominal and executed operations."""
    work, limit = r["work"], limits.get(r["work"]["dtype"])
    if work["task"] not in ("train", "infer") or limit is None:
        return
    counts = nominal[f"{work['model']} {work['task']} {work['size']}"], r["facts"]["executed_flops"]
    for key, n in zip(("nominal", "executed"), counts, strict=True):
        r[f"{key}_gflop"] = 1e-9 * n
        r[f"mfu_{key}"] = 1e-12 * n * r["rate"]["median"] / limit


def strongest(rows: list[dict], like: dict) -> dict | None:
    """The fastest PyTorch row of the same group and work, or None."""
    there = (r for r in rows if r["side"] == THEIRS and measured(r))
    same = [r for r in there if r["group"] == like["group"] and r["work"] == like["work"]]
    return max(same, key=lambda r: r["rate"]["median"], default=None)


def find(rows: list[dict], group: str, name: str, task: str) -> dict | None:
    """A measured row of ours."""
    ours = (r for r in rows if r["side"] == OURS and measured(r) and r["group"] == group)
    return next((r for r in ours if r["name"] == name and r["work"]["task"] == task), None)


def paired(first: dict, second: dict) -> dict:
    """The ratio of two rows' rates, taken repeat by repeat: the rows of a group take turns.

    What drifts from repeat to repeat (a shared machine) falls out of each ratio. ``median``, and
    ``low`` to ``high``: two of the ordered ratios between which the true median lies with
    probability ``coverage``, at least 95 % from six repeats on, if repeats are independent,
    whatever their distribution (sign test); of fewer repeats all of them.
    """
    rates = [[x["units"] / x["seconds"] for x in r["repeats"]] for r in (first, second)]
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


def summary(record: dict) -> dict:
    """The figures of the targets, None where a row is missing."""
    rows = record["rows"]
    train, infer = (find(rows, task, "ours", task) or {} for task in ("train", "infer"))
    loop, warm = find(rows, "epoch", LOOP, "epoch"), find(rows, "levers", "warm start", "train")
    devices = [r["facts"]["device"] for r in rows if r["side"] == OURS and "device" in r["facts"]]
    return {
        "device": devices[0]["kind"] if devices else None,
        "cpu": devices[0]["cpu"] if devices else None,
        "cores": devices[0]["cores"] if devices else None,
        "pcn_train_ratio": train.get("ratio"),
        "pcn_infer_ratio": infer.get("ratio"),
        "mfu": train.get("mfu_nominal"),
        "mfu_executed": train.get("mfu_executed"),
        "idle": loop["idle"]["median"] if loop else None,
        "warm_start_s": warm["facts"]["compile_s"] if warm else None,
    }


def write(record: dict, folder: Path) -> None:
    """``speed.json`` and ``speed.md``, each whole or not at all."""
    write_bytes(folder / "speed.json", (json.dumps(record, indent=1) + "\n").encode())
    write_bytes(folder / "speed.md", (markdown(record) + "\n").encode())


def line(r: dict) -> str:
    """One row as a line of text."""
    head = f"{Work(**r['work'])!s:<46} {r['name']:<42}"
    if not measured(r):
        return f"{head} {state(r)}"
    ratio = f", {r['ratio']:.2f}x" if "ratio" in r else ""
    return f"{head} {rate(r)} {Work(**r['work']).unit}{ratio}"


def state(r: dict) -> str:
    """Of a row without times."""
    if "gradient_error" in r["facts"]:
        return f"gradients equal to {r['facts']['gradient_error']:.1e}"
    return f"{r['status']}: {r['reason']}"


def rate(r: dict) -> str:
    return "{median:.4g} ({min:.4g}-{max:.4g})".format(**r["rate"])


def markdown(record: dict) -> str:
    """All groups in one table, the pairs in another, and what was measured with what."""
    head = "work,row,rate,step [ms],ratio,MFU [%],executed [%],compile [s],memory [MiB],loss,"
    cells = [f"{head}idle [%]".split(",")]
    for r in record["rows"]:
        work, facts = Work(**r["work"]), r["facts"]
        start = [str(work), r["name"]]
        if not measured(r):
            cells.append([*start, state(r), *[""] * 8])
            continue
        figures = [
            (r["step_ms"]["median"], ".4g"),
            (r.get("ratio"), ".2f"),
            (100 * r.get("mfu_nominal", math.nan), ".1f"),
            (100 * r.get("mfu_executed", math.nan), ".1f"),
            (facts.get("compile_s"), ".1f"),
            (r["repeats"][-1].get("peak_bytes", math.nan) / 2**20, ".0f"),
            (facts.get("loss"), ".7g"),
            (100 * r["idle"]["median"] if "idle" in r else None, ".1f"),
        ]
        there = ["" if v is None or math.isnan(v) else f"{v:{form}}" for v, form in figures]
        cells.append([*start, f"{rate(r)} {work.unit}", *there])
    text = ["# Speed", "", provenance_line(record), "", *as_lines(cells, 2), ""]
    if record["pairs"]:
        cells = [["two rows of ours, repeat by repeat", "median", "from", "to", "coverage [%]"]]
        for what, p in record["pairs"].items():
            numbers = [f"{p[key]:.3f}" for key in ("median", "low", "high")]
            cells.append([what, *numbers, f"{100 * p['coverage']:.1f}"])
        text += [*as_lines(cells, 1), ""]
    text.append(PROTOCOL.format(**record["settings"]))
    return "\n".join(text)


PROTOCOL = (
    "Medians (smallest-largest) of {repeats} or {more} repeats of at least {repeat_s} s after "
    "warm-up, the rows of a group in turn, each in a process of its own; same weights, same "
    "patches of phantoms, Adam; float32 outputs equal to 1e-5 before anything is timed. Ratio: to "
    "the fastest PyTorch row for the same work. MFU: operations of the network as its paper writes "
    "it, over time, over the rate of a large matrix product in the same precision, the faster of "
    "both sides; executed: the operations that the program does (with oneDNN: those of XLA's "
    "forms). Compile: PyTorch's is its first "
    "step's. Memory: the peak of the device, or of the process. Loss: after {loss_steps} steps "
    "from the same weights. Idle: the share of time in which no call was with the device."
)


def provenance_line(record: dict) -> str:
    # The first row of each side: later ones try other settings.
    facts = {r["side"]: r["facts"] for r in record["rows"][::-1] if "versions" in r["facts"]}
    words = [record["date"], f"revision {record['revision']}"]
    if ours := facts.get(OURS):
        device, versions = ours["device"], ours["versions"]
        words += [f"{device['kind']}; {device['cpu']}, {device['cores']} cores"]
        words += [f"jax {versions['jax']}, Python {versions['python']}", device["xla_flags"]]
        words += [f"oneDNN {device['onednn']}"]
    if theirs := facts.get(THEIRS):
        words.append("PyTorch {torch}, Python {python}".format(**theirs["versions"]))
        words.append(f"{theirs['device']['threads']} threads")
    words += [record["large_pages"], f"`{record['command']}`"]
    return ", ".join(filter(None, words)) + "."


def as_lines(cells: list[list[str]], words: int) -> list[str]:
    """A markdown table; the first row is its head, the first ``words`` columns are text."""
    rule = ["---"] * words + ["---:"] * (len(cells[0]) - words)
    return ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
