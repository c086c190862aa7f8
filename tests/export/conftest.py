"""One small network, exported once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ldct_jax.export import onnx_model, stablehlo, tensors
from ldct_jax.export import package as packages
from ldct_jax.export.source import Source
from ldct_jax.models import onednn
from ldct_jax.system.files import locked
from tests.export.networks import FACTS, SCALED, SMALL, TRAINED, source_of


@pytest.fixture(scope="session")
def small() -> Source:
    return source_of(SMALL, trained_on=TRAINED)


def once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` fills, once for all workers of a test run."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, part = root / name, root / f"{name}.part"
    with locked(root / f"{name}.lock", wait=True):
        if not folder.exists():
            make(part)
            part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def exported(small, tmp_path_factory) -> Path:
    """A folder with the network in all formats: StableHLO for any size, ONNX for 64 x 64."""

    def make(folder: Path) -> None:
        stablehlo.export(small, folder / "model.stablehlo")
        onnx_model.export(small, folder / "model.onnx", size=(64, 64))
        tensors.export(small, folder / "model.safetensors")

    return once(tmp_path_factory, "exported", make)


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    """A network that keeps a share of the noise, as a package for 64 x 64."""
    how = dict(facts=FACTS, onnx_size=(64, 64), size=(64, 64))
    return once(tmp_path_factory, "scaled", lambda folder: packages.export(SCALED, folder, **how))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    from tests import tiny

    folder = tmp_path_factory.mktemp("run")
    tiny.train(tiny.experiment(epochs=1), tiny.feeder(), folder)
    return folder


@pytest.fixture(autouse=True)
def _convolutions_of_xla():
    """An export has XLA's convolutions; what it is compared with to the bit has them too."""
    with onednn.disabled():
        yield
