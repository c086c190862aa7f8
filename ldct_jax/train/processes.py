"""Several processes that train as one: every decision that they must share goes through here.

Clocks, signals, disks and memory sizes differ between processes, and a collective that only some
of them enter never returns. So nothing that is measured locally may decide what a process does
next. With one process every method returns at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ldct_jax.errors import LdctError, NumericsError


class Processes:
    """All processes of one training; each of them has to make the same calls in the same order."""

    def __init__(self):
        self.processes = jax.process_count()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that logs and reports for all."""
        return jax.process_index() == 0

    def agree(self, *values: int) -> list[int]:
        """The largest of each value (31 bits) over all processes."""
        return [int(v) for v in np.max(self._gathered(np.asarray(values, np.int32)), axis=0)]

    def share(self, value: Any) -> Any:
        """The first process's ``value``, which JSON can hold, on all of them."""
        if self.processes == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode() if self.is_first else b"", np.uint8)
        (length,) = self.agree(text.size)
        padded = np.pad(text, (0, length - text.size))
        return json.loads(self._gathered(padded)[0].tobytes())

    def first(self, action: Callable[[], Any]) -> Any:
        """Run ``action`` on the first process alone (writing files, say) while the others wait.

        Returns its result, which JSON must hold, on every process. If it fails, every process
        raises: the first its own error, the others one that refers to it.
        """
        return self.share(self._all_or_none(action, self.is_first))

    def together(self, action: Callable[[], Any]) -> Any:
        """Run ``action`` on every process; if it fails on one of them, all raise."""
        return self._all_or_none(action, True)

    def in_turn(self, action: Callable[[], Any]) -> Any:
        """Run ``action`` on the first process, which may fill a cache, then on the others."""
        firsts = self._all_or_none(action, self.is_first)
        others = self._all_or_none(action, not self.is_first)
        return firsts if self.is_first else others

    def check_equal(self, value: int, what: str) -> None:
        """Raise LdctError on every process unless ``value`` (31 bits) is the same on all."""
        largest, negated = self.agree(value, -value)
        if largest != -negated:
            raise LdctError(f"the processes have different {what}: give all of them the same")

    def own(self, tree):
        """A replicated pytree for computations of this process alone (numpy, where several are)."""
        return tree if self.processes == 1 else jax.tree.map(np.asarray, tree)

    def _gathered(self, array: np.ndarray) -> np.ndarray:
        """(processes, …): this array of every process."""
        if self.processes == 1:
            return array[None]
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array))

    def _all_or_none(self, action: Callable[[], Any], here: bool) -> Any:
        if self.processes == 1:
            return action() if here else None
        value = error = None
        if here:
            try:
                value = action()
            except Exception as raised:
                # Raised below, once the others know: they would wait in their next collective.
                error = raised
        # NumericsError ends one run, not the command, so every process must raise the same kind.
        (failed,) = self.agree(0 if error is None else 1 + isinstance(error, NumericsError))
        if error is not None:
            raise error
        if failed:
            kind = NumericsError if failed == 2 else LdctError
            raise kind("another process failed: its own message says why")
        return value
