"""The accelerator that the user means, and the cache of compiled programs."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ldct_jax import cli
from ldct_jax.errors import LdctError
from ldct_jax.system import accelerator

pytestmark = pytest.mark.core
ROOT = Path(__file__).parents[2]


@pytest.mark.promise("no-silent-cpu")
def test_a_gpu_that_jax_does_not_see_is_an_error_unless_cpu_is_asked_for(monkeypatch):
    assert jax.default_backend() == "cpu"
    monkeypatch.setattr(accelerator, "nvidia_driver", lambda: True)
    monkeypatch.delenv("ACCEL", raising=False)
    with pytest.raises(LdctError, match="ACCEL=cuda12"):
        accelerator.start()
    monkeypatch.setenv("ACCEL", "cpu")
    accelerator.start()
    monkeypatch.setattr(accelerator, "nvidia_driver", lambda: False)
    monkeypatch.delenv("ACCEL")
    accelerator.start()


@pytest.fixture
def kept_settings():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield before
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_in_the_users_cache(monkeypatch, tmp_path, kept_settings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    accelerator.start()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "ldct_jax" / "compiled")
    assert (tmp_path / "ldct_jax" / "compiled").is_dir()


def test_a_cache_that_the_user_has_named_to_jax_is_used(monkeypatch, tmp_path, kept_settings):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    accelerator.start()
    assert jax.config.jax_compilation_cache_dir == kept_settings["jax_compilation_cache_dir"]
    assert not (tmp_path / "ldct_jax" / "compiled").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_needs_no_jax(arguments):
    code = (
        "import sys; from ldct_jax.cli import run; code = run(sys.argv[1:]);"
        "assert 'jax' not in sys.modules and 'pydicom' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert "ldct" in done.stdout


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_with_an_example(name, capfd):
    assert cli.run([name, "--help"]) == 0
    assert "Example:" in capfd.readouterr().out


@pytest.mark.parametrize("target", ["ACCEL=gpu setup", "ACCEL=cpu train PYTHON=true VENV=none"])
def test_the_makefile_refuses_what_it_does_not_know(target, tmp_path):
    done = subprocess.run(
        ["make", "-n" if "train" in target else "-s", *target.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "gpu" in target:
        assert done.returncode == 2 and "none of auto, cpu, cuda12" in done.stderr
    else:
        assert done.returncode == 0 and "which experiment?" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("accel", ["cuda12", "cuda13", "tpu"])
def test_the_extras_resolve(accel, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", f"{ROOT}[{accel}]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
