"""Which series are denoised, and what happens to the others: a small TOML file.

::

    others = "forward"            # or "pass over" (the default)

    [[denoise]]                   # a series that fits one of these blocks is denoised
    body_part = ["CHEST", "ABDOMEN"]
    kernel = "B3*"
    description = "*thorax*"
"""

from __future__ import annotations

import dataclasses
import fnmatch
import tomllib
from pathlib import Path

from ldct_jax.errors import UsageError
from ldct_jax.serve.facts import Facts

FIELDS = ("body_part", "kernel", "description")
OTHERS = ("pass over", "forward")


@dataclasses.dataclass(frozen=True)
class Rules:
    """``blocks``: field → patterns, of which one must fit; without blocks every series fits."""

    blocks: tuple[dict[str, tuple[str, ...]], ...] = ()
    others: str = "pass over"

    def fit(self, facts: Facts) -> bool:
        """Whether a series with such instances is to be denoised (case doesn't matter)."""
        return not self.blocks or any(
            all(
                any(fnmatch.fnmatchcase(getattr(facts, field).upper(), p.upper()) for p in patterns)
                for field, patterns in block.items()
            )
            for block in self.blocks
        )


def read_rules(path: Path | None) -> Rules:
    """The rules in a TOML file; the defaults for None. Raises UsageError for anything unknown."""
    if path is None:
        return Rules()
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} can't be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    if unknown := set(found) - {"others", "denoise"}:
        raise UsageError(
            f"{path}: unknown {', '.join(sorted(unknown))}; use others and [[denoise]]"
        )
    others = found.get("others", "pass over")
    if others not in OTHERS:
        raise UsageError(f"{path}: others = {others!r}; use one of {', '.join(OTHERS)}")
    blocks = found.get("denoise", [])
    if not isinstance(blocks, list) or not all(isinstance(b, dict) and b for b in blocks):
        raise UsageError(f"{path}: denoise must be [[denoise]] blocks of {', '.join(FIELDS)}")
    return Rules(tuple(_block(path, b) for b in blocks), others)


def _block(path: Path, block: dict) -> dict[str, tuple[str, ...]]:
    patterns = {}
    for field, value in block.items():
        if field not in FIELDS:
            raise UsageError(f"{path}: unknown {field}; a rule has {', '.join(FIELDS)}")
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise UsageError(f"{path}: {field} must be a text or a list of texts")
        patterns[field] = tuple(values)
    return patterns
