"""PyTorch twins of all networks.

They are written in plain PyTorch (NCHW, transposed convolutions) and share no code with ours: they
are the independent implementation in the tests, and the baseline in the benchmark. Needs torch and
numpy only.
"""

from __future__ import annotations

from torch import nn
from twins_clones import Clones
from twins_papers import PAPERS

KINDS = {"ClonesNet": Clones, **PAPERS}
# Fields that only concern Flax.
OURS_ALONE = ("initialization", "dtype", "axis_name", "loop", "unroll", "parent", "name")


def twin(kind: str, **fields) -> nn.Module:
    """The twin of the Flax class ``kind`` with the same fields."""
    if kind not in KINDS:
        raise ValueError(f"no twin of {kind}: there are {', '.join(sorted(KINDS))}")
    return KINDS[kind](**{k: v for k, v in fields.items() if k not in OURS_ALONE})
