"""Training loops in PyTorch: the strongest one known to us, and the usual one."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from twins import BatchNorm, images, load_flax, twin

WARM_UP_STEPS = 3


class Shared:
    """The network with the shared weights, the shared data, and how a row computes."""

    def __init__(self, request: dict):
        self.request, self.how = request, request["how"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder = Path(request["folder"])
        data = np.load(folder / "data.npz", allow_pickle=False)
        self.low_hu, self.high_hu = (float(x) for x in data["window"])
        self.raw = (data["low"], data["full"])
        self.slices = [torch.from_numpy(a).to(self.device) for a in self.raw]
        self.validation = [
            torch.from_numpy(data[f"validation_{k}"]).to(self.device) for k in ("low", "full")
        ]
        arrays = dict(np.load(folder / f"model-{request['name']}.npz", allow_pickle=False))
        self.check_input = images(arrays.pop("input"))
        self.check_output = arrays.pop("output")
        fields = dict(request["fields"])
        if request["kind"] == "ClonesNet":
            fields["shortcuts"] = self.how.get("shortcuts", False)
        self.model = load_flax(twin(request["kind"], **fields), _tree(arrays)).to(self.device)
        for layer in self.model.modules():
            # PyTorch's own layer is the faster one; in training it gives the same output.
            if isinstance(layer, BatchNorm):
                layer.__class__ = nn.BatchNorm2d
        if self.how.get("channels_last"):
            self.model = self.model.to(memory_format=torch.channels_last)
        self.order = None
        path = folder / f"order-{request['size']}-{request['batch']}.npy"
        if path.exists():
            self.order = np.load(path, allow_pickle=False)

    def to_unit(self, hu):
        """(B, S, S) HU → (B, 1, S, S) float32 in [0, 1]."""
        x = (hu.float() - self.low_hu) * (1.0 / (self.high_hu - self.low_hu))
        x = x[:, None]
        if self.how.get("channels_last"):
            x = x.contiguous(memory_format=torch.channels_last)
        return x

    def autocast(self):
        """bfloat16 layers with float32 parameters, as ours; nothing in float32."""
        half = self.request["dtype"] == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def objective(self, out, full):
        """Mean squared error over all clones' images, or of the one image."""
        return (out.float() - full).square().mean()

    def loss(self, low, full):
        with self.autocast():
            out = self.model(low)
        return self.objective(out, full)

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
        size, stride = self.request["size"], self.request["stride"]
        _, height, width = self.slices[0].shape
        rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
        n, rest = index // (rows * columns), index % (rows * columns)
        reach = torch.arange(size, device=index.device)
        top = (rest // columns * stride)[:, None] + reach
        left = (rest % columns * stride)[:, None] + reach
        place = (n[:, None, None], top[:, :, None], left[:, None, :])
        return [self.to_unit(s[place]) for s in self.slices]


class Training:
    """Steps one after the other, eager or compiled, fed from the device or by a DataLoader."""

    def __init__(self, shared: Shared):
        self.shared, how = shared, shared.how
        shared.model.train()
        gpu = shared.device.type == "cuda"
        # capturable: the step count stays on the device, so that nothing waits for it.
        fused = {"fused": True, "capturable": gpu} if how.get("fused") else {}
        self.optimizer = torch.optim.Adam(
            shared.model.parameters(), lr=shared.request["rate"], **fused
        )
        self._loss = shared.compiled(shared.loss)
        self.done, self.loss = 0, None
        if how.get("resident"):
            self._order = torch.from_numpy(shared.order.astype(np.int64)).to(shared.device)
            self._batches = None
        else:
            self._batches = _loader(shared)

    def advance(self, n: int) -> None:
        """Run ``n`` steps; nothing is waited for."""
        for _ in range(n):
            self._one()
            self.done += 1

    def _one(self) -> None:
        if self._batches is None:
            low, full = self.shared.cut(self._order[self.done % len(self._order)])
        else:
            device = self.shared.device
            low, full = (x.to(device, non_blocking=True) for x in next(self._batches))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(low, full)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.detach()


class Graphed(Training):
    """The whole step as one CUDA graph: cut, forward, backward, Adam."""

    def __init__(self, shared: Shared):
        super().__init__(shared)
        if shared.device.type != "cuda":
            raise RuntimeError("a CUDA graph needs a CUDA device")
        weights = [t.clone() for t in shared.model.state_dict().values()]
        self._row = self._order[0].clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._whole_step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.loss = self._whole_step()
        # The warm-up has trained: back to the shared weights and an optimiser that knows nothing.
        with torch.no_grad():
            for tensor, before in zip(shared.model.state_dict().values(), weights, strict=True):
                tensor.copy_(before)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def _whole_step(self):
        low, full = self.shared.cut(self._row)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(low, full)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _one(self) -> None:
        self._row.copy_(self._order[self.done % len(self._order)])
        self._graph.replay()


class PatchDataset(Dataset):
    """Patches cut on the host, one by one, as most training scripts do."""

    def __init__(self, shared: Shared):
        self.low, self.full = shared.raw
        self.size, self.stride = shared.request["size"], shared.request["stride"]
        self.low_hu, self.width = shared.low_hu, shared.high_hu - shared.low_hu
        self.columns = (self.low.shape[2] - self.size) // self.stride + 1
        self.rows = (self.low.shape[1] - self.size) // self.stride + 1

    def __len__(self):
        return len(self.low) * self.rows * self.columns

    def __getitem__(self, index):
        n, rest = divmod(int(index), self.rows * self.columns)
        top, left = (self.stride * i for i in divmod(rest, self.columns))
        place = (n, slice(top, top + self.size), slice(left, left + self.size))
        return tuple(
            torch.from_numpy((s[place].astype(np.float32) - self.low_hu) / self.width)[None]
            for s in (self.low, self.full)
        )


def _loader(shared: Shared):
    """Batches without end, in the shared order."""
    loader = DataLoader(
        PatchDataset(shared),
        batch_sampler=itertools.cycle(shared.order.tolist()),
        num_workers=shared.how["workers"],
        pin_memory=shared.device.type == "cuda",
        multiprocessing_context="spawn" if shared.device.type == "cuda" else None,
    )
    return iter(loader)


def _tree(arrays: dict) -> dict:
    """{"params/conv1/kernel": …} → nested dicts."""
    tree: dict = {}
    for path, value in arrays.items():
        *parts, last = path.split("/")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
