"""Scores of a store that several processes share: a file a series, put together by the last one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ldct_jax.metrics.protocols import Protocol, Scores
from ldct_jax.system.files import locked, write_bytes
from ldct_jax.system.shard import Shard

Scored = dict[tuple[str, str], Scores]
"""One series' scores by (method, protocol's name)."""


class ScoreParts:
    """The folder ``FILE.parts`` beside the JSON file that the scores go to in the end.

    Args:
      file: of the finished scores.
      n: how many series there are.
      of: what the scores are of (images, model, protocols), for JSON; others are made anew.
    """

    def __init__(self, file: Path, n: int, protocols: Iterable[Protocol], of: dict):
        self.folder, self.n, self.of = file.with_name(f"{file.name}.parts"), n, of
        self.protocols = {p.name: p for p in protocols}

    def score(self, shard: Shard, score: Callable[[int], Scored]) -> None:
        """Score the series of ``shard`` that aren't yet."""
        with locked(self.folder / str(shard)):
            for i in filter(shard.takes, range(self.n)):
                if self._read(i) is None:
                    self._write(i, score(i))

    def all_of_them(self) -> list[Scored] | None:
        """The scores of all series; None while some are missing."""
        found = [self._read(i) for i in range(self.n)]
        return None if any(one is None for one in found) else found

    def remove(self) -> None:
        """To be called when the scores are in their file."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, i: int) -> Path:
        return self.folder / f"{i}.json"

    def _write(self, i: int, scored: Scored) -> None:
        rows = [
            [method, protocol, *(a.tolist() for a in (s.psnr_db, s.ssim, s.rmse, s.peak))]
            for (method, protocol), s in scored.items()
        ]
        write_bytes(self._file(i), json.dumps({"of": self.of, "rows": rows}).encode())

    def _read(self, i: int) -> Scored | None:
        try:
            part = json.loads(self._file(i).read_bytes())
        except (OSError, ValueError):
            return None
        if part["of"] != self.of:
            return None
        return {
            (method, name): Scores(self.protocols[name], *map(np.array, arrays))
            for method, name, *arrays in part["rows"]
        }
