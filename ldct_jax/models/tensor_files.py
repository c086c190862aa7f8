"""Files of named tensors that others wrote: .npz, .h5, .onnx, .safetensors → numpy arrays.

No file is unpickled, and none needs the framework that wrote it. A file may state for which
preprocessing its weights were trained: an .npz by a string array ``preprocessing``, an .h5 by an
attribute of that name, .safetensors and .onnx by a metadata entry of that name.
"""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from ldct_jax.errors import DataError, UsageError
from ldct_jax.system.files import DAMAGED_ARRAY, write_whole

KINDS = (".npz", ".h5", ".onnx", ".safetensors")


@dataclasses.dataclass(frozen=True)
class FileTensors:
    """``arrays`` by their names in the file; ``kernels``: HWIO, or OIHW as in ONNX."""

    arrays: dict[str, np.ndarray]
    kernels: str
    preprocessing: str | None = None


def read_tensors(path: str | Path) -> FileTensors:
    """All tensors of a file; raises DataError where it is damaged, UsageError for other kinds."""
    path = Path(path)
    readers = dict(zip(KINDS, (_npz, _h5, _onnx, _safetensors), strict=True))
    if path.suffix not in readers:
        raise UsageError(
            f"{path.name}: weights are read from {', '.join(KINDS)}; "
            "experiments/speed/pth_to_npz.py converts PyTorch's .pth"
        )
    if not path.is_file():
        raise UsageError(f"no weights at {path}")
    try:
        return readers[path.suffix](path)
    except (*DAMAGED_ARRAY, KeyError, IndexError, zipfile.BadZipFile) as e:
        raise DataError(f"{path} can't be read as {path.suffix}: {e}") from e


def _npz(path: Path) -> FileTensors:
    # numpy leaves a file open that turns out to be no archive.
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    stated = arrays.pop("preprocessing", None)
    return FileTensors(arrays, "HWIO", None if stated is None else str(stated))


def _h5(path: Path) -> FileTensors:
    try:
        import h5py
    except ImportError:
        raise UsageError("reading .h5 needs h5py: pip install 'ldct-jax[weights]'") from None
    arrays = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                arrays.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
            )
        )
        stated = file.attrs.get("preprocessing")
    stated = stated.decode() if isinstance(stated, bytes) else stated
    return FileTensors(arrays, "HWIO", None if stated is None else str(stated))


def _safetensors(path: Path) -> FileTensors:
    try:
        from safetensors import safe_open
    except ImportError:
        raise UsageError(
            "reading .safetensors needs safetensors: pip install 'ldct-jax[weights]'"
        ) from None
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stated = (file.metadata() or {}).get("preprocessing")
    except Exception as e:  # safetensors' own error type is not part of its stable interface
        raise DataError(f"{path} can't be read as .safetensors: {e}") from e
    return FileTensors(arrays, "HWIO", stated)


def _onnx(path: Path) -> FileTensors:
    return onnx_tensors(path.read_bytes())


def onnx_tensors(data: bytes) -> FileTensors:
    """The initialisers of an ONNX model; ValueError for anything else."""
    try:
        import onnx
    except ImportError:
        raise UsageError("reading .onnx needs onnx: pip install 'ldct-jax[weights]'") from None
    try:
        model = onnx.load_from_string(data)
    except Exception as e:  # protobuf's own error type depends on its version
        raise ValueError(f"it is cut short or not ONNX ({e})") from e
    # Tensors in files of their own would be read from wherever the model says.
    tensors = [t for t in model.graph.initializer if not t.external_data]
    if not tensors:
        raise ValueError("there are no tensors in it")
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in tensors}
    stated = {entry.key: entry.value for entry in model.metadata_props}.get("preprocessing")
    return FileTensors(arrays, "OIHW", stated)


def write_npz(path: str | Path, arrays: dict[str, np.ndarray], preprocessing: str | None = None):
    """An .npz that :func:`read_tensors` reads; written beside and renamed, never half."""
    stated = {} if preprocessing is None else {"preprocessing": np.array(preprocessing)}

    def save(part: Path) -> None:
        with part.open("wb") as file:  # np.savez would add an ending to a path
            np.savez(file, **arrays, **stated)

    write_whole(Path(path), save)
