"""PyTorch's side: ``python experiments/speed/theirs.py REQUEST.json`` measures one row.

Needs torch and numpy alone and imports nothing of ldct_jax: it may run under another interpreter.
It reads the weights, the data and the order of patches that our side reads, and compares its
float32 output with the reference before anything is timed. The options of a row:

  shortcuts      the exact algebra of ours (twins_clones.py)
  channels_last  memory format of weights and activations
  compile        a mode of torch.compile, for forward and backward
  graph          one CUDA graph for the whole step: patches, forward, backward, Adam
  fused          fused Adam
  resident       slices and order on the device, patches cut there; else a DataLoader with
                 ``workers`` processes, as is usual
"""

from __future__ import annotations

import itertools
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from child import answer, peak_of_process, repeats
from torch import nn
from torch.utils.data import DataLoader, Dataset
from twins import twin
from twins_layers import BatchNorm, images, load_flax

OUTPUT_TOLERANCE, RATE, STRIDE = 1e-5, 1e-4, 4
WARM_UP_STEPS = 3
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")


def synchronize() -> None:
    if GPU:
        torch.cuda.synchronize()


def set_tf32(on: bool) -> None:
    """TF32 as XLA uses it by default for float32 on GPUs that have it."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


def about() -> dict:
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "cudnn": str(torch.backends.cudnn.version()) if GPU else "none",
    }
    kind = torch.cuda.get_device_name() if GPU else "cpu"
    return {"versions": versions, "device": {"kind": kind, "threads": torch.get_num_threads()}}


class Shared:
    """The network with the shared weights, the shared data, and how a row computes."""

    def __init__(self, request: dict):
        self.request, self.how = request, request["how"]
        folder = Path(request["folder"])
        data = np.load(folder / "data.npz", allow_pickle=False)
        self.low_hu, self.high_hu = (float(x) for x in data["window"])
        self.raw = (data["low"], data["full"])
        self.slices = [torch.from_numpy(a).to(DEVICE) for a in self.raw]
        arrays = dict(np.load(folder / f"model-{request['model']}.npz", allow_pickle=False))
        check, output = images(arrays.pop("input")), arrays.pop("output")
        del arrays["target"]
        fields = dict(request["fields"])
        if request["kind"] == "ClonesNet":
            fields["shortcuts"] = self.how.get("shortcuts", False)
        self.model = load_flax(twin(request["kind"], **fields), tree(arrays)).to(DEVICE)
        for layer in self.model.modules():
            # PyTorch's own layer is the faster one; in training it gives the same output.
            if isinstance(layer, BatchNorm):
                layer.__class__ = nn.BatchNorm2d
        if self.how.get("channels_last"):
            self.model = self.model.to(memory_format=torch.channels_last)
        path = folder / f"order-{request['size']}-{request['batch']}.npy"
        self.order = np.load(path, allow_pickle=False) if path.exists() else None
        self.facts = {"output_error": self.output_error(check, output), **about()}

    def output_error(self, x, wanted) -> float:
        """The relative difference from the reference output, in float32 without TF32."""
        set_tf32(False)
        self.model.eval()
        with torch.inference_mode():
            out = np.moveaxis(self.model(x.to(DEVICE)).float().cpu().numpy(), -3, -1)
        error = float(np.abs(out - wanted).max() / np.abs(wanted).max())
        if not error <= OUTPUT_TOLERANCE:
            sys.exit(f"the output differs by {error:.1e} of its largest value: not timed")
        set_tf32(True)
        return error

    def to_unit(self, hu):
        """(B, S, S) HU → (B, 1, S, S) float32 in [0, 1]."""
        x = (hu.float() - self.low_hu) * (1.0 / (self.high_hu - self.low_hu))
        if self.how.get("channels_last"):
            return x[:, None].contiguous(memory_format=torch.channels_last)
        return x[:, None]

    def autocast(self):
        """bfloat16 layers with float32 parameters, as ours; nothing in float32."""
        half = self.request["dtype"] == "bfloat16"
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=half)

    def loss(self, low, full):
        """Mean squared error over all clones' images, or of the one image."""
        with self.autocast():
            out = self.model(low)
        return (out.float() - full).square().mean()

    def inference(self, x):
        with self.autocast():
            out = self.model.denoise(x) if hasattr(self.model, "denoise") else self.model(x)
        return out[-1] if out.ndim == 5 else out

    def compiled(self, function):
        """``function`` through torch.compile where the row says so."""
        mode = self.how.get("compile")
        return torch.compile(function, mode=mode, dynamic=False) if mode else function

    def cut(self, index):
        """Low and full patches (B, 1, S, S) at positions ``index`` (B,), on the device."""
        size = self.request["size"]
        _, height, width = self.slices[0].shape
        rows, columns = (height - size) // STRIDE + 1, (width - size) // STRIDE + 1
        n, rest = index // (rows * columns), index % (rows * columns)
        reach = torch.arange(size, device=index.device)
        top = (rest // columns * STRIDE)[:, None] + reach
        left = (rest % columns * STRIDE)[:, None] + reach
        place = (n[:, None, None], top[:, :, None], left[:, None, :])
        return [self.to_unit(s[place]) for s in self.slices]

    def executed_flops(self, task: str) -> int:
        """Operations of one patch or slice as PyTorch's own counter sees them."""
        from torch.utils.flop_counter import FlopCounterMode

        side = self.request["size"]
        x = torch.zeros(1, 1, side, side, device=DEVICE)
        self.model.eval()  # BatchNorm's statistics must not see this image
        with FlopCounterMode(display=False) as counter:
            if task == "infer":
                with torch.inference_mode():
                    self.inference(x)
            else:
                (self.model(x).float() - x).square().mean().backward()
                self.model.zero_grad(set_to_none=True)
        return int(counter.get_total_flops())


class Training:
    """Steps one after the other, eager or compiled, fed from the device or by a DataLoader."""

    def __init__(self, shared: Shared):
        self.shared, how = shared, shared.how
        shared.model.train()
        # capturable: the step count stays on the device, so that nothing waits for it.
        fused = {"fused": True, "capturable": GPU} if how.get("fused") else {}
        self.optimizer = torch.optim.Adam(shared.model.parameters(), lr=RATE, **fused)
        self._loss = shared.compiled(shared.loss)
        self.done, self.loss, self._batches = 0, None, None
        if how.get("resident"):
            self._order = torch.from_numpy(shared.order.astype(np.int64)).to(DEVICE)
        else:
            self._batches = loader(shared)

    def advance(self, n: int) -> None:
        """Run ``n`` steps and wait for them."""
        for _ in range(n):
            self._one()
            self.done += 1
        synchronize()

    def _one(self) -> None:
        if self._batches is None:
            pair = self.shared.cut(self._order[self.done % len(self._order)])
        else:
            pair = [x.to(DEVICE, non_blocking=True) for x in next(self._batches)]
        self.loss = self._step(*pair)

    def _step(self, low, full):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(low, full)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Graphed(Training):
    """The whole step as one CUDA graph: cut, forward, backward, Adam."""

    def __init__(self, shared: Shared):
        super().__init__(shared)
        weights = [t.clone() for t in shared.model.state_dict().values()]
        self._row = self._order[0].clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._step(*shared.cut(self._row))
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.loss = self._step(*shared.cut(self._row))
        # The warm-up has trained: back to the shared weights and an optimiser that knows nothing.
        with torch.no_grad():
            for tensor, before in zip(shared.model.state_dict().values(), weights, strict=True):
                tensor.copy_(before)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def _one(self) -> None:
        self._row.copy_(self._order[self.done % len(self._order)])
        self._graph.replay()


class PatchDataset(Dataset):
    """Patches cut on the host, one by one, as most training scripts do."""

    def __init__(self, shared: Shared):
        self.low, self.full = shared.raw
        self.size = shared.request["size"]
        self.low_hu, self.width = shared.low_hu, shared.high_hu - shared.low_hu
        self.columns = (self.low.shape[2] - self.size) // STRIDE + 1
        self.rows = (self.low.shape[1] - self.size) // STRIDE + 1

    def __len__(self):
        return len(self.low) * self.rows * self.columns

    def __getitem__(self, index):
        n, rest = divmod(int(index), self.rows * self.columns)
        top, left = (STRIDE * i for i in divmod(rest, self.columns))
        place = (n, slice(top, top + self.size), slice(left, left + self.size))
        return tuple(
            torch.from_numpy((s[place].astype(np.float32) - self.low_hu) / self.width)[None]
            for s in (self.low, self.full)
        )


def loader(shared: Shared):
    """Batches without end, in the shared order."""
    return iter(
        DataLoader(
            PatchDataset(shared),
            batch_sampler=itertools.cycle(shared.order.tolist()),
            num_workers=shared.how["workers"],
            pin_memory=GPU,
            multiprocessing_context="spawn" if GPU else None,
        )
    )


def tree(arrays: dict) -> dict:
    """{"params/conv1/kernel": …} → nested dicts."""
    root: dict = {}
    for path, value in arrays.items():
        *parts, last = path.split("/")
        node = root
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    return root


def first_call(run) -> float:
    """Seconds of the first step: torch compiles when it is first called."""
    began = time.perf_counter()
    run(1)
    return time.perf_counter() - began


def train(request: dict) -> tuple:
    shared = Shared(request)
    facts = {**shared.facts, "executed_flops": shared.executed_flops("train")}
    began = time.perf_counter()
    training = (Graphed if request["how"].get("graph") else Training)(shared)
    facts["compile_s"] = time.perf_counter() - began + first_call(training.advance)
    training.advance(request["loss_steps"] - 1)
    facts["loss"] = float(training.loss)
    return facts, training.advance, request["batch"]


def infer(request: dict) -> tuple:
    shared, side, batch = Shared(request), request["size"], request["batch"]
    facts = {**shared.facts, "executed_flops": shared.executed_flops("infer")}
    low = shared.raw[0]
    tiles = -(-side // low.shape[1])
    slices = np.tile(low[np.arange(batch) % len(low)], (1, tiles, tiles))[:, :side, :side]
    x = shared.to_unit(torch.from_numpy(slices).to(DEVICE))
    network = shared.compiled(shared.inference)

    def run(n):
        with torch.inference_mode():
            for _ in range(n):
                network(x)
        synchronize()

    facts["compile_s"] = first_call(run)
    return facts, run, batch


def matrix(request: dict) -> tuple:
    set_tf32(True)
    n = request["size"]
    a = torch.randn(n, n, device=DEVICE, dtype=getattr(torch, request["dtype"]))

    def run(k):
        for _ in range(k):
            a @ a
        synchronize()

    return {"compile_s": first_call(run), **about()}, run, 2e-12 * n**3


def main(path: str) -> None:
    torch.backends.cudnn.benchmark = True
    request = json.loads(Path(path).read_text())
    facts, run, units = {"train": train, "infer": infer, "matrix": matrix}[request["task"]](request)
    more, once = repeats(run, units, request["repeat_s"])

    def measured() -> dict:
        found = once()
        return {
            **found,
            "peak_bytes": torch.cuda.max_memory_allocated() if GPU else peak_of_process(),
        }

    answer({**facts, **more}, measured)


if __name__ == "__main__":
    main(sys.argv[1])
