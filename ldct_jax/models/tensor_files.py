"""Files of named tensors that others wrote: .npz, .h5, .onnx, .safetensors → numpy arrays.

No file is unpickled, and none needs the framework that wrote it. A file may state for which
preprocessing its weights were trained: an .npz by a string array ``preprocessing``, an .h5 by an
attribute of that name, .safetensors and .onnx by a metadata entry of that name.
"""

from __future__ import annotations

import dataclasses
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ldct_jax.errors import DataError, UsageError
from ldct_jax.system.files import DAMAGED_ARRAY, write_whole

KINDS = (".npz", ".h5", ".onnx", ".safetensors")
_ONNX_TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}


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
    """The initialisers of an ONNX model, read from its protobuf without the onnx package.

    ModelProto: graph = 7, metadata_props = 14; GraphProto: initializer = 5; TensorProto:
    dims = 1, data_type = 2, float_data = 4, name = 8, raw_data = 9.
    """
    arrays, stated = {}, None
    for field, value in _fields(memoryview(data)):
        if field == 7:
            tensors = (_onnx_tensor(v) for f, v in _fields(value) if f == 5)
            arrays.update({name: array for name, array in tensors if array is not None})
        elif field == 14:
            entry = {f: bytes(v).decode() for f, v in _fields(value)}
            stated = entry.get(2) if entry.get(1) == "preprocessing" else stated
    if not arrays:
        raise ValueError("there are no tensors in it")
    return FileTensors(arrays, "OIHW", stated)


def _onnx_tensor(message) -> tuple[str, np.ndarray | None]:
    dims, kind, name, raw, floats = [], 0, "", None, b""
    for field, value in _fields(message):
        if field == 1:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif field == 2:
            kind = value
        elif field == 4:
            floats += bytes(value)
        elif field == 8:
            name = bytes(value).decode()
        elif field == 9:
            raw = value
    if kind not in _ONNX_TYPES or (raw is None and not floats):
        return name, None
    array = np.frombuffer(raw if raw is not None else floats, _ONNX_TYPES[kind])
    if array.size != math.prod(dims):
        raise ValueError(f"tensor {name} is cut short")
    return name, array.reshape(dims).copy()


def _fields(message) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a protobuf message: numbers, or the bytes of anything else."""
    message, at = memoryview(message), 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = message[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("the file is cut short")
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"protobuf wire type {kind}")
        yield key >> 3, value


def _varint(message, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at


def _varints(message) -> list[int]:
    values, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        values.append(value)
    return values


def write_npz(path: str | Path, arrays: dict[str, np.ndarray], preprocessing: str | None = None):
    """An .npz that :func:`read_tensors` reads; written beside and renamed, never half."""
    stated = {} if preprocessing is None else {"preprocessing": np.array(preprocessing)}

    def save(part: Path) -> None:
        with part.open("wb") as file:  # np.savez would add an ending to a path
            np.savez(file, **arrays, **stated)

    write_whole(Path(path), save)
