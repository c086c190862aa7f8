"""Low-dose CT denoising networks in JAX/Flax.

import ldct_jax
denoise = ldct_jax.load("runs/pcn_ablation/full-pcn")   # a run, an artefact, or a filter's name
clean_hu = denoise(noisy_hu)                             # (H, W) or (N, H, W) HU → float32 HU
"""

from ldct_jax.system import xla_flags as _xla_flags

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

_xla_flags.add_flags()


def __getattr__(name: str):
    # Late, so that `import ldct_jax` and `ldct --help` cost nothing.
    if name == "load":
        from ldct_jax.denoise.models import load

        return load
    raise AttributeError(f"module 'ldct_jax' has no attribute {name!r}")
