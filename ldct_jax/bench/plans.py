"""Which cells a run measures: on a GPU, on a CPU in minutes, and a tiny plan that tests it all."""

from __future__ import annotations

import dataclasses

from ldct_jax.bench.cells import OURS, THEIRS, Cell, Group, Plan, Work

# PyTorch's rows. ``shortcuts``: the same exact algebra as ours.
_EAGER = {"shortcuts": True, "channels_last": True, "resident": True, "fused": True}
_COMPILED = {**_EAGER, "compile": "max-autotune"}
_GRAPH = {**_EAGER, "compile": "max-autotune-no-cudagraphs", "graph": True}
_USUAL = {"shortcuts": False, "resident": False, "workers": 2}
# One program, thirty-two steps a call on a GPU, where a launch is a good part of a step.
_GPU_STEPS = {"steps_per_call": 32}
# Repeats on a CPU, whose other guests come and go, where a few per cent are the question.
MORE = 12


def _ours(work: Work, name: str = "ours", **how) -> Cell:
    return Cell(OURS, name, work, how)


def _theirs(work: Work, name: str, how: dict, **changes) -> Cell:
    return Cell(THEIRS, f"PyTorch, {name}", work, how, **changes)


def _matrices(size: int, dtypes) -> Group:
    works = [Work("matrix", "", 1, size, dtype) for dtype in dtypes]
    cells = [c for w in works for c in (_ours(w), _theirs(w, "matmul", {}))]
    return Group("matrix", "The machine's limit: a large matrix product", tuple(cells))


def _convolutions(work: Work, repeats: int | None = None, **how) -> Group:
    """The step beside its own convolutions: what all the rest of it costs."""
    return Group(
        "convolutions",
        "The training step and its convolutions alone",
        (_ours(work, **how), _ours(work, "its convolutions alone", part="convolutions")),
        repeats,
    )


def _input(work: Work, repeats: int | None = None, **how) -> Group:
    """Steps on patches cut in the step beside steps on one batch for ever."""
    return Group(
        "input",
        "The input pipeline on and off (predicted: at most 2 % faster without)",
        (
            _ours(work, "patches cut in the step", **how),
            _ours(work, "one batch", **how, fixed_batch=True),
        ),
        repeats,
    )


def _epochs(work: Work, steps: int, repeats: int | None = None) -> Group:
    """The loop of ``ldct train`` against its compiled calls alone: the time outside the device."""
    work = dataclasses.replace(work, task="epoch", most_steps=steps)
    return Group(
        "epoch",
        "Whole epochs: time outside the device",
        (
            _ours(work, "compiled calls alone", part="calls", steps_per_call=256),
            _ours(work, "training loop", part="loop"),
            _ours(work, "training loop, evaluated and saved every epoch", part="everything"),
        ),
        repeats,
    )


def gpu() -> Plan:
    """The whole comparison on one GPU; its time limit is under ten minutes."""
    train = Work("train", "pcn", 128, 55, "bfloat16")
    infer = Work("infer", "pcn", 8, 512, "bfloat16")
    reach = Work("reach", "pcn", 128, 55, "bfloat16", 1e-3, 3.0, 4000, 20)

    def pair(work, **how):
        return (
            _ours(work, **(_GPU_STEPS | how)),
            _theirs(work, "compiled, one CUDA graph a step", _GRAPH),
        )

    groups = (
        _matrices(8192, ("bfloat16", "float32")),
        Group(
            "train",
            "PCN training step",
            (
                *pair(train),
                _theirs(train, "compiled (max-autotune)", _COMPILED),
                _theirs(train, "eager, channels_last", _EAGER),
                _theirs(train, "usual: eager, DataLoader", _USUAL),
            ),
        ),
        Group(
            "infer",
            "PCN, whole slices",
            (
                _ours(infer),
                _theirs(infer, "compiled (max-autotune)", _COMPILED),
                _theirs(infer, "eager, channels_last", _EAGER),
            ),
        ),
        Group("levers", "Levers, one by one", levers(train, on_gpu=True)),
        _input(train, 6, **_GPU_STEPS),
        _convolutions(train, 6, **_GPU_STEPS),
        _epochs(train, 160, 6),
        Group("batch-32", "Batch sweep", pair(dataclasses.replace(train, batch=32))),
        Group("batch-512", "Batch sweep", pair(dataclasses.replace(train, batch=512))),
        Group("size-33", "Size sweep", pair(dataclasses.replace(train, size=33))),
        Group("size-96", "Size sweep", pair(dataclasses.replace(train, size=96))),
        Group("float32", "PCN in float32", pair(dataclasses.replace(train, dtype="float32"))),
        Group(
            "plain",
            "PCN without the algebraic shortcuts",
            (
                _ours(train, "plain form", **_GPU_STEPS, shortcuts=False),
                _theirs(train, "plain form, one CUDA graph a step", {**_GRAPH, "shortcuts": False}),
            ),
        ),
        Group(
            "reach",
            "Time to a validation PSNR, compilation included",
            (
                _ours(reach, **_GPU_STEPS),
                _theirs(reach, "compiled, one CUDA graph a step", _GRAPH),
                _theirs(reach, "eager, channels_last", _EAGER),
            ),
        ),
        *(
            Group(name, "Other networks", pair(dataclasses.replace(train, model=name)))
            for name in ("redcnn", "dncnn17", "mapnn", "scn")
        ),
    )
    return Plan(
        "gpu", groups, slices=9, slice_size=256, loss_steps=20, minutes=9.0, setup_seconds=150.0
    )


def cpu() -> Plan:
    """The same comparison in minutes on a few cores; GPU levers are listed as not measured."""
    train = Work("train", "pcn", 16, 55, "float32")
    infer = Work("infer", "pcn", 1, 512, "float32")
    reach = Work("reach", "pcn_small", 16, 33, "float32", 1e-3, 3.0, 400, 10)

    def pair(work, **how):
        return _ours(work, **how), _theirs(work, "eager, channels_last", _EAGER)

    groups = (
        _matrices(1536, ("float32",)),
        Group(
            "train",
            "PCN training step",
            (
                *pair(train),
                _theirs(train, "compiled, channels_last", {**_EAGER, "compile": "default"}),
                _theirs(train, "plain form, channels_last", {**_EAGER, "shortcuts": False}),
                _theirs(train, "usual: eager, DataLoader", _USUAL),
            ),
        ),
        Group("infer", "PCN, whole slices", pair(infer)),
        _convolutions(train, MORE),
        _input(dataclasses.replace(train, batch=4), MORE),
        Group("batch-4", "Batch sweep", pair(dataclasses.replace(train, batch=4))),
        Group("size-33", "Size sweep", pair(dataclasses.replace(train, size=33))),
        Group("reach", "Time to a validation PSNR, compilation included", pair(reach)),
        _epochs(Work("train", "pcn_small", 16, 33, "float32"), 48, MORE),
        *(
            Group(name, "Other networks", pair(dataclasses.replace(train, model=name, batch=4)))
            for name in ("redcnn", "dncnn17", "mapnn")
        ),
        Group(
            "levers",
            "Levers, one by one",
            levers(dataclasses.replace(train, batch=4), on_gpu=False),
        ),
    )
    return Plan("cpu", groups, slices=5, slice_size=192, minutes=20.0)


def tiny() -> Plan:
    """Seconds: every kind of cell once, at sizes that measure nothing."""
    train = Work("train", "pcn_tiny", 4, 16, "float32", 1e-3)
    infer = Work("infer", "pcn_tiny", 1, 64, "float32")
    reach = Work("reach", "pcn_tiny", 4, 16, "float32", 3e-3, 0.1, 200, 20)
    groups = (
        _matrices(64, ("float32",)),
        Group(
            "train",
            "PCN training step",
            (
                _ours(train, steps_per_call=2),
                _theirs(train, "eager, channels_last", _EAGER),
                _theirs(train, "usual: eager, DataLoader", {**_USUAL, "workers": 1}),
            ),
        ),
        Group(
            "infer", "PCN, whole slices", (_ours(infer), _theirs(infer, "channels_last", _EAGER))
        ),
        Group(
            "reach",
            "Time to a validation PSNR, compilation included",
            (_ours(reach), _theirs(reach, "eager, channels_last", _EAGER)),
        ),
        Group("levers", "Levers, one by one", levers(train, on_gpu=False)),
        _epochs(train, 4, 3),
        _convolutions(train),
        _input(train),
    )
    return Plan("tiny", groups, slices=3, slice_size=64, repeats=2, repeat_seconds=0.01)


def levers(work: Work, *, on_gpu: bool) -> tuple[Cell, ...]:
    """One cell for each lever of the design, beside the default; what needs a GPU is marked."""
    base = _GPU_STEPS if on_gpu else {"steps_per_call": 1}

    def lever(name, prediction, needs_gpu=True, xla_flags="", changed=None, **how):
        return Cell(
            OURS,
            name,
            changed or work,
            {**base, **how},
            xla_flags=xla_flags,
            needs_gpu=needs_gpu,
            prediction=prediction,
        )

    other = "float32" if work.dtype == "bfloat16" else "bfloat16"
    return (
        lever("default", "the row that the others are compared with", needs_gpu=False),
        lever(
            "unrolled clones",
            "GPU: a few per cent faster, XLA fuses across clones, T times the compile time; "
            "CPU: equal, the convolutions are canonical in a loop too",
            needs_gpu=False,
            loop="unrolled",
        ),
        lever(
            "no algebraic shortcuts",
            "slower by the work saved: conv2 of F_0 in T-1 of T clones",
            needs_gpu=False,
            shortcuts=False,
        ),
        lever(
            f"{other} layers",
            "GPU: bfloat16 twice as fast as float32 with TF32 or better",
            changed=dataclasses.replace(work, dtype=other),
        ),
        lever(
            "one step a call",
            "slower by one launch from Python a step",
            steps_per_call=1,
        ),
        lever(
            "no command buffers",
            "slower by the launches of some hundred kernels a step",
            xla_flags="--xla_gpu_enable_command_buffer=",
        ),
        lever(
            "remat of each clone",
            "a third more work and time, about a T-th of the activations' memory",
            needs_gpu=False,
            remat=True,
        ),
        lever(
            "latency hiding scheduler",
            "no change on one device",
            xla_flags="--xla_gpu_enable_latency_hiding_scheduler=true",
        ),
        lever(
            "twice the batch",
            "more patches a second while kernels are small for the device",
            changed=dataclasses.replace(work, batch=2 * work.batch),
        ),
        lever(
            "warm start",
            "compile time under 5 s: the program comes from the persistent cache",
            needs_gpu=False,
            warm=True,
        ),
    )
