"""What the README promises, and which tests hold it: ``python -m tests.promises`` writes the page.

A test says so with ``@pytest.mark.promise(KEY)``; a promise is a piece of the README's own text.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "requirements.md"
PROMISES = {
    "research-only": "nothing here is a medical device",
    "without-mayo": "It works with or without access to the Mayo data.",
    "every-network": "every network and filter it is compared with",
    "quality": "PSNR under protocol `pcn` ([-1024, 3072] HU)",
    "speed": "**Speed** beside the fastest PyTorch twin with the same weights",
    "two-commands": "trains the eight rows of the PCN ablation on # embedded phantoms",
    "no-silent-cpu": "A GPU that jax doesn't see is an error, not a silent fallback.",
    "resume": "Run an interrupted command again to resume it; on a CPU the result is bit-identical",
    "normal-dose-only": "normal dose only: low dose is simulated",
    "paired": "paired data, the paper's protocol",
    "sample": "public CT, fetched with pip",
    "collections": "Both Mayo collections and plain folders of series are recognised",
    "accounted-for": "everything in the folder is accounted for",
    "by-patient": "Splits are by patient, always.",
    "dry-run": "Add `ARGS=--dry-run` to see patients, slices, patches, steps and hours",
    "own-network": "ldct train own.py",
    "own-script": "The script is copied into the run's folder with its SHA-256",
    "code-is-named": "a run of it is loaded only where you name the script with `--code`",
    "told": "warning: chest #3 → #1003: about 1 slice missing",
    "derived": "DICOM in, derived DICOM out (NIfTI and .npy too)",
    "quiet-stays": "A series as quiet as a routine scan is left alone.",
    "one-share": "In a noisier series every slice keeps the same fraction of its noise",
    "python": "denoise = ldct_jax.load()",
    "train": "| `train EXP` | trains, evaluates, reports; resumes |",
    "evaluate": "| `evaluate LOW FULL` |",
    "texture": "`--texture`",
    "quality-best": "`--quality best`",
    "shard": "`--shard K/N`",
    "serve": "a DICOM node that receives, denoises and sends on",
    "mercure": "a mercure module",
    "view": "| `view BEFORE [AFTER …]` | one self-contained page to scroll, compare and measure |",
    "export": "verified while they are written",
    "adapt": "held-out slices decide",
    "package": "`--format package`: all of them, with a card, for others",
    "data": "phantoms, public CT, DICOM → store, low dose, VGG-16 weights",
    "report": "rebuilds reports from run folders",
    "lists": "the ten experiments; every network with its parameter count",
    "twins": "`make bench` compares speed with PyTorch twins of the same weights",
    "aot": "`make test-aot` compiles the training steps for GPUs and TPUs",
    "bfloat16": "**bfloat16** training of the full PCN ended within 0.05 dB of float32",
    "no-patients": "No patient data is in this repository.",
    "licences": "keeps its licence (printed, and stated in reports)",
}


def sections() -> dict[str, str]:
    """The README's text by heading, each run of blanks and line ends as one blank."""
    found: dict[str, str] = {}
    head, in_block = "", False
    for line in (ROOT / "README.md").read_text("utf-8").splitlines():
        in_block ^= line.startswith("```")
        if line.startswith("#") and not in_block:
            head, line = line.lstrip("# "), ""
        found[head] = found.get(head, "") + " " + " ".join(line.split())
    return {head: " ".join(text.split()) for head, text in found.items()}


@functools.cache
def held() -> dict[str, list[str]]:
    """Promise → the tests that say that they hold it, as pytest names them."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                    name = f"{path.relative_to(ROOT).as_posix()}::{node.name}"
                    for key in mark.args:
                        found.setdefault(ast.literal_eval(key), []).append(name)
    return found


def page() -> str:
    """docs/requirements.md."""
    tests = held()
    lines = [
        "# What the README promises, and the tests that hold it",
        "",
        "Made by `python -m tests.promises`: a promise is a piece of the README's own text, a test "
        "says with",
        "`@pytest.mark.promise` that it holds it, and `tests/test_promises.py` fails where one has "
        "no test.",
    ]
    for head, text in sections().items():
        here = {key: words for key, words in PROMISES.items() if words in text}
        if here:
            lines += ["", f"## {head}", "", "| promise | tests |", "|---|---|"]
        for key, words in here.items():
            words = words.strip("| ").replace(" # ", " ").replace("|", ":")
            named = "<br>".join(f"`{name.removeprefix('tests/')}`" for name in tests.get(key, ()))
            lines.append(f"| {words} | {named} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
