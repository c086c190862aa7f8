"""Artefacts in processes that have next to nothing installed."""

from __future__ import annotations

import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from ldct_jax.export import onnx_model
from ldct_jax.models.noise_scaled import with_series_noise
from ldct_jax.models.whole_slices import WholeSlices
from tests.dicom_fixtures import anatomy, noisy, write_series
from tests.export.networks import SCALED, hu_images


def alone(
    packages: str, program: str, artefact: Path, folder: Path, hu, absent=("pydicom",)
) -> np.ndarray:
    """Run ``artefact`` in a process in which only ``packages`` are installed."""
    site = Path(np.__file__).parents[1]
    (folder / "site").mkdir()
    for name in packages.split():
        for pattern in (name, f"{name}.py", f"{name}.libs", f"{name}-*.dist-info"):
            for part in site.glob(pattern):
                (folder / "site" / part.name).symlink_to(part)
    np.save(folder / "hu.npy", hu)
    head = f"""
        import importlib.util, sys
        sys.path.append(sys.argv[1])
        for name in ("ldct_jax", "flax", "onnx", *{absent!r}):
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
    assert np.abs(out - small.function()(hu)).max() <= onnx_model.MAX_HU


SCRIPT = """
    import runpy
    for arguments in (["--check"], ["in", sys.argv[4]], [sys.argv[3], "again.npy"]):
        sys.argv[1:] = arguments
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as error:
            assert not error.code, error
"""


def test_the_script_of_a_package_needs_numpy_onnxruntime_and_pydicom_alone(package, tmp_path):
    """Its check passes, and a DICOM series comes out as from the network; arrays too.

    Both are padded outside of the field of view, as scanners do; that is air for the network.
    """
    padded = np.concatenate([noisy(anatomy(0, n=1), sd, sd) for sd in (30, 45, 60)])
    padded[:, :12, :12] = -3024
    write_series(tmp_path / "in", padded, signed=True, bits=16, RescaleIntercept="0")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    hu = np.maximum(padded, -1024)
    script = package / "denoise_onnx.py"
    program = f"sys.argv[0] = {str(script)!r}\n" + textwrap.dedent(SCRIPT)
    program = program.replace("sys.argv[4]", repr(str(tmp_path / "out.npy")))
    program = program.replace("sys.argv[3]", repr(str(tmp_path / "hu.npy")))
    site = "onnxruntime numpy flatbuffers google packaging pydicom"
    out = alone(site, program, package, tmp_path, padded, absent=("jax", "scipy"))
    known = with_series_noise(SCALED.variables, hu)
    expected = WholeSlices(SCALED.model, SCALED.window)(known, np.asarray(hu, np.float32))
    assert np.abs(expected - hu).max() > 1
    assert np.abs(out - expected).max() < 0.05
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), out)


def test_what_the_script_of_a_package_can_not_take_is_one_line(package, tmp_path, capsys):
    script = runpy.run_path(str(package / "denoise_onnx.py"))
    hu = noisy(anatomy(0, n=2), 30, 0)
    for name, array in (("nan", np.full((1, 8, 8), np.nan)), ("colour", np.zeros((2, 8, 8, 3)))):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(SystemExit, match=f"{name}.npy isn't"):
            script["read"](tmp_path / f"{name}.npy")
    write_series(tmp_path / "two", hu, name=lambda k: f"a{k}")
    write_series(tmp_path / "two", hu, name=lambda k: f"b{k}", SeriesInstanceUID="1.2.3")
    write_series(tmp_path / "sizes", hu, name=lambda k: f"a{k}")
    write_series(tmp_path / "sizes", hu[:, 2:], name=lambda k: f"b{k}", z0=9.0)
    (tmp_path / "empty").mkdir()
    for name, why in (("two", "several series"), ("empty", "or none"), ("sizes", "several sizes")):
        with pytest.raises(SystemExit, match=f"error: .*{why}"):
            script["read"](tmp_path / name)
    np.save(tmp_path / "small.npy", hu[:, 2:])
    monkeypatched = [str(package), str(tmp_path / "small.npy"), str(tmp_path / "out.npy")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", monkeypatched)
        with pytest.raises(SystemExit, match=r"takes slices of \[64, 64\] pixels, not \[62, 64\]"):
            script["main"]()
    assert not (tmp_path / "out.npy").exists()
