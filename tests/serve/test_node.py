"""The node over the network: receive, denoise, send back; and whom and what it refuses."""

from __future__ import annotations

import pytest

from ldct_jax.dicom.write import instance_uid
from ldct_jax.serve.peer import Peer, ToPeer
from tests.serve.nodes import eventually, node_on, pacs_on, send, small_series


@pytest.mark.promise("serve")
def test_what_is_stored_comes_back_derived(tmp_path):
    from pydicom import dcmread

    files = small_series(tmp_path / "in")
    with pacs_on() as (port, got):
        deliver = ToPeer(Peer("PACS", "127.0.0.1", port), "LDCT")
        with node_on(tmp_path / "spool", deliver) as node:
            assert send(files, node.port) == [0, 0, 0]
            eventually(lambda: len(got) == 3)
            eventually(lambda: not list((tmp_path / "spool").rglob("*.dcm")))
            assert send(files, node.port) == [0, 0, 0]  # duplicates
    sources = {dcmread(f).SOPInstanceUID: dcmread(f) for f in files}
    for copies in got.values():
        (image,) = copies
        source = sources[image.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert image.StudyInstanceUID == source.StudyInstanceUID
        assert image.SeriesInstanceUID != source.SeriesInstanceUID
        assert len(image.PixelData) == len(source.PixelData)
        assert image.PixelData != source.PixelData


@pytest.mark.parametrize(
    ("callers", "calling", "called", "is_let_in"),
    [
        ((), "ANYBODY", "LDCT", True),
        ((), "ANYBODY", "OTHER", False),
        ((Peer("CT1", "127.0.0.1"),), "CT1", "LDCT", True),
        ((Peer("CT1", "127.0.0.1"),), "CT2", "LDCT", False),
        ((Peer("CT1", "192.0.2.1"),), "CT1", "LDCT", False),  # the right name from elsewhere
    ],
)
def test_callers(tmp_path, callers, calling, called, is_let_in):
    files = small_series(tmp_path / "in", n=1)
    with node_on(tmp_path / "spool", lambda *_: None, callers=callers) as node:
        answer = send(files, node.port, called=called, calling=calling)
    assert answer == ([0] if is_let_in else None)


def test_a_nearly_full_disk_refuses_with_a700_and_keeps_what_it_has(tmp_path):
    files = small_series(tmp_path / "in")
    room = [1_000_000]
    spool = tmp_path / "spool"
    with node_on(spool, lambda *_: None, quiet_s=60, free=lambda _: room[0]) as node:
        assert send(files[:1], node.port) == [0]
        room[0] = 10_100  # more than must stay free, but not with this file
        assert send(files[1:], node.port) == [0xA700, 0xA700]
        assert len(list(spool.rglob("*.dcm"))) == 1 and not list((spool / "part").iterdir())
        room[0] = 1_000_000
        assert send(files, node.port) == [0, 0, 0]


def test_storage_commitment_tells_what_is_on_the_disk(tmp_path):
    from pydicom.dataset import Dataset
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import (
        CTImageStorage,
        StorageCommitmentPushModel,
        StorageCommitmentPushModelInstance,
    )

    files = small_series(tmp_path / "in")
    reports = []

    def report(event):
        reports.append((event.event_type, event.event_information))
        return 0, None

    request = Dataset()
    request.TransactionUID = "1.2.3"
    request.ReferencedSOPSequence = []
    for file in files:
        item = Dataset()
        item.ReferencedSOPClassUID = CTImageStorage
        item.ReferencedSOPInstanceUID = instance_uid(file)
        request.ReferencedSOPSequence.append(item)
    with node_on(tmp_path / "spool", lambda *_: None, quiet_s=60) as node:
        assert send(files[:2], node.port) == [0, 0]
        ae = AE("SCANNER")
        ae.add_requested_context(StorageCommitmentPushModel)
        association = ae.associate(
            "127.0.0.1", node.port, ae_title="LDCT", evt_handlers=[(evt.EVT_N_EVENT_REPORT, report)]
        )
        status, _ = association.send_n_action(
            request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        assert status.Status == 0
        eventually(lambda: reports)
        association.release()
    ((kind, told),) = reports
    assert kind == 2 and told.TransactionUID == "1.2.3"
    held = [i.ReferencedSOPInstanceUID for i in told.ReferencedSOPSequence]
    assert held == [instance_uid(f) for f in files[:2]]
    assert [i.FailureReason for i in told.FailedSOPSequence] == [0x0112]
