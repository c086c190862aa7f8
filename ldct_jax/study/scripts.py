"""The experiments: where their scripts are, and how one is loaded by name or from a file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from ldct_jax.errors import UsageError
from ldct_jax.study.study import Study


def folder() -> Path:
    """The scripts: ``experiments/`` of a clone, or its copy inside the installed package."""
    package = Path(__file__).parents[1]
    installed = package / "_experiments"
    return installed if installed.is_dir() else package.parent / "experiments"


def names() -> list[str]:
    """All experiments that come with the package."""
    return sorted(p.stem for p in folder().glob("*.py") if not p.stem.startswith("_"))


def load_study(name: str) -> Study:
    """The STUDY of a script: by its name, or by the path of the user's own ``.py`` file."""
    own = Path(name)
    if own.suffix == ".py":
        if not own.is_file():
            raise UsageError(f"there is no experiment script {name}")
        path = own
    elif name in names():
        path = folder() / f"{name}.py"
    else:
        raise UsageError(f"unknown experiment {name!r}: use one of {', '.join(names())}")
    module_name = f"ldct_jax_experiment_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module
    module_spec.loader.exec_module(module)
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise UsageError(f"{path.name} is no experiment: it must define STUDY, a Study")
    return study
