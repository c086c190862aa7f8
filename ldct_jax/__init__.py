"""Low-dose CT denoising networks in JAX/Flax."""

__version__ = "0.1.0"
