"""PyTorch checkpoint (.pth, .pt) → .npz of named tensors that ldct_jax reads.

    python experiments/speed/pth_to_npz.py vgg16-397923af.pth vgg16.npz --preprocessing imagenet

Needs torch. The file is read with ``weights_only=True``: no code in it is run. A state dict may lie
one level down (``state_dict``, ``model``, ``params``). ``--preprocessing`` states for which
preprocessing VGG weights were trained: imagenet (torchvision) or caffe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def state_dict(content) -> dict:
    """The names and tensors of a loaded checkpoint; ValueError where there are none."""
    import torch

    if isinstance(content, dict):
        tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
        if tensors:
            return tensors
        for key in ("state_dict", "model_state_dict", "model", "params", "net"):
            if isinstance(content.get(key), dict):
                return state_dict(content[key])
    raise ValueError("there is no state dict in it")


def convert(source: Path, target: Path, preprocessing: str | None = None) -> int:
    """Write ``target``; returns the number of tensors."""
    import torch

    from ldct_jax.models.tensor_files import write_npz

    tensors = state_dict(torch.load(source, map_location="cpu", weights_only=True))
    arrays = {name: t.detach().float().numpy() for name, t in tensors.items()}
    write_npz(target, arrays, preprocessing)
    return len(arrays)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--preprocessing", choices=("imagenet", "caffe", "none"))
    args = parser.parse_args(argv)
    if args.target.suffix != ".npz":
        print("error: the target must end in .npz", file=sys.stderr)
        return 2
    try:
        n = convert(args.source, args.target, args.preprocessing)
    except Exception as e:  # torch raises many kinds for damaged and for unsafe files
        print(f"error: {args.source} can't be converted: {e}", file=sys.stderr)
        return 1
    print(f"{n} tensors: {args.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
