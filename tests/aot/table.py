"""What ``make test-aot`` found, as docs/results/speed/aot.json and aot.md.

python -m tests.aot.table             # what was compiled last
python -m tests.aot.table --before    # keep it as the state before a change
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.aot.rows import FOLDER, ROWS, Row

RESULTS = Path("docs/results/speed")
# Foretold by prototypes for 128 patches, before these forms were in the project.
PREDICTED = {
    "PCN, H100, bfloat16": "10.5 GB, 314 launches",
    "PCN, H100": "21.1 GB",
    "PCN, v5e": "27 ms",
    "PCN, v5e, bfloat16": "23 ms",
    "PCN, v5p": "13 ms",
    "PCN, v6e": "10 ms",
}
ABOUT = """# Compiled for GPUs and TPUs, without one

`make test-aot` compiles the paper's programs with the compilers of jax for CUDA and TPUs on a
machine that has neither, and reads the optimised programs. **Nothing here is a time that was
measured.** Known: that a program compiles, its memory, its collectives, the cuDNN operations that
XLA found. Estimated: the bytes that its kernels must move at least, the time that an H100 needs for
them (3.35 TB/s; 989 TFLOP/s in bfloat16, 494 in TF32), and a TPU compiler's own count of cycles.
Unknown: how fast cuDNN's kernels are.

One step, with the paper's batch on each device (128 patches; HRNet and UNet: one slice). A
giant window is a weight gradient that XLA:GPU did not recognise and handed to cuDNN as a
convolution whose window is the whole image.
"""

# Each compiled once, on top of what the tables show; nothing here was timed.
TRIED = """Full PCN, bfloat16, 128 patches on an H100 (10.269 GB, 326 launches, 57 of them once a
call), each idea alone, compiled once with a patch that isn't in the project:

| idea | GB | launches | kept |
| --- | ---: | ---: | --- |
| skips and conv2's fixed part as side inputs | 10.269 | 326 | yes, XLA does it |
| clone 1's conv2 as (W_a + W_b) * F_0 | 10.205 | 327 | no: 0.6 %; the loops would differ |
| output deconvolutions as one | 10.532 | 313 | no: stacking the features is a copy |
| each clone computed again (`nn.remat`) | 12.739 | 419 | no: memory 1.16 → 0.75 GB |
| `nn.remat` with `dots_saveable` | 10.269 | 326 | no: changes nothing |
| barrier between gradients and Adam | 10.269 | 322 | no: 17 copies fewer, 13 fusions more |
| row-major weight gradients | 10.271 | 346 | no: each is transposed by itself |

What is left: convolutions 6.85 GB, all inputs and results of cuDNN; masks with the sums for the
biases 3.4 GB, each gradient read, masked, written. Through XLA cuDNN's input
gradient takes neither.

DRL had gained bytes with the three maps (4.39 → 4.76 GB): XLA:GPU knows no dilated weight gradient,
so image and gradient are rearranged by phases. With giant windows instead: 4.50 GB. The whole
convolution by phases: 4.82 GB, not kept. Convolutions of concatenated images as sums of
convolutions, so that nothing is concatenated or split: 4.49 GB, memory 0.75 → 0.52 GB, kept.
"""
CHAIN = """[A prototype](../../../experiments/speed/pallas_chain.py) keeps a chain of 48-channel
layers (3x3, ReLU) in registers, row by row: one Pallas kernel, Triton backend (which jax 0.12
says will go), forward only. It compiles ahead of time for an H100 in bfloat16, and interpreted
it equals the convolutions. Its column shifts are matrix products, two of 64x64 for each row of
a window, which add two thirds to the products. Unknown: its time, and how many registers
spill. 128 patches of 55x55, with cuDNN's bytes beside:
"""


def main(before: bool) -> None:
    kept = RESULTS / "aot.json"
    records = json.loads(kept.read_text("utf-8")) if kept.is_file() else {"before": {}, "now": {}}
    for file in sorted(FOLDER.glob("*.json")):
        found = json.loads(file.read_text("utf-8"))
        records["before" if before else "now"][Row(**found["row"]).name] = found
    kept.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", "utf-8")
    (RESULTS / "aot.md").write_text(page(records["before"], records["now"]), "utf-8")


def page(before: dict, now: dict) -> str:
    order = [row.name for row in ROWS if row.name in now]
    chains = [row.name for row in ROWS if row.is_chain and row.name in now]
    order = [name for name in order if name not in chains]
    gpus = [name for name in order if "gigabytes" in now[name]]
    parts = [
        ABOUT,
        "## Before and after\n",
        "Before: commit 0f182fb, rolled clones, padded copies, jax's ReLU.\n",
        table(
            ("program", "predicted", "GB", "launches", "giant windows", "roofline, ms"),
            [
                (name, PREDICTED.get(name, ""), *(_change(before[name], now[name], key) for key in
                 ("gigabytes", "launches", "giant_windows", "roofline_ms")))
                for name in gpus if name in before
            ],
        ),
        "## GPU\n",
        table(
            ("program", "GB", "launches", "once a call", "giant windows", "roofline, ms",
             "memory, GB", "all-reduces", "compiling, s"),
            [_cells(now[n], "gigabytes", "launches", "once_a_call", "giant_windows", "roofline_ms",
                    name=n)
             for n in gpus],
        ),
        "Once a call: launches outside the loop over 256 steps, part of the number before.\n",
        "## A chain of layers as one kernel\n",
        CHAIN,
        table(
            ("program", "GB", "launches", "memory, GB", "all-reduces", "compiling, s"),
            [_cells(now[n], "gigabytes", "launches", name=n) for n in chains],
        ),
        "## Tried\n",
        TRIED,
        "## TPU\n",
        table(
            ("program", "predicted", "million cycles", "estimated, ms", "memory, GB", "all-reduces",
             "compiling, s"),
            [_cells(now[n], "mega_cycles", "estimated_ms", name=n, predicted=PREDICTED.get(n, ""))
             for n in order if n not in gpus],
        ),
        "Compile times are those of two shared CPU cores.\n",
    ]  # fmt: skip
    return "\n".join(parts)


def _cells(found: dict, *keys: str, name: str, predicted: str | None = None) -> tuple:
    extra = () if predicted is None else (predicted,)
    numbers = (found.get(key, "") for key in (*keys, "memory_gb", "all_reduces"))
    return (name, *extra, *map(_text, numbers), f"{found['lower_s'] + found['compile_s']:.0f}")


def _change(before: dict, now: dict, key: str) -> str:
    return f"{_text(before[key])} → {_text(now[key])}"


def _text(value) -> str:
    value = len(value) if isinstance(value, list) else value
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(header: tuple, rows: list[tuple]) -> str:
    lines = [header, ("---", *("---:" for _ in header[1:])), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main(before="--before" in sys.argv[1:])
