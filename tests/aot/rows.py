"""What is compiled for what, and what the compiled program says."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path

import jax.numpy as jnp

from tests.aot import programs
from tests.aot.hlo import Program, roofline_s
from tests.aot.targets import TARGETS

# One H100: bytes/s of its memory, dense bfloat16 and TF32 operations/s (data sheet).
BANDWIDTH, RATES = 3.352e12, {"bfloat16": 989e12, "float32": 494e12}
FOLDER = Path("runs/aot")


@dataclasses.dataclass(frozen=True)
class Row:
    """A program for a target.

    Args:
      what: a training of :data:`tests.aot.programs.TRAININGS`, or ``whole slices``, ``projector``,
        ``artefact`` (of the full PCN), ``N layers`` or ``N layers, Pallas``
        (:func:`tests.aot.programs.chain`).
      target: of :data:`tests.aot.targets.TARGETS`.
      dtype, loop: of the network; "" for the paper's.
      batch: patches a device; 0 for the paper's.
    """

    what: str
    target: str
    dtype: str = ""
    loop: str = ""
    batch: int = 0

    @property
    def name(self) -> str:
        options = [self.dtype, self.loop, f"{self.batch} patches" if self.batch else ""]
        return ", ".join([self.what, self.target, *filter(None, options)])

    @property
    def is_chain(self) -> bool:
        return " layers" in self.what

    @property
    def file(self) -> Path:
        return FOLDER / (re.sub(r"\W+", "-", self.name).lower() + ".json")

    def lowered(self):
        devices = TARGETS[self.target].devices()
        if self.what == "projector":
            return programs.projector(devices[0])
        if self.is_chain:
            layers = int(self.what.split()[0])
            return programs.chain(layers, devices[0], pallas="Pallas" in self.what)
        is_training = self.what in programs.TRAININGS
        experiment = programs.experiment(self.what if is_training else "PCN")
        if self.dtype:
            experiment = experiment.but(dtype=jnp.dtype(self.dtype))
        if self.loop:
            experiment = experiment.but(loop=self.loop)
        if is_training:
            return programs.training(experiment, devices, batch=self.batch or None)
        make = {"whole slices": programs.whole_slices, "artefact": programs.artefact}
        return make[self.what](experiment.model, devices[0])


CHAINS = (2, 4)
GPU = [Row(name, "H100") for name in programs.TRAININGS]
ROWS = [
    Row("PCN", "H100", "bfloat16"),
    Row("PCN", "H100", "bfloat16", "scan"),
    *GPU,
    Row("PCN", "8 H100"),
    Row("DnCNN", "8 H100"),
    Row("whole slices", "H100"),
    Row("projector", "H100"),
    Row("artefact", "H100"),
    *(Row(f"{n} layers{kind}", "H100", "bfloat16") for n in CHAINS for kind in ("", ", Pallas")),
    Row("PCN", "v5e", "bfloat16"),
    Row("PCN", "v5e"),
    Row("whole slices", "v5e"),
    Row("projector", "v5e"),
    Row("artefact", "v5e"),
    Row("PCN", "v5e", "", "scan"),
    Row("DnCNN", "4 v5e"),
    Row("PCN", "4 v5e"),
    Row("PCN", "v5p"),
    Row("PCN", "v6e"),
    *(Row(name, "v5e") for name in programs.TRAININGS if name != "PCN"),
]


def measure(row: Row) -> dict:
    """Compile the row's program and read it; kept in :data:`FOLDER` for the table."""
    target, began = TARGETS[row.target], time.perf_counter()
    lowered = row.lowered()
    between = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    program, memory = Program(compiled.as_text()), compiled.memory_analysis()
    inside = program.inside_loops()
    lines = [x for x in lowered.as_text().splitlines() if "stablehlo.convolution" in x]
    found = {
        "row": dataclasses.asdict(row),
        "lower_s": between - began,
        "compile_s": done - between,
        # Arguments are donated to the outputs, so nothing counts twice.
        "memory_gb": 1e-9
        * (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes
        ),
        "all_reduces": program.count("all-reduce", "all-reduce-start"),
        "convolutions": len(lines),
        "highest": sum("HIGHEST" in line for line in lines),
        "host": [
            i.name
            for i in inside
            if i.opcode in ("infeed", "outfeed", "send", "recv") or "callback" in i.text
        ],
    }
    if target.platform == "cuda":
        kernels = program.kernels()
        rate = RATES[row.dtype or "float32"]
        found |= {
            "giant_windows": program.giant_windows,
            "cudnn": dict(program.cudnn),
            "launches": sum(k.times for k in kernels),
            "once_a_call": sum(k.times for k in kernels if not k.in_loop)
            if row.what in programs.TRAININGS
            else 0,
            "gigabytes": 1e-9 * sum(k.times * k.nbytes for k in kernels),
            "roofline_ms": 1e3 * roofline_s(kernels, BANDWIDTH, rate),
        }
    else:
        found |= {
            "mega_cycles": 1e-6 * program.cycles,
            "estimated_ms": 1e-6 * program.cycles / target.ghz,
        }
    row.file.parent.mkdir(parents=True, exist_ok=True)
    row.file.write_text(json.dumps(found, indent=1) + "\n")
    return found
