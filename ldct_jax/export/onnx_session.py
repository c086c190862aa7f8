"""ONNX files in onnxruntime; this part needs no jax."""

from __future__ import annotations

from ldct_jax.errors import LdctError, UsageError

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
CARD = "ldct_jax"
"""The metadata entry that holds the card."""


def open_session(data: bytes, where: str):
    """An onnxruntime session on whatever device this installation has; raises LdctError."""
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("ONNX needs onnxruntime: pip install 'ldct-jax[export]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; no need to print them too
    providers = [p for p in PROVIDERS if p in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # onnxruntime's own kinds of error
        raise LdctError(f"{where} is no usable ONNX file ({line(error)})") from None


def line(error: Exception) -> str:
    """The beginning of an error's text in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
