"""The listening side: associations, C-ECHO, C-STORE, storage commitment; and the node's threads."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import threading
import warnings
from collections.abc import Callable

from ldct_jax.dicom.values import Unusable
from ldct_jax.errors import LdctError
from ldct_jax.serve.facts import transfer_syntaxes
from ldct_jax.serve.peer import Peer
from ldct_jax.serve.spool import Full, Mismatch, Spool
from ldct_jax.serve.worker import Worker

SUCCESS, OUT_OF_RESOURCES, WRONG_CLASS, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
NO_SUCH_INSTANCE = 0x0112
MAX_ASSOCIATIONS = 16
SENDERS = 4
"""Series that are delivered at the same time: each instance waits for the peer's answer."""
MAX_PDU = 128 * 1024
MAX_INSTANCE = 1 << 30
"""Bytes of one instance that are received at most; they are held in memory until it is whole."""
IDLE_S = 60.0
"""Associations that say nothing for so long are closed."""
TICK_S = 0.2
EXPIRE_EVERY_S = 600.0
LOOPBACK = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Listening:
    """``callers``: who may call; without any, every program on this machine and nobody else."""

    port: int
    ae: str = "LDCT"
    callers: tuple[Peer, ...] = ()
    quiet_s: float = 10.0


class Node:
    """Receives into ``spool`` and lets ``worker`` go on from there.

    ``start`` listens and returns, ``stop`` ends; between them everything runs in threads.
    """

    def __init__(
        self, listening: Listening, spool: Spool, worker: Worker, log: Callable[[str], None]
    ):
        self.listening, self.spool, self.worker, self.log = listening, spool, worker, log
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._ae = None
        self._bytes: dict[int, int] = {}

    def start(self) -> None:
        """Listen. Raises LdctError where the port can't be had."""
        self._ae = _entity(self.listening.ae)
        host = "" if self.listening.callers else LOOPBACK
        try:
            server = self._ae.make_server(
                (host, self.listening.port),
                evt_handlers=self._handlers(),
                server_class=_server_class(self._is_known_host),
            )
        except OSError as error:
            raise LdctError(
                f"port {self.listening.port} can't be had ({error.strerror}): choose another --port"
            ) from error
        self._ae._servers.append(server)  # so that shutdown() ends it
        self.port = server.server_address[1]
        delivering = [self._deliver] * SENDERS
        for work in (server.serve_forever, self._close_and_denoise, *delivering):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End associations and threads; a series that is being denoised is finished first."""
        self._ending.set()
        self._ae.shutdown()
        for thread in self._threads:
            thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether all threads run."""
        return all(thread.is_alive() for thread in self._threads)

    # Threads

    def _close_and_denoise(self) -> None:
        next_expiry = 0.0
        waited = 0.0
        while not self._ending.is_set():
            for batch, count, expected in self.spool.close_complete(self.listening.quiet_s):
                of = f" of {expected}" if expected else ""
                self.log(f"series {batch}: {count}{of} instances received")
            if not self.worker.denoise_next():
                self._ending.wait(TICK_S)
                waited += TICK_S
            if waited >= next_expiry:
                self.worker.expire()
                next_expiry = waited + EXPIRE_EVERY_S

    def _deliver(self) -> None:
        while not self._ending.is_set():
            if not self.worker.deliver_next():
                self._ending.wait(TICK_S)

    # Events

    def _handlers(self) -> list:
        from pynetdicom import evt

        return [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_PDU_RECV, self._received_pdu),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._commit),
            (evt.EVT_RELEASED, self._ended),
            (evt.EVT_ABORTED, self._ended),
            (evt.EVT_CONN_CLOSE, self._ended),
        ]

    def _is_known_host(self, address: str) -> bool:
        callers = self.listening.callers
        return not callers or any(address in _addresses(peer.host) for peer in callers)

    def _requested(self, event) -> None:
        if not self.listening.callers:
            return
        requestor = event.assoc.requestor
        title, address = requestor.primitive.calling_ae_title, requestor.address
        for peer in self.listening.callers:
            if peer.ae == title.strip() and address in _addresses(peer.host):
                return
        self.log("a caller that --from doesn't name was refused")
        event.assoc.acse.send_reject(0x01, 0x01, 0x03)  # calling AE title not recognised

    def _received_pdu(self, event) -> None:
        """Break off what never ends: an instance is in memory until it is whole."""
        sender = id(event.assoc)
        self._bytes[sender] = self._bytes.get(sender, 0) + len(event.pdu)
        if self._bytes[sender] > MAX_INSTANCE:
            self.log("an instance of more than 1 GiB was broken off")
            event.assoc.abort()

    def _store(self, event) -> int:
        sender = id(event.assoc)
        self._bytes.pop(sender, None)
        try:
            self.spool.store(
                str(event.request.AffectedSOPInstanceUID), event.encoded_dataset(), sender
            )
        except Full as error:
            self.log(f"an instance was refused: {error}")
            return OUT_OF_RESOURCES
        except Mismatch:
            self.log("an instance was refused: its UID is not that of the request")
            return WRONG_CLASS
        except Unusable as error:
            self.log(f"an instance was refused: {error.reason}")
            return CANNOT_UNDERSTAND
        return SUCCESS

    def _ended(self, event) -> None:
        self._bytes.pop(id(event.assoc), None)
        self.spool.gone(id(event.assoc))

    # Storage commitment

    def _commit(self, event):
        """Answer N-ACTION at once, and report from a thread of its own."""
        asked = event.action_information
        report = threading.Thread(target=self._report, args=(event.assoc, asked), daemon=True)
        report.start()
        return SUCCESS, None

    def _report(self, association, asked) -> None:
        """Tell the peer which instances are on the disk: N-EVENT-REPORT, on the same association
        or, where that has ended, on a new one to a caller whose port is known."""
        result, kind = _commitment(asked, self.spool.holds)
        title = association.requestor.ae_title
        if _tell(association, result, kind):
            return
        for peer in self.listening.callers:
            if peer.ae == title and peer.port:
                with contextlib.suppress(Exception):
                    again = _call_back(self.listening.ae, peer)
                    if _tell(again, result, kind):
                        again.release()
                        return
        self.log("a storage commitment could not be reported: the caller has gone")


def _entity(title: str):
    from pynetdicom import AE, _config
    from pynetdicom.presentation import AllStoragePresentationContexts
    from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

    # pynetdicom's own log names UIDs and AE titles, pydicom's warnings quote values.
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom|pynetdicom")
    ae = AE(title)
    ae.require_called_aet = True
    ae.maximum_associations = MAX_ASSOCIATIONS
    ae.maximum_pdu_size = MAX_PDU
    ae.network_timeout = IDLE_S
    syntaxes = transfer_syntaxes()
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, syntaxes)
    ae.add_supported_context(Verification)
    ae.add_supported_context(StorageCommitmentPushModel)
    return ae


def _server_class(is_known: Callable[[str], bool]) -> type:
    """A server that closes connections from elsewhere before it reads a byte of them."""
    from pynetdicom.transport import ThreadedAssociationServer

    class Server(ThreadedAssociationServer):
        def verify_request(self, request, client_address) -> bool:
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return is_known(client_address[0])

    return Server


def _addresses(host: str) -> set[str]:
    try:
        return {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return set()


def _commitment(asked, holds: Callable[[str], bool]):
    """(the report's data set, 1 for all or 2 where some are missing)."""
    from pydicom.dataset import Dataset

    report = Dataset()
    report.TransactionUID = asked.TransactionUID
    here, missing = [], []
    for item in asked.ReferencedSOPSequence:
        entry = Dataset()
        entry.ReferencedSOPClassUID = item.ReferencedSOPClassUID
        entry.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
        if holds(str(item.ReferencedSOPInstanceUID)):
            here.append(entry)
        else:
            entry.FailureReason = NO_SUCH_INSTANCE
            missing.append(entry)
    if here:
        report.ReferencedSOPSequence = here
    if missing:
        report.FailedSOPSequence = missing
    return report, 2 if missing else 1


def _tell(association, report, kind: int) -> bool:
    from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

    try:
        answer, _ = association.send_n_event_report(
            report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except (RuntimeError, ValueError):
        return False
    return bool(answer)


def _call_back(own_ae: str, peer: Peer):
    from pynetdicom import AE, build_role
    from pynetdicom.sop_class import StorageCommitmentPushModel

    ae = AE(own_ae)
    ae.add_requested_context(StorageCommitmentPushModel)
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    return ae.associate(peer.host, peer.port, ae_title=peer.ae, ext_neg=[role])
