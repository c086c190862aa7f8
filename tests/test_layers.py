"""Imports go one way, and heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ldct_jax

pytestmark = pytest.mark.core
PACKAGE = Path(ldct_jax.__file__).parent

# Each layer may import itself and the layers above it in this list.
LAYERS = [
    {"errors"},
    {"hu", "user_script", "record", "shipped", "system"},
    {"losses", "metrics", "models", "ct", "dicom"},
    {"data"},
    {"optim"},
    {"train"},
    {"denoise", "export"},
    {"serve"},
    {"study"},
    {"report"},
    {"cli"},
]
# The one place of each heavy library at module level; None: nowhere at module level.
HEAVY = {"pydicom": "dicom", "grain": None, "orbax": None, "torch": None, "matplotlib": None}


def layer(part: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if part in names)


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").parts[0], path


def imports(path: Path):
    """(module, at module level) of every import statement."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield base, id(node) in top
            for alias in node.names:
                yield f"{base}.{alias.name}", id(node) in top


def test_imports_go_one_way():
    wrong = []
    for part, path in modules():
        if part in ("__init__", "__main__"):
            continue
        for name, _ in imports(path):  # inside functions, too
            if not name.startswith("ldct_jax."):
                continue
            target = name.split(".")[1]
            if target != "__version__" and layer(target) > layer(part):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {target}")
    assert not wrong, wrong


def test_no_two_folders_import_each_other():
    edges = {
        (part, name.split(".")[1])
        for part, path in modules()
        for name, _ in imports(path)
        if name.startswith("ldct_jax.") and part not in ("__init__", "__main__")
    }
    assert ("data", "dicom") in edges
    assert not [(a, b) for a, b in edges if a < b and (b, a) in edges]


def test_few_modules_lie_loose_at_the_top():
    assert len(list(PACKAGE.glob("*.py"))) <= 10


def test_heavy_libraries_have_one_place():
    wrong = []
    for part, path in modules():
        for name, at_top in imports(path):
            root = name.split(".")[0]
            if root == "torch" or (at_top and root in HEAVY and HEAVY[root] != part):
                wrong.append(f"{path.relative_to(PACKAGE)}: {name}")
    assert not wrong, wrong


def test_training_needs_no_more_than_its_five_libraries():
    code = (
        "import sys; import ldct_jax.train.run, ldct_jax.models.clones;"
        "import ldct_jax.data.feed.resident;"
        "bad = {'pydicom', 'grain', 'matplotlib', 'skimage', 'scipy.ndimage', 'click'}"
        " & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
