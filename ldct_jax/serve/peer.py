"""Where results go: another DICOM node by C-STORE, or a folder."""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Callable
from pathlib import Path

from ldct_jax.dicom.file import EXPLICIT, IMPLICIT, NATIVE
from ldct_jax.errors import LdctError, UsageError
from ldct_jax.system.files import write_bytes

STORED = (0x0000, 0x0111, 0xB000, 0xB006, 0xB007)
"""C-STORE answers after which the peer has the instance: success, a duplicate, and warnings."""
_TIMEOUT_S = 30.0


class NotDelivered(LdctError):
    """A batch could not be delivered; ``peer_is_away`` where that isn't the batch's fault."""

    def __init__(self, reason: str, *, peer_is_away: bool):
        super().__init__(reason)
        self.peer_is_away = peer_is_away


@dataclasses.dataclass(frozen=True)
class Peer:
    """A DICOM node; ``port`` is None for one that only calls."""

    ae: str
    host: str
    port: int | None = None

    def __str__(self) -> str:
        return f"{self.ae}@{self.host}" + (f":{self.port}" if self.port else "")


def parse_peer(text: str, *, needs_port: bool) -> Peer:
    """``AE@HOST:PORT``; raises UsageError for anything else."""
    match = re.fullmatch(r"([^@\\]{1,16})@(\[[^]]+\]|[^@:\[\]]+)(?::(\d{1,5}))?", text)
    if not match or (needs_port and not match[3]) or not 0 < int(match[3] or 1) < 65536:
        form = "AE@HOST:PORT" if needs_port else "AE@HOST or AE@HOST:PORT"
        raise UsageError(f"{text!r} is not {form}, with an AE title of up to 16 characters")
    return Peer(match[1].strip(), match[2].strip("[]"), int(match[3]) if match[3] else None)


@dataclasses.dataclass(frozen=True)
class ToPeer:
    """Sends by C-STORE as ``own_ae``."""

    peer: Peer
    own_ae: str

    def __call__(self, batch: str, files: list[Path], sent: Callable[[Path], None]) -> None:
        """Send ``files``; ``sent`` is called for each that the peer has taken over.

        Raises:
          NotDelivered: the peer is away, or doesn't take one of them; the others are sent.
        """
        from pynetdicom import AE

        kinds = [_kind(f) for f in files]
        ae = AE(self.own_ae)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = _TIMEOUT_S
        for sop_class, syntaxes in _contexts(kinds):
            ae.add_requested_context(sop_class, syntaxes)
        association = ae.associate(self.peer.host, self.peer.port, ae_title=self.peer.ae)
        if not association.is_established:
            why = "refuses us" if association.is_rejected else "doesn't answer"
            raise NotDelivered(f"{self.peer} {why}", peer_is_away=True)
        # An instance is a small packet and a large one: Nagle's rule would wait between the two.
        association.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        refused: list[str] = []
        try:
            for number, file in enumerate(files):
                if why := self._send(association, file, number):
                    refused.append(why)
                else:
                    sent(file)
        finally:
            if association.is_established:
                association.release()
        if refused:
            raise NotDelivered(
                f"{self.peer} refuses {len(refused)} of {len(files)} instances: {refused[0]}",
                peer_is_away=False,
            )

    def _send(self, association, file: Path, number: int) -> str:
        """Why the peer doesn't take ``file``; "" where it has."""
        try:
            answer = association.send_c_store(file, msg_id=number % 65535 + 1)
        except ValueError:
            return "no presentation context for its kind of image and compression"
        except RuntimeError:
            answer = None
        if not answer:
            raise NotDelivered(f"{self.peer} broke the association off", peer_is_away=True)
        if answer.Status in STORED:
            return ""
        if answer.Status >> 8 == 0xA7:
            raise NotDelivered(f"{self.peer} is out of room (A7xx)", peer_is_away=True)
        return f"status {answer.Status:04X}"


@dataclasses.dataclass(frozen=True)
class ToFolder:
    """Writes each batch into a folder of its own below ``out``, as it lies in the spool."""

    out: Path

    def __call__(self, batch: str, files: list[Path], sent: Callable[[Path], None]) -> None:
        """As :meth:`ToPeer.__call__`."""
        for file in files:
            # With its folders: every multi-frame instance has a 0001.dcm of its own.
            folder = next(f for f in file.parents if f.name == batch)
            try:
                write_bytes(self.out / batch / file.relative_to(folder), file.read_bytes())
            except LdctError as error:
                raise NotDelivered(str(error), peer_is_away=True) from None
            sent(file)


def _kind(file: Path) -> tuple[str, str]:
    """(SOP class, transfer syntax) as the file's meta group has them."""
    from pydicom.filereader import read_file_meta_info

    meta = read_file_meta_info(str(file))
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def _contexts(kinds: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """What to propose: each compression by itself, uncompressed images either way of writing."""
    return [
        (sop_class, [EXPLICIT, IMPLICIT] if syntax in NATIVE else [syntax])
        for sop_class, syntax in sorted({(c, EXPLICIT if s in NATIVE else s) for c, s in kinds})
    ]
