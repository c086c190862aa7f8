"""Artefacts in processes that have next to nothing installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from ldct_jax.export import onnx_model
from tests.export.networks import hu_images


def alone(packages: str, program: str, artefact: Path, folder: Path, hu) -> np.ndarray:
    """Run ``artefact`` in a process in which only ``packages`` are installed."""
    site = Path(np.__file__).parents[1]
    (folder / "site").mkdir()
    for name in packages.split():
        for part in (name, f"{name}.py", f"{name}.libs"):
            if (site / part).exists():
                (folder / "site" / part).symlink_to(site / part)
    np.save(folder / "hu.npy", hu)
    head = """
        import importlib.util, sys
        sys.path.append(sys.argv[1])
        for name in ("ldct_jax", "flax", "pydicom", "onnx"):
            assert importlib.util.find_spec(name) is None, name
        import numpy as np
        hu = np.load(sys.argv[3])
    """
    program = textwrap.dedent(head) + textwrap.dedent(program)
    arguments = [folder / "site", artefact, folder / "hu.npy", folder / "out.npy"]
    # -I and -S: neither PYTHONPATH nor the environment's own packages.
    command = [sys.executable, "-I", "-S", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "out.npy")


@pytest.mark.core
def test_stablehlo_runs_with_jax_and_numpy_alone(small, exported, tmp_path):
    """jax's own dependencies are there, and flatbuffers, which its reader of exports imports."""
    hu = hu_images(2, 70, 64)
    out = alone(
        "jax jaxlib numpy scipy ml_dtypes opt_einsum flatbuffers",
        """
        import jax.export
        exported = jax.export.deserialize(bytearray(open(sys.argv[2], "rb").read()))
        np.save(sys.argv[4], np.asarray(exported.call(hu)))
        """,
        exported / "model.stablehlo",
        tmp_path,
        hu,
    )
    np.testing.assert_array_equal(out, jax.jit(small.function())(hu))


@pytest.mark.core
def test_onnx_runs_with_onnxruntime_and_numpy_alone(small, exported, tmp_path):
    hu = hu_images(3, 64, 64)
    out = alone(
        "onnxruntime numpy flatbuffers google packaging",
        """
        import onnxruntime
        session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
        assert importlib.util.find_spec("jax") is None
        np.save(sys.argv[4], session.run(None, {"hu": hu})[0])
        """,
        exported / "model.onnx",
        tmp_path,
        hu,
    )
    assert np.abs(out - small.function()(hu)).max() <= onnx_model.MOST_HU
