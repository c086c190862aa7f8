"""What is loaded may come from anywhere: nothing of it is run, unpickled or unpacked blindly."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ldct_jax

ROOT = Path(ldct_jax.__file__).parent.parent
# Modules that run code of what they load, and calls that write where an archive says.
UNPICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNPACKING = {"extract", "extractall", "unpack_archive"}
NEEDED = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}


def sources() -> list[Path]:
    found = [p for part in ("ldct_jax", "experiments") for p in (ROOT / part).rglob("*.py")]
    assert len(found) > 100
    return found


def trespasses(code: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(code)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        found += [m for m in modules if m.split(".")[0] in UNPICKLING]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called.rpartition(".")[2] in UNPACKING:
            found.append(called)
        if called in NEEDED:
            name, value = NEEDED[called]
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if given.get(name) != str(value):
                found.append(f"{called} without {name}={value}")
    return found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from joblib import load", ["joblib"]),
        ("np.load(x)", ["np.load without allow_pickle=False"]),
        ("np.load(x, allow_pickle=True)", ["np.load without allow_pickle=False"]),
        ("torch.load(x, weights_only=False)", ["torch.load without weights_only=True"]),
        ("archive.extractall(folder)", ["archive.extractall"]),
        ("np.load(x, mmap_mode='r', allow_pickle=False)", []),
        ("torch.load(x, weights_only=True); archive.read(name)", []),
    ],
)
def test_the_search_finds_what_it_should(code, found):
    assert trespasses(code) == found


def test_no_source_unpickles_or_unpacks():
    wrong = [(str(p.relative_to(ROOT)), t) for p in sources() for t in trespasses(p.read_text())]
    assert wrong == []


def test_requirements_are_pinned_with_hashes_and_the_project_comes_without_dependencies():
    files = sorted((ROOT / "requirements").glob("*-py3.*.txt"))
    assert files
    for path in files:
        text = path.read_text().replace("\\\n", " ")
        lines = [x.strip() for x in text.splitlines() if x.strip() and not x.startswith(("#", "-"))]
        loose = [
            x[:60] for x in lines if x[:1] != "#" and ("==" not in x or "--hash=sha256" not in x)
        ]
        assert lines and not loose, (path.name, loose)
    makefile = (ROOT / "Makefile").read_text()
    assert "--require-hashes -r requirements/" in makefile
    assert "install --no-deps --no-build-isolation -e ." in makefile
