"""The models that ship with the package."""

from pathlib import Path

SHIPPED = {path.stem: path for path in sorted(Path(__file__).resolve().parent.glob("*.npz"))}
"""Their files by name; the first is the default of ``ldct denoise``."""
