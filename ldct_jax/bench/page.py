"""The report of a benchmark: tables and plots from ``speed.json``, nothing measured again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldct_jax.bench.cells import OURS
from ldct_jax.bench.results import describe, measured, unit
from ldct_jax.report import figures
from ldct_jax.report.page import Provenance, Report, Section
from ldct_jax.report.tables import Column, Table

_PROTOCOL = (
    "median (min-max) of {repeats} repeats after warm-up, the rows of one group in turn, each in "
    "a process of its own; same weights, same patches, same optimiser; float32 outputs equal to "
    "1e-5 before anything is timed"
)
_DATA = "embedded phantoms with simulated noise"
_PAIRS = {
    "loop_share": "speed of the training loop over that of its compiled calls alone",
    "evaluated_share": "speed of the loop with a slice evaluated and the state saved every epoch "
    "over that of its compiled calls alone",
    "input_share": "speed with the input pipeline over that with one fixed batch",
    "over_convolutions": "time of the training step over that of its convolutions alone",
}
_INTRO = (
    "ldct_jax and PyTorch, measured side by side in one run. Ratio: this row's rate over that of "
    "the fastest PyTorch row for the same work. MFU: operations over time over the rate of a "
    "large matrix product in the same precision, measured in this run (the faster of both "
    "frameworks); nominal operations are the network's as its paper writes it, executed ones what "
    "the program does."
)


def write(record: dict, folder: Path) -> Path:
    """Write ``report.html``, ``tables/`` and ``figures/`` under ``folder``; the page's path."""
    timed = [r for r in record["rows"] if r["work"]["task"] in ("train", "infer")]
    epochs = [r for r in record["rows"] if r["work"]["task"] == "epoch"]
    speed = [r for r in timed if r["group"] != "levers"]
    levers = [r for r in timed if r["group"] == "levers"]
    reach = [r for r in record["rows"] if r["work"]["task"] == "reach"]
    matrix = [r for r in record["rows"] if r["work"]["task"] == "matrix"]
    sections = []
    if speed:
        plots = _sweeps(speed)
        sections.append(
            Section("Steps and slices", _summary(record), [_table(speed, _protocol(speed))], plots)
        )
    if pairs := record["summary"].get("pairs"):  # a record of an earlier version has none
        sections.append(Section("Pairs", tables=[_pairs_table(pairs)]))
    if epochs:
        sections.append(Section("Whole epochs", tables=[_epoch_table(epochs, _protocol(epochs))]))
    if levers:
        sections.append(Section("Levers", tables=[_lever_table(levers, _protocol(levers))]))
    if reach:
        sections.append(Section("Time to a validation PSNR", tables=[_reach_table(reach)]))
    if matrix:
        table = _matrix_table(matrix, _protocol(matrix))
        sections.append(Section("The machine's limit", tables=[table]))
    return Report(
        title="Speed",
        intro=_INTRO,
        sections=sections,
        claims=[],
        provenance=_provenance(record, _protocol([*matrix, *timed, *epochs])),
    ).write(folder)


def _protocol(rows: Sequence[dict]) -> str:
    counts = sorted({len(r["repeats"]) for r in rows if measured(r)})
    return _PROTOCOL.format(repeats=" or ".join(map(str, counts)) or "no")


def _summary(record: dict) -> str:
    s = record["summary"]
    words = []
    for key, what in (
        ("pcn_train_ratio", "PCN training, ours over the fastest PyTorch"),
        ("pcn_infer_ratio", "PCN inference, ours over the fastest PyTorch"),
    ):
        value = f"{s[key]:.2f}" if s[key] is not None else f"not measured ({s['missing'][key]})"
        words.append(f"{what}: {value}.")
    if s["mfu"] is not None:
        words.append(f"MFU of our PCN training step: {100 * s['mfu']:.1f} %.")
    for key, what in _PAIRS.items():
        if s.get(key) is not None:
            words.append(f"{what[0].upper()}{what[1:]}: {s[key]:.3f}.")
    if s.get("outside_device") is not None:
        words.append(
            "Share of the training loop's time in which the device had no call: "
            f"{100 * s['outside_device']['median']:.1f} %."
        )
    if s.get("warm_start_s") is not None:
        words.append(f"Compilation from the persistent cache: {s['warm_start_s']:.1f} s.")
    return " ".join(words)


def _state(r: dict) -> str:
    return "measured" if measured(r) else f"{r['status']}: {r['reason']}"


def _rate(r: dict) -> str | None:
    if not measured(r):
        return None
    v = r["rate"]
    return f"{v['median']:.4g} ({v['min']:.4g}-{v['max']:.4g}) {unit(r['work'])}"


def _percent(r: dict, key: str) -> float | None:
    return 100 * r[key] if key in r else None


def _memory(r: dict) -> str | None:
    facts = r["facts"]
    if "peak_bytes" not in facts:
        return None
    return f"{facts['peak_bytes'] / 2**20:.0f} MiB ({facts['memory_of']})"


def _table(rows: Sequence[dict], protocol: str) -> Table:
    return Table(
        name="speed",
        title="Training steps and whole slices",
        columns=[
            Column("work"),
            Column("row"),
            Column("rate"),
            Column("step", "ms", 2),
            Column("ratio", "", 2),
            Column("MFU nominal", "%", 1),
            Column("MFU executed", "%", 1),
            Column("compile", "s", 1),
            Column("peak memory"),
            Column("loss", "", 8),
            Column("output error", "", 9),
            Column("state"),
        ],
        rows=[
            [
                describe(r["work"]),
                r["name"],
                _rate(r),
                r["step_ms"]["median"] if measured(r) else None,
                r.get("ratio"),
                _percent(r, "mfu"),
                _percent(r, "mfu_executed"),
                r["facts"].get("compile_s"),
                _memory(r),
                r["facts"].get("loss"),
                r["facts"].get("output_error"),
                _state(r),
            ]
            for r in rows
        ],
        protocol=protocol,
        data=_DATA,
        note="Loss: after the same few steps from the same weights. PyTorch's compile time is its "
        "first step's; its eager rows compile nothing.",
    )


def _pairs_table(pairs: dict) -> Table:
    return Table(
        name="pairs",
        title="What differs by a few per cent: two rows of ours, repeat by repeat",
        columns=[
            Column("ratio of"),
            Column("median", "", 3),
            Column("from", "", 3),
            Column("to", "", 3),
            Column("coverage", "%", 1),
            Column("repeats"),
        ],
        rows=[
            [
                _PAIRS[key],
                pair["median"],
                pair["low"],
                pair["high"],
                100 * pair["coverage"],
                pair["repeats"],
            ]
            for key, pair in pairs.items()
        ],
        protocol="one ratio a repeat, the two rows in turn, there and back; if repeats are "
        "independent the true median lies from … to … with the stated probability (sign test), "
        "whatever the distribution",
        data=_DATA,
        note="The rows' own medians, in the other tables, can be those of different moments of a "
        "shared machine.",
    )


def _epoch_table(rows: Sequence[dict], protocol: str) -> Table:
    return Table(
        name="epoch",
        title="Whole epochs: time outside the device",
        columns=[
            Column("work"),
            Column("row"),
            Column("rate"),
            Column("no call with the device", "% of the time", 1),
            Column("state"),
        ],
        rows=[
            [
                describe(r["work"]),
                r["name"],
                _rate(r),
                100 * r["outside"]["median"] if "outside" in r else None,
                _state(r),
            ]
            for r in rows
        ],
        protocol=protocol,
        data=_DATA,
        note="The first epoch and the compilation are not timed. The loop writes its log; the last "
        "row denoises a slice and saves the best state every epoch. No call with the device: from "
        "the end of one compiled call until the next is handed over; what lasts less than a "
        "millisecond isn't seen. On a CPU the part of an evaluation that outlasts the next call "
        "counts as such.",
    )


def _lever_table(rows: Sequence[dict], protocol: str) -> Table:
    base = next((r["rate"]["median"] for r in rows if r["name"] == "default" and measured(r)), None)
    return Table(
        name="levers",
        title="Levers, one by one",
        columns=[
            Column("lever"),
            Column("work"),
            Column("prediction"),
            Column("rate"),
            Column("against the default", "", 3),
            Column("compile", "s", 1),
            Column("peak memory"),
            Column("state"),
        ],
        rows=[
            [
                r["name"],
                describe(r["work"]),
                r["prediction"],
                _rate(r),
                r["rate"]["median"] / base if measured(r) and base else None,
                r["facts"].get("compile_s"),
                _memory(r),
                _state(r),
            ]
            for r in rows
        ],
        protocol=protocol,
        data=_DATA,
    )


def _reach_table(rows: Sequence[dict]) -> Table:
    return Table(
        name="reach",
        title="From the first line of compilation to a validation PSNR",
        columns=[
            Column("work"),
            Column("row"),
            Column("gain over the undenoised slice", "dB", 1),
            Column("time", "s", 1),
            Column("steps"),
            Column("ratio", "", 2),
            Column("state"),
        ],
        rows=[
            [
                describe(r["work"]),
                r["name"],
                r["work"]["gain_db"],
                r["seconds"]["median"] if r.get("reached") else None,
                r.get("steps"),
                r.get("ratio") if r.get("reached") else None,
                "not reached" if measured(r) and not r["reached"] else _state(r),
            ]
            for r in rows
        ],
        protocol="one run a row, compilation and validation included, imports not; PSNR of one "
        "validation slice in network units, peak 1",
        data=_DATA,
    )


def _matrix_table(rows: Sequence[dict], protocol: str) -> Table:
    return Table(
        name="matrix",
        title="Rate of a large matrix product",
        columns=[Column("work"), Column("framework"), Column("rate"), Column("state")],
        rows=[
            [
                describe(r["work"]),
                "JAX" if r["side"] == OURS else r["name"],
                _rate(r),
                _state(r),
            ]
            for r in rows
        ],
        protocol=protocol.split(";")[0],
        data="random matrices",
    )


def _sweeps(rows: Sequence[dict]) -> list[figures.Figure]:
    """Patches a second against batch and against patch size, one curve a row's name."""
    head = next((r for r in rows if r["group"] == "train"), None)
    if head is None:
        return []
    out = []
    for axis, fixed, label in (
        ("batch", "size", "patches a step"),
        ("size", "batch", "side of a patch [pixels]"),
    ):
        same = [
            r
            for r in rows
            if measured(r)
            and r["group"] not in ("convolutions", "input")  # the head's own work once more
            and r["how"].get("shortcuts", r["side"] == OURS)
            and r["work"] == {**head["work"], axis: r["work"][axis]}
        ]
        curves = []
        for name in dict.fromkeys(r["name"] for r in same):
            points = sorted(
                (r["work"][axis], r["rate"]["median"]) for r in same if r["name"] == name
            )
            if len(points) > 1:
                curves.append(figures.Curve(name, *zip(*points, strict=True)))
        if curves:
            out.append(
                figures.lines(
                    f"sweep_{axis}",
                    f"PCN training against {axis}",
                    curves,
                    label,
                    "patches/s",
                    caption=f"{fixed} {head['work'][fixed]}, {head['work']['dtype']}",
                    markers=True,
                    log_y=True,
                )
            )
    return out


def _provenance(record: dict, protocol: str) -> Provenance:
    device = record["device"]
    theirs = next((r["facts"] for r in record["rows"] if r["side"] != OURS and r["facts"]), {})
    versions = dict(record["versions"])
    versions |= {
        k if k in ("torch", "cuda", "cudnn") else f"{k} (PyTorch's rows)": v
        for k, v in theirs.get("versions", {}).items()
    }
    extra = {"revision": record["revision"], "date": record["date"]}
    if record["flags"]:
        extra["flags"] = " ".join(record["flags"])
    if "device" in theirs and "threads" in theirs["device"]:
        extra["PyTorch's threads"] = str(theirs["device"]["threads"])
    return Provenance(
        data=_DATA,
        protocol=protocol,
        scale=f"plan {record['plan']}",
        commands=[record["command"]] if record["command"] else [],
        versions=versions,
        device=f"{device['count']} x {device['kind']}; {device['cpu']}, {device['cores']} cores",
        wall_seconds={"benchmark": record["seconds"]},
        extra=extra,
    )
