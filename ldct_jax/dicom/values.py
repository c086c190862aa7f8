"""Elements of a data set, read with suspicion; the errors of one file.

Numbers are read from their raw bytes: scanners write ``008.000000E+00``, a decimal comma, or a
wrong VR for signed padding, and a value that nobody needs must not make a file unreadable.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from pathlib import Path

from ldct_jax.errors import DataError
from ldct_jax.system.names import printable


class Unusable(DataError):
    """One file or series can't be used; ``reason`` says why without naming it.

    ``kind`` is ``failed`` for a CT image that can't be done and ``other`` for something that is
    not a CT image (see :class:`ldct_jax.dicom.left_out.LeftOut`). ``series_number``: that of a
    file which could be parsed.
    """

    def __init__(self, path: Path, reason: str, *, kind: str = "failed"):
        super().__init__(f"{printable(str(path))}: {reason}")
        self.path, self.reason, self.kind = path, reason, kind
        self.series_number: int | None = None


class Value:
    """One raw element: bytes that are read as the standard means them, whatever the VR says."""

    def __init__(self, data_set, tag: int, path: Path):
        from pydicom.dataelem import RawDataElement

        element = data_set.get_item(tag) if tag in data_set else None
        self.tag, self.path = tag, path
        self.raw, self.big = b"", False
        if not isinstance(element, RawDataElement):
            if element is not None and element.value is not None:  # set by enhanced.py
                self.raw = str(element.value).encode("latin-1", "replace")
        elif element.value is not None:
            self.raw, self.big = bytes(element.value), not element.is_little_endian

    def text(self) -> str:
        # Interned: thousands of slices of a series say the same.
        return sys.intern(self.raw.decode("latin-1").strip(" \0"))

    def numbers(self, count: int) -> tuple[float, ...]:
        """``count`` finite numbers of a DS or IS, or Unusable."""
        try:
            # A decimal comma breaks the standard but is met; thousands have no mark in a DS.
            values = tuple(float(v.strip(" \0").replace(",", ".")) for v in self.text().split("\\"))
        except ValueError:
            values = ()
        if len(values) != count or not all(math.isfinite(v) for v in values):
            raise self._wrong(f"{count} number{'s' * (count > 1)}")
        return values

    def number(self, missing: float | None = None) -> float:
        """One number; ``missing`` (if given) where the element is absent, empty or nonsense."""
        if missing is None:
            return self.numbers(1)[0]
        try:
            return self.numbers(1)[0] if self.raw else missing
        except Unusable:
            return missing

    def word(self, signed: bool) -> int | None:
        """The first 16-bit word. Its sign is PixelRepresentation's: the VR is often wrong."""
        if len(self.raw) < 2:
            return None
        return int.from_bytes(self.raw[:2], "big" if self.big else "little", signed=signed)

    def integer(self, missing: int | None = None) -> int:
        value = self.word(False)
        if value is None:
            if missing is None:
                raise self._wrong("a whole number")
            return missing
        return value

    def _wrong(self, needed: str) -> Unusable:
        group, element = divmod(self.tag, 0x10000)
        return Unusable(self.path, f"({group:04x},{element:04x}) is missing or is not {needed}")


class careful:
    """pydicom is hushed, and whatever it stumbles over becomes one line.

    Its warnings and log lines quote values, so they could carry names and UIDs to a terminal or a
    log. A bit-flipped file can raise anything from struct.error to RecursionError inside a parser,
    so everything but an interrupt is caught here.
    """

    def __init__(self, path: Path):
        self.path = path
        self._warnings = warnings.catch_warnings()
        self._logger = logging.getLogger("pydicom")

    def __enter__(self):
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL + 1)
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind, error, trace):
        self._warnings.__exit__(kind, error, trace)
        self._logger.setLevel(self._level)
        if isinstance(error, Exception) and not isinstance(error, DataError):
            if isinstance(error, OSError) and error.strerror:
                why = error.strerror
            else:
                why = f"{kind.__name__} while it was read"
            raise Unusable(self.path, f"damaged or not DICOM: {why}") from None
