"""Experiment scripts: those that come with the package, and the user's own files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from ldct_jax.errors import UsageError
from ldct_jax.study.study import Study
from ldct_jax.system.files import write_bytes
from ldct_jax.user_script import check_code, script, script_record, use_code


def folder() -> Path:
    """The scripts: ``experiments/`` of a clone, or its copy inside the installed package."""
    package = Path(__file__).parents[1]
    installed = package / "_experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def names() -> list[str]:
    """All experiments that come with the package: scripts that define a STUDY."""
    return sorted(p.stem for p in folder().glob("*.py") if "\nSTUDY = " in p.read_text())


def load_study(name: str) -> Study:
    """The STUDY of a script: by its name, or by the path of the user's own ``.py`` file."""
    if name.endswith(".py"):
        return _study(use_code(name))
    if name not in names():
        raise UsageError(
            f"unknown experiment {name!r}: use one of {', '.join(names())}, or the path of "
            "a Python file that ends in .py"
        )
    if str(folder()) not in sys.path:  # the scripts import what they share
        sys.path.append(str(folder()))
    path = folder() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"ldct_jax_experiment_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return _study(module)


def recorded_study(found: dict) -> Study:
    """The study whose ``study.json`` is ``found``; of an own script, the one that was named.

    Raises CheckpointError where the user's script is needed and wasn't named.
    """
    if found.get("code") is None:
        return load_study(found["study"])
    check_code(found["code"])
    return _study(script())


def own_script(study: Study) -> Path | None:
    """The user's file that defines ``study``; None for the experiments of the package."""
    module = script()
    if module is None or not any(value is study for value in vars(module).values()):
        return None
    return Path(module.__file__)


def own_record(study: Study) -> dict | None:
    """Name and SHA-256 of :func:`own_script`."""
    return None if own_script(study) is None else script_record()


def keep_script(code: dict | None, folder: Path) -> None:
    """Copy the script that ``code`` records into ``folder``; nothing where it is None."""
    if code is not None:
        write_bytes(folder / code["file"], Path(script().__file__).read_bytes())


def _study(module) -> Study:
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise UsageError(
            f"{Path(module.__file__).name} is no experiment: it must define STUDY, a Study"
        )
    return study
