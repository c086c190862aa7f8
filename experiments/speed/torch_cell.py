"""A PyTorch cell of the benchmark, in its own process: ``python torch_cell.py REQUEST.json``.

Needs torch and numpy only, and imports nothing of ldct_jax: it may run under another
interpreter. It reads the weights, the data and the order of patches that our cells read, compares
its float32 output with the reference before anything is timed, and then answers one line ``go``
after the other (see ``serve``). The options of a row are in ``how``:

  shortcuts      the exact algebra of ours (twins_clones.py)
  channels_last  memory format of weights and activations
  compile        a mode of torch.compile, for forward and backward
  graph          one CUDA graph for the whole step: patches, forward, backward, Adam
  fused          fused Adam
  resident       slices and order on the device, patches cut there; else a DataLoader with
                 ``workers`` processes, as is usual
"""

from __future__ import annotations

import json
import math
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch_training import Graphed, Shared, Training

OUTPUT_TOLERANCE = 1e-5


class Refused(Exception):
    """The cell can't be measured, for the reason given."""


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def output_error(shared: Shared) -> float:
    """The relative difference from the reference output, in float32 without TF32."""
    set_tf32(False)
    shared.model.eval()
    with torch.inference_mode():
        out = shared.model(shared.check_input.to(shared.device)).float().cpu().numpy()
    out = np.moveaxis(out, -3, -1)
    error = float(np.abs(out - shared.check_output).max() / np.abs(shared.check_output).max())
    if not error <= OUTPUT_TOLERANCE:
        raise Refused(f"the output differs by {error:.1e} of its largest value: not timed")
    set_tf32(True)
    return error


def set_tf32(on: bool) -> None:
    """TF32 as XLA uses it by default for float32 on GPUs that have it."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


def executed_flops(shared: Shared, task: str) -> int:
    """Operations of one patch or slice as PyTorch's own counter sees them."""
    from torch.utils.flop_counter import FlopCounterMode

    side = shared.request["size"]
    x = torch.zeros(1, 1, side, side, device=shared.device)
    with FlopCounterMode(display=False) as counter:
        if task == "infer":
            with torch.inference_mode():
                shared.inference(x)
        else:
            # BatchNorm's statistics must not see this image.
            shared.model.eval()
            shared.objective(shared.model(x), x).backward()
            shared.model.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def prepare_train(request: dict):
    shared = Shared(request)
    facts = {"output_error": output_error(shared), **about()}
    facts["executed_flops"] = executed_flops(shared, "train")
    began = time.perf_counter()
    training = (Graphed if request["how"].get("graph") else Training)(shared)
    training.advance(1)
    synchronize()
    # torch compiles when it is first called: the first step is the compilation.
    facts["compile_s"] = time.perf_counter() - began
    training.advance(request["loss_steps"] - 1)
    facts["loss"] = float(training.loss)

    def run(n):
        training.advance(n)
        synchronize()

    return facts, run, request["batch"]


def prepare_infer(request: dict):
    shared = Shared(request)
    facts = {"output_error": output_error(shared), **about()}
    facts["executed_flops"] = executed_flops(shared, "infer")
    side, batch = request["size"], request["batch"]
    low = shared.slices[0].cpu().numpy()
    tiles = -(-side // low.shape[1])
    slices = np.tile(low[np.arange(batch) % len(low)], (1, tiles, tiles))[:, :side, :side]
    x = shared.to_unit(torch.from_numpy(slices).to(shared.device))
    network = shared.compiled(shared.inference)

    def run(n):
        with torch.inference_mode():
            for _ in range(n):
                network(x)
        synchronize()

    began = time.perf_counter()
    run(1)
    facts["compile_s"] = time.perf_counter() - began
    return facts, run, batch


def prepare_matrix(request: dict):
    set_tf32(True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = request["size"]
    a = torch.randn(n, n, device=device, dtype=getattr(torch, request["dtype"]))

    def run(k):
        for _ in range(k):
            a @ a
        synchronize()

    began = time.perf_counter()
    run(1)
    facts = {"compile_s": time.perf_counter() - began, **about()}
    return facts, run, 2e-12 * n**3


def prepare_reach(request: dict):
    shared = Shared(request)
    facts = {"output_error": output_error(shared), **about(), "steps_per_repeat": 1}
    weights = {k: v.clone() for k, v in shared.model.state_dict().items()}
    low, full = (shared.to_unit(x) for x in shared.validation)
    wanted = psnr(low, full) + request["gain_db"]

    def once() -> dict:
        shared.model.load_state_dict(weights)
        began = time.perf_counter()
        training = (Graphed if request["how"].get("graph") else Training)(shared)
        value = -math.inf
        while value < wanted and training.done < request["most_steps"]:
            training.advance(request["check_every"])
            shared.model.eval()
            with torch.inference_mode():
                value = psnr(shared.inference(low), full)
            shared.model.train()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "units": 1, "steps": training.done, "reached": value >= wanted}

    return facts, once, None


def psnr(image, reference) -> float:
    return -10 * math.log10(float((image.double() - reference.double()).square().mean()))


def about() -> dict:
    gpu = torch.cuda.is_available()
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda or "none",
            "cudnn": str(torch.backends.cudnn.version()) if gpu else "none",
            "numpy": np.__version__,
        },
        "device": {
            "backend": "cuda" if gpu else "cpu",
            "kind": torch.cuda.get_device_name() if gpu else "cpu",
            "threads": torch.get_num_threads(),
        },
    }


def memory() -> dict:
    if torch.cuda.is_available():
        return {"peak_bytes": torch.cuda.max_memory_allocated(), "memory_of": "device"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "memory_of": "process",
    }


def say(record: dict) -> None:
    print("@" + json.dumps(record), flush=True)


def serve(request: dict) -> None:
    """Set the cell up, then one timed repeat for each line ``go`` until ``end``."""
    torch.backends.cudnn.benchmark = True
    prepare = {
        "train": prepare_train,
        "infer": prepare_infer,
        "matrix": prepare_matrix,
        "reach": prepare_reach,
    }[request["task"]]
    try:
        facts, run, units = prepare(request)
    except Refused as error:
        say({"event": "refused", "reason": str(error)})
        return
    n = 1
    if units is not None:
        run(1)
        began = time.perf_counter()
        run(1)
        once = max(time.perf_counter() - began, 1e-9)
        n = facts["steps_per_repeat"] = max(1, math.ceil(request["repeat_seconds"] / once))
    say({"event": "ready", **facts})
    for line in sys.stdin:
        if line.strip() == "end":
            break
        if units is None:
            say(run())
            continue
        run(1)  # as on the other side: what was taken back while other cells had their turn
        began = time.perf_counter()
        run(n)
        say({"seconds": time.perf_counter() - began, "units": n * units, "steps": n})
    say(memory())


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()))
