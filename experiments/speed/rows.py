"""What is measured: groups of rows, each row a way to do a piece of work, in a process of its own.

The rows of a group take turns, and a row's ratio is that to the fastest PyTorch row of its group
with the same work. ``gpu()`` takes under ten minutes, ``cpu()`` about twenty on two cores.
"""

from __future__ import annotations

import dataclasses
from typing import Any

OURS, THEIRS = "jax", "torch"
# A row's own limit, where it has none but the plan's.
NO_LIMIT_S = 3600.0

# Name → (class, fields): what both sides build.
MODELS: dict[str, tuple[str, dict]] = {
    "pcn": ("ClonesNet", {}),
    "pcn_small": ("ClonesNet", {"n_filters": 16, "n_clones": 2, "n_layers": 6}),
    "pcn_tiny": ("ClonesNet", {"n_filters": 4, "n_clones": 2, "n_layers": 4}),
    "redcnn": ("REDCNN", {}),
    "dncnn": ("DnCNN", {"depth": 17}),
    "mapnn": ("MAPNN", {}),
    "drl": ("DRL", {}),
}


@dataclasses.dataclass(frozen=True)
class Work:
    """One piece of work, the same on both sides.

    Args:
      task: ``matrix`` (a square matrix product: the machine's limit), ``gradient`` (of two
        patches, compared with the reference and not timed), ``train`` (steps on patches, Adam),
        ``infer`` (whole slices), ``epoch`` (whole epochs as ``ldct train`` runs them), ``chain``
        (layers one after the other, forward, without a model: pallas_chain.py).
      model: a name in :data:`MODELS`. batch: patches or slices at once.
      size: their side, pixels (of a matrix: its rows).
      dtype: ``float32`` or ``bfloat16``, what the layers compute in; parameters are float32.
    """

    task: str
    model: str = "pcn"
    batch: int = 1
    size: int = 55
    dtype: str = "float32"

    @property
    def unit(self) -> str:
        return {"infer": "slices/s", "matrix": "TFLOP/s"}.get(self.task, "patches/s")

    def __str__(self) -> str:
        if self.task == "matrix":
            return f"matrix product, {self.size} rows, {self.dtype}"
        if self.task == "chain":
            return f"chain, batch {self.batch}, {self.size}x{self.size}, {self.dtype}"
        return (
            f"{self.model} {self.task}, batch {self.batch}, {self.size}x{self.size}, {self.dtype}"
        )

    def change(self, **fields) -> Work:
        return dataclasses.replace(self, **fields)


@dataclasses.dataclass(frozen=True)
class Row:
    """``how``: options of that side's program; ``flags``: added to ``XLA_FLAGS`` of the process.

    ``limit_s``: of its own work, where it may be many times as slow as the others of its group. It
    then fails alone, and the other rows keep their time.
    """

    side: str
    name: str
    work: Work
    how: dict[str, Any] = dataclasses.field(default_factory=dict)
    flags: str = ""
    limit_s: float = NO_LIMIT_S


@dataclasses.dataclass(frozen=True)
class Plan:
    """All rows of a run, the most important first, and what they share.

    Args:
      slices, slice_size: phantoms to train on. loss_steps: after how many the loss is noted.
      epoch_steps: of an epoch, at most.
      repeats: timed repeats of a row, of at least ``repeat_s`` seconds each; ``more`` of them where
        the question is a few per cent. setup_s: a row's time to be ready.
    """

    groups: dict[str, list[Row]]
    slices: int = 4
    slice_size: int = 192
    loss_steps: int = 3
    repeats: int = 5
    more: int = 9
    repeat_s: float = 0.5
    epoch_steps: int = 160
    minutes: float = 20.0
    setup_s: float = 100.0


CHAINS = (2, 4)
"""Layers of the chains that are one kernel, or so many convolutions."""
# Groups with ``more`` repeats.
CLOSE = ("convolutions", "input", "epoch", "flag")

# PyTorch's rows; ``shortcuts``: the exact algebra of ours.
EAGER = {"shortcuts": True, "channels_last": True, "resident": True, "fused": True}
COMPILED = {**EAGER, "compile": "default"}
TUNED = {**EAGER, "compile": "max-autotune"}
GRAPH = {**EAGER, "compile": "max-autotune-no-cudagraphs", "graph": True}
USUAL = {"workers": 2}
# Many steps a call: on a GPU a launch from Python is a good part of a step.
STEPS = {"steps_per_call": 32}
# As XLA:CPU does it where nobody says otherwise.
WITH_YNNPACK = "--xla_cpu_experimental_ynn_fusion_type=+dot"
# Beside rows that use oneDNN, where it is installed.
WITHOUT_ONEDNN = "without oneDNN"
CONVOLUTION_BUFFERS = "--xla_gpu_enable_command_buffer=+CONVOLUTION"


def ours(
    work: Work, name: str = "ours", flags: str = "", limit_s: float = NO_LIMIT_S, **how
) -> Row:
    return Row(OURS, name, work, how, flags, limit_s)


def theirs(work: Work, name: str, how: dict) -> Row:
    return Row(THEIRS, f"PyTorch, {name}", work, how)


def matrices(size: int, *dtypes: str) -> list[Row]:
    works = [Work("matrix", "", 1, size, dtype) for dtype in dtypes]
    return [row for w in works for row in (ours(w), theirs(w, "matmul", {}))]


def close(train: Work, small: Work, **how) -> dict[str, list[Row]]:
    """Pairs of rows of ours that differ by a few per cent."""
    epoch = small.change(task="epoch")
    return {
        "convolutions": [
            ours(train, **how, onednn=False),
            ours(train, "its convolutions alone", convolutions=True, onednn=False),
        ],
        "input": [
            ours(small, "patches cut in the step", **how),
            ours(small, "one batch", **how, one_batch=True),
        ],
        "epoch": [
            ours(epoch, "compiled calls alone", part="calls"),
            ours(epoch, "training loop", part="loop"),
            ours(epoch, "training loop, evaluated and saved every epoch", part="everything"),
        ],
    }


def chains(work: Work, lengths: tuple[int, ...] = CHAINS, **how) -> list[Row]:
    """A chain of layers as one Pallas kernel beside the same layers as XLA's convolutions."""
    kinds = {"": False, ", Pallas": True}
    return [
        ours(work, f"{n} layers{kind}", layers=n, pallas=pallas, **how)
        for n in lengths
        for kind, pallas in kinds.items()
    ]


def gpu() -> Plan:
    train, infer = (
        Work("train", "pcn", 128, 55, "bfloat16"),
        Work("infer", "pcn", 8, 512, "bfloat16"),
    )
    tuned = {"compiled (max-autotune)": TUNED, "eager, channels_last": EAGER}

    def pair(work, how=GRAPH):
        return [ours(work, **STEPS), theirs(work, "compiled, one CUDA graph a step", how)]

    def others(work):
        return [theirs(work, name, how) for name, how in tuned.items()]

    levers = {
        "scan over clones": {"loop": "scan"},
        "gradients of autodiff, scan": {"maps": False, "loop": "scan"},
        "gradients of autodiff": {"maps": False},
        "ReLU that keeps its input": {"relu": False},
        "no algebraic shortcuts": {"shortcuts": False},
        "clones computed again": {"remat": True},
        "one step a call": {"steps_per_call": 1},
    }

    def lever(work, name, **how):
        # Windows as large as the image took cuDNN up to 100 times as long.
        limit_s = NO_LIMIT_S if levers[name].get("maps", True) else 60.0
        return ours(work, name, limit_s=limit_s, **how, **levers[name])

    check = Work("gradient", "pcn", 2)
    other_nets = [ours(check.change(model=name)) for name in ("redcnn", "drl")]
    groups = {
        "gradients": [
            ours(check),
            *other_nets,
            *(lever(check, name) for name in list(levers)[:4]),
        ],
        "matrix": matrices(8192, "bfloat16", "float32"),
        "train": [*pair(train), *others(train), theirs(train, "usual: eager, DataLoader", USUAL)],
        "infer": [ours(infer), *others(infer)],
        "levers": [
            ours(train, "default", **STEPS),
            *(
                lever(train, name, **{k: v for k, v in STEPS.items() if k not in levers[name]})
                for name in levers
            ),
            ours(train, "convolutions in command buffers", CONVOLUTION_BUFFERS, **STEPS),
            ours(train, "warm start", warm=True, **STEPS),
        ],
        "float32": [*pair(f32 := train.change(dtype="float32")), *others(f32)],
        "chain": chains(Work("chain", "", 1024, 55, "bfloat16")),
        **{f"batch-{n}": pair(train.change(batch=n)) for n in (32, 256, 512, 1024)},
        **close(train, train, **STEPS),
        **{name: pair(train.change(model=name)) for name in ("redcnn", "dncnn", "mapnn")},
    }
    return Plan(groups, slices=8, slice_size=256, loss_steps=20, minutes=9.0, setup_s=150.0)


def cpu(onednn: bool = True) -> Plan:
    """``onednn``: whether our side uses it, so that XLA's own convolutions need rows of their own.

    oneDNN takes all float32 convolutions: what compares forms of XLA's is measured without it.
    """
    train, infer = Work("train", "pcn", 16), Work("infer", "pcn", 1, 512)
    xla = {"onednn": False}

    def rows(work, *more):
        both = [ours(work), *([ours(work, WITHOUT_ONEDNN, **xla)] if onednn else [])]
        eager = theirs(work, "channels_last", EAGER)
        return [*both, eager, *more, theirs(work, "compiled, channels_last", COMPILED)]

    plain = theirs(train, "plain form, channels_last", {**EAGER, "shortcuts": False})

    def flag(work):
        return [ours(work, **xla), ours(work, "convolutions by YNNPACK", WITH_YNNPACK, **xla)]

    small = train.change(batch=4)
    groups = {
        "matrix": matrices(1536, "float32"),
        "train": rows(train, plain),
        "batch-4": rows(small),
        "redcnn": rows(small.change(model="redcnn")),
        "infer": rows(infer),
        "dncnn": rows(small.change(model="dncnn")),
        "size-33": rows(train.change(size=33)),
        "mapnn": rows(small.change(model="mapnn")),
        "flag": [*flag(train), *flag(infer)],
        **close(train, train.change(model="pcn_small", size=33)),
        "levers": [
            ours(small, "default"),
            ours(small, "unrolled clones", loop="unrolled"),
            ours(small, "no algebraic shortcuts", shortcuts=False),
            ours(small, "clones computed again", remat=True),
            ours(small, "warm start", warm=True),
            theirs(small, "usual: eager, DataLoader", USUAL),
        ],
    }
    return Plan(groups, epoch_steps=48)


def tiny() -> Plan:
    """Seconds: every kind of row once, at sizes that measure nothing."""
    train, infer = Work("train", "pcn_tiny", 4, 16), Work("infer", "pcn_tiny", 1, 64)
    check = Work("gradient", "pcn_tiny", 2)
    groups = {
        "gradients": [
            ours(check),
            ours(check, "another form", maps=False, relu=False, loop="unrolled"),
        ],
        "matrix": matrices(64, "float32"),
        "train": [
            ours(train, steps_per_call=2),
            ours(train, WITHOUT_ONEDNN, steps_per_call=2, onednn=False),
            theirs(train, "channels_last", EAGER),
            theirs(train, "usual: eager, DataLoader", {"workers": 1}),
        ],
        "infer": [ours(infer), theirs(infer, "channels_last", EAGER)],
        "levers": [ours(train, "default"), ours(train, "computed again", remat=True, warm=True)],
        "chain": chains(Work("chain", "", 1, 11), CHAINS[:1], interpret=True),
        **close(train, train),
    }
    return Plan(
        groups, slices=2, slice_size=64, repeats=2, more=3, repeat_s=0.01, epoch_steps=4, minutes=5
    )
