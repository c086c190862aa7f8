"""The node under load, under kill -9, beside malformed traffic, and with Orthanc: minutes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ldct_jax.dicom.write import instance_uid
from tests.conftest import require
from tests.processes import ROOT, free_port
from tests.serve.nodes import eventually, program, send, small_series

pytestmark = pytest.mark.long


def tool(name: str) -> str:
    """The program ``name`` outside our own environment, where pynetdicom has some of that name."""
    own = Path(sys.executable).parent
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != own)
    found = shutil.which(name, path=f"{path}{os.pathsep}/usr/sbin")
    require(found is not None, f"{name} is not installed")
    return found


@contextlib.contextmanager
def storescp(folder: Path, port: int):
    """dcmtk's receiver: one file a SOP instance UID."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [tool("storescp"), "--fork", "-aet", "PACS", "-od", str(folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def storescu(port: int, folder: Path) -> int:
    """dcmtk's sender, one association; its exit code."""
    command = [tool("storescu"), "-aec", "LDCT", "--scan-directories", "+r", "localhost", str(port)]
    return subprocess.run([*command, str(folder)], capture_output=True, timeout=600).returncode


def serve_arguments(spool: Path, pacs: int, port: int) -> list[str]:
    return [
        *("serve", "--spool", str(spool), "--send", f"PACS@localhost:{pacs}"),
        *("--port", str(port), "--model", "gaussian", "--quiet", "1", "--keep-free", "0"),
    ]


def is_listening(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def derived_from(folder: Path) -> list[str]:
    """Of each delivered file the UID of the source it names."""
    from pydicom import dcmread

    images = [dcmread(f, stop_before_pixels=True) for f in folder.iterdir()]
    return sorted(i.SourceImageSequence[0].ReferencedSOPInstanceUID for i in images)


def peak_mb(pid: int) -> float:
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def everything_of(folder: Path) -> list[str]:
    return sorted(instance_uid(f) for f in folder.rglob("*.dcm"))


def is_empty(spool: Path) -> bool:
    return not any(spool.rglob("*.dcm"))


def test_ten_thousand_instances_in_fifty_series_over_four_associations(tmp_path, record_property):
    tool("storescp")
    for i in range(50):
        small_series(tmp_path / "in" / str(i % 4) / str(i), n=200, seed=i, size=16)
    port, pacs = free_port(), free_port()
    spool, got = tmp_path / "spool", tmp_path / "got"
    with (
        storescp(got, pacs),
        program(*serve_arguments(spool, pacs, port), log=tmp_path / "log") as node,
    ):
        eventually(lambda: is_listening(port))
        at_rest, began = peak_mb(node.pid), time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            folders = [tmp_path / "in" / str(k) for k in range(4)]
            assert list(pool.map(lambda f: storescu(port, f), folders)) == [0] * 4
        received = time.monotonic() - began
        eventually(lambda: len(list(got.iterdir())) == 10_000 and is_empty(spool), 900)
        whole, peak = time.monotonic() - began, peak_mb(node.pid)
    figures = {
        "received a second": round(10_000 / received),
        "delivered a second": round(10_000 / whole),
        "MB at rest": round(at_rest),
        "MB at most": round(peak),
    }
    print(json.dumps(figures))
    record_property("figures", figures)
    assert derived_from(got) == everything_of(tmp_path / "in")
    assert peak < at_rest + 150


def test_twenty_kills_and_a_peer_that_is_away_at_first(tmp_path):
    tool("storescp")
    for i in range(12):
        small_series(tmp_path / "in" / str(i), n=60, seed=i, size=16)
    port, pacs = free_port(), free_port()
    spool, got = tmp_path / "spool", tmp_path / "got"
    ending = False

    def send_until_it_is_taken(folder: Path) -> None:
        while not ending and storescu(port, folder):
            time.sleep(0.2)

    rng = random.Random(0)
    with ThreadPoolExecutor(3) as pool, contextlib.ExitStack() as stack:
        sending = [pool.submit(send_until_it_is_taken, f) for f in (tmp_path / "in").iterdir()]
        try:
            for kill in range(20):
                if kill == 8:
                    stack.enter_context(storescp(got, pacs))
                with program(*serve_arguments(spool, pacs, port), log=tmp_path / "log"):
                    eventually(lambda: is_listening(port))
                    time.sleep(rng.uniform(0.2, 5))  # then kill -9
            with program(*serve_arguments(spool, pacs, port), log=tmp_path / "log"):
                for one in sending:
                    one.result(timeout=900)
                eventually(lambda: len(list(got.glob("*"))) >= 720 and is_empty(spool), 900)
                time.sleep(3)  # would there be more?
        finally:
            ending = True
    assert derived_from(got) == everything_of(tmp_path / "in")
    assert "doesn't answer" in (tmp_path / "log").read_text()


def test_malformed_traffic_stops_nobody(tmp_path):
    """Random bytes, damaged association requests, data sets cut or flipped: 300 of them."""
    from pynetdicom import AE
    from pynetdicom.sop_class import CTImageStorage, PatientRootQueryRetrieveInformationModelFind

    (file,) = small_series(tmp_path / "one", n=1)
    files = small_series(tmp_path / "in", n=2, seed=1)
    out, port = tmp_path / "out", free_port()
    arguments = ["serve", "--spool", str(tmp_path / "spool"), "--out", str(out), "--quiet", "1"]
    arguments += ["--port", str(port), "--model", "gaussian", "--keep-free", "0"]
    rng = random.Random(1)
    request = _association_request()
    with program(*arguments, log=tmp_path / "log") as node:
        eventually(lambda: is_listening(port))
        for k in range(300):
            data = bytearray(request)
            if k % 3 == 0:
                data = bytearray(rng.randbytes(rng.randrange(1, 400)))
                if k % 2:
                    data[:6] = bytes([rng.randrange(1, 8), 0, 0, 0, 0, rng.randrange(256)])
            elif k % 3 == 1:
                for _ in range(rng.randrange(1, 6)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
            else:
                data = data[: rng.randrange(len(data))]
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=1) as s,
            ):
                s.sendall(data)
        ae = AE("SCANNER")
        ae.add_requested_context(PatientRootQueryRetrieveInformationModelFind)
        assert not ae.associate("127.0.0.1", port, ae_title="LDCT").is_established
        ae = AE("SCANNER")
        ae.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1.99")  # deflated
        assert not ae.associate("127.0.0.1", port, ae_title="LDCT").accepted_contexts
        whole = file.read_bytes()
        for _ in range(20):
            damaged = bytearray(whole[: rng.randrange(400, len(whole))])
            damaged[rng.randrange(340, len(damaged))] ^= 0xFF
            (tmp_path / "damaged.dcm").write_bytes(damaged)
            with contextlib.suppress(Exception):
                send([tmp_path / "damaged.dcm"], port)
        assert send(files, port) == [0, 0]
        assert node.poll() is None
        eventually(lambda: len(list(out.rglob("*.dcm"))) >= 2)


def _association_request() -> bytes:
    """An A-ASSOCIATE-RQ as dcmtk writes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        caller = subprocess.Popen(
            [tool("echoscu"), "127.0.0.1", str(server.getsockname()[1])], stderr=subprocess.DEVNULL
        )
        connection, _ = server.accept()
        with connection:
            request = connection.recv(65536)
        caller.wait(60)
    return request


def test_a_round_trip_through_orthanc(tmp_path):
    """Orthanc sends a series to the node and gets the derived one back into the same study."""
    tool("Orthanc")
    files = small_series(tmp_path / "in", n=5, size=64)
    port, dicom, http = free_port(), free_port(), free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "DicomAet": "PACS",
        "DicomPort": dicom,
        "HttpPort": http,
        "AuthenticationEnabled": False,
        "Plugins": [],
        "StableAge": 1,
        "LuaScripts": [str(ROOT / "deploy" / "orthanc.lua")],
        "DicomModalities": {"ldct": ["LDCT", "127.0.0.1", port]},
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))

    def ask(path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{http}{path}", timeout=60) as answer:
            return json.loads(answer.read())

    with (tmp_path / "orthanc.log").open("wb") as log:
        orthanc = subprocess.Popen([tool("Orthanc"), str(tmp_path / "orthanc.json")], stderr=log)
    try:
        with program(*serve_arguments(tmp_path / "spool", dicom, port), log=tmp_path / "log"):
            eventually(lambda: is_listening(port) and is_listening(http) and is_listening(dicom))
            sent = subprocess.run(
                [tool("storescu"), "-aec", "PACS", "localhost", str(dicom), *map(str, files)]
            )
            assert sent.returncode == 0
            (series,) = ask("/series")
            eventually(lambda: len(ask("/series")) == 2 and is_empty(tmp_path / "spool"))
            time.sleep(4)  # the derived series becomes stable, too, and isn't sent again
            assert len(ask("/studies")) == 1 and len(ask("/series")) == 2
            (derived,) = set(ask("/series")) - {series}
            assert len(ask(f"/series/{derived}")["Instances"]) == 5
            tags = ask(f"/series/{derived}")["MainDicomTags"]
            assert "ldct_jax gaussian" in tags["SeriesDescription"]
    finally:
        orthanc.kill()
        orthanc.wait()
