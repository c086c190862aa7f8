"""Names and numbers as they can be printed: any bytes, any locale, one line."""

from __future__ import annotations

from pathlib import Path


def printable(text: str) -> str:
    """``text`` with control characters and bytes that are not UTF-8 written as ``\\xNN``."""

    def one(character: str) -> str:
        if "\udc80" <= character <= "\udcff":  # what os.fsdecode makes of a byte
            return f"\\x{ord(character) - 0xDC00:02x}"
        if "\ud800" <= character <= "\udfff" or not (character == " " or character.isprintable()):
            return character.encode("unicode_escape", "surrogatepass").decode()
        return character

    return "".join(map(one, text))


def counted(n: int, what: str) -> str:
    """``1 slice``, ``2 slices``."""
    return f"{n} {what}{'s' * (n != 1)}"


def percent(share: float) -> str:
    """``25%``, ``12.5%``, ``0.5%``: a dose in words."""
    return f"{100 * share:.3g}%"


def shown(path: Path, root: Path) -> str:
    """``path`` for the reader's eyes: below ``root`` where it lies there, with slashes."""
    inside = path.is_relative_to(root) and path != root
    return printable(path.relative_to(root).as_posix() if inside else path.name)
