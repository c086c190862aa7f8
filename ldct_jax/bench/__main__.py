"""``python -m ldct_jax.bench``: the benchmark with jax, flax, optax, orbax and numpy alone.

What ``ldct bench`` does, for machines where nothing else is installed; the report is left out
where its libraries are missing, and ``ldct bench --report-only`` makes it anywhere else.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from ldct_jax.bench import run as bench
from ldct_jax.errors import LdctError
from ldct_jax.system import xla_flags


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("python -m ldct_jax.bench", description=__doc__.splitlines()[0])
    p.add_argument("--torch", action="store_true", help="measure PyTorch beside us")
    p.add_argument("--torch-python", default=sys.executable, help="interpreter that has torch")
    p.add_argument("--torch-script", type=Path, help="the PyTorch cells [experiments/speed]")
    p.add_argument("--json", type=Path, default=Path("runs/speed/speed.json"))
    p.add_argument("--small", action="store_true", help="the CPU's sizes also on a GPU")
    p.add_argument("--only", action="append", default=[], help="only this group (repeatable)")
    p.add_argument("--minutes", type=float, help="time limit")
    return p


def script() -> Path:
    """The PyTorch cells' program: in a clone, or its copy inside the installed package."""
    package = Path(__file__).parent.parent
    installed = package / "_experiments"
    folder = installed if installed.is_dir() else package.parent / "experiments"
    return folder / "speed" / "torch_cell.py"


def report(record: dict, folder: Path) -> str:
    """Write the report; one line that says where it is, or what is missing for it."""
    try:
        from ldct_jax.bench import page

        for needed in ("jinja2", "matplotlib"):  # the page imports them late, where it draws
            importlib.import_module(needed)
        return f"report: {page.write(record, folder)}"
    except ModuleNotFoundError as error:
        return (
            f"no report: {error.name} is missing here; `ldct bench --report-only --json FILE` "
            "makes it from the JSON on any other machine"
        )


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    words = [w for w in ("--torch", "--small") if getattr(asked, w[2:])]
    try:
        record = bench.run(
            bench.Request(
                out=asked.json,
                torch_script=(asked.torch_script or script()) if asked.torch else None,
                torch_python=asked.torch_python,
                small=asked.small,
                only=asked.only,
                minutes=asked.minutes,
                command=" ".join(["python -m ldct_jax.bench", *words]),
            )
        )
    except LdctError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"written: {asked.json}")
    print(report(record, asked.json.parent))
    return 0


if __name__ == "__main__":
    xla_flags.restart_with_large_pages()
    sys.exit(main())
