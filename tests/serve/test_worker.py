"""What happens to series that can't be done, aren't wanted, or can't be delivered."""

from __future__ import annotations

import json
import os
import time

import pytest

from ldct_jax.cli import run as cli
from ldct_jax.denoise.run import Options
from ldct_jax.errors import UsageError
from ldct_jax.serve.peer import NotDelivered, Peer, ToFolder, ToPeer, parse_peer
from ldct_jax.serve.rules import Rules, read_rules
from ldct_jax.serve.spool import Spool
from tests.dicom.test_enhanced import write_enhanced
from tests.dicom_fixtures import anatomy, damage_pixels, noisy
from tests.serve.nodes import Receiver, eventually, node_on, pacs_on, send, small_series, worker
from tests.serve.test_spool import store_all


def closed(root, files, spool=None) -> Spool:
    """A spool with one complete series."""
    spool = spool or Spool(root)
    store_all(spool, files)
    spool.close_complete(0.0)
    return spool


def originals(files) -> list[bytes]:
    return sorted(f.read_bytes()[-500:] for f in files)


@pytest.mark.parametrize("others", ["pass over", "forward"])
@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"ConvolutionKernel": "B70f"},
    ],
)
def test_series_that_nobody_wants_denoised(tmp_path, others, tags):
    files = small_series(tmp_path / "in", n=2, **tags)
    rules = Rules(({"kernel": ("b3*",)},), others)
    pacs, spool = Receiver(), closed(tmp_path / "spool", files)
    node = worker(spool, pacs, rules=rules)
    assert node.denoise_next()
    assert node.deliver_next() == (others == "forward")
    got = [data[-500:] for copies in pacs.got.values() for data in copies]
    assert sorted(got) == (originals(files) if others == "forward" else [])
    assert not list(spool.root.rglob("*.dcm"))


def test_a_series_with_a_damaged_image_is_set_aside_whole_and_may_come_again(tmp_path):
    files = small_series(tmp_path / "in", n=3)
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[:-100])
    pacs, spool = Receiver(), closed(tmp_path / "spool", files)
    node = worker(spool, pacs)
    assert node.denoise_next() and not node.deliver_next() and not pacs.got
    (why,) = spool.at("failed").glob("*/why.txt")
    assert "1 CT image left out" in why.read_text() and "truncated" in why.read_text()
    files[1].write_bytes(whole)
    closed(spool.root, files, spool)  # not known as copies any more
    assert node.denoise_next() and node.deliver_next() and len(pacs.got) == 3
    node.expire()
    assert spool.at("failed", why.parent.name).exists()
    old = time.time() - 8 * 86400
    os.utime(why.parent, (old, old))
    node.expire()
    assert not why.parent.exists()


@pytest.mark.parametrize("fault", ["a gap that --strict refuses", "no slice can be decoded"])
@pytest.mark.parametrize("others", ["pass over", "forward"])
def test_a_ct_series_that_is_refused_with_no_file_left_out_is_set_aside(tmp_path, fault, others):
    files = small_series(tmp_path / "in", n=5)
    if fault == "no slice can be decoded":
        for file in files:
            damage_pixels(file)
    else:
        del files[3]
    pacs, spool = Receiver(), closed(tmp_path / "spool", files)
    node = worker(spool, pacs, options=Options(strict=True), rules=Rules(others=others))
    assert node.denoise_next() and not node.deliver_next() and not pacs.got
    (why,) = spool.at("failed").glob("*/why.txt")
    assert ("gap" if len(files) == 4 else "can't be decoded") in why.read_text()
    assert originals(why.parent.glob("*.dcm")) == originals(files)


def test_a_folder_gets_the_frames_of_every_multi_frame_instance(tmp_path):
    from pydicom import dcmread

    hu = noisy(anatomy(0, n=8, size=16), 20, 0)
    files = [
        write_enhanced(tmp_path / "in" / f"{part}.dcm", hu[at], z0=3.0 * at.start)
        for part, at in (("low", slice(0, 4)), ("high", slice(4, 8)))
    ]
    spool = closed(tmp_path / "spool", files)
    node = worker(spool, ToFolder(tmp_path / "out"))
    assert node.denoise_next() and node.deliver_next()
    got = [dcmread(f) for f in (tmp_path / "out").rglob("*.dcm")]
    assert sorted(i.ImagePositionPatient[2] for i in got) == [3 * k for k in range(8)]
    assert not list(spool.root.rglob("*.dcm"))


def test_a_series_that_says_how_many_it_has_waits_for_no_quiet_time(tmp_path):
    files = small_series(tmp_path / "in", n=3, NumberOfSeriesRelatedInstances=3)
    spool = Spool(tmp_path / "spool")
    store_all(spool, files[:2])
    assert not spool.close_complete(60.0)
    store_all(spool, files[2:])
    ((_, count, expected),) = spool.close_complete(60.0)
    assert (count, expected) == (3, 3)


def test_a_series_is_not_complete_while_its_association_lasts(tmp_path):
    from ldct_jax.dicom.write import instance_uid

    (file,) = small_series(tmp_path / "in", n=1)
    spool = Spool(tmp_path / "spool")
    spool.store(instance_uid(file), file.read_bytes(), 7)
    assert not spool.close_complete(0.0)
    spool.gone(7)
    assert spool.close_complete(0.0)


def test_a_peer_that_comes_back_gets_everything_once(tmp_path):
    from tests.processes import free_port

    files, port = small_series(tmp_path / "in"), free_port()
    said: list[str] = []
    deliver = ToPeer(Peer("PACS", "127.0.0.1", port), "LDCT")
    with node_on(tmp_path / "spool", deliver, log=said.append, pause_s=0.2) as node:
        assert send(files, node.port) == [0, 0, 0]
        eventually(lambda: sum("doesn't answer" in text for text in said) >= 2)
        state = json.loads((tmp_path / "spool" / "delivery.json").read_text())
        assert state["failures"] >= 2 and "doesn't answer" in state["why"]
        with pacs_on(port) as (_, got):
            eventually(lambda: not list((tmp_path / "spool").rglob("*.dcm")))
    assert sorted(len(copies) for copies in got.values()) == [1, 1, 1]
    assert json.loads((tmp_path / "spool" / "delivery.json").read_text()) == {}
    secrets = ("P1", "2.25.", "SCANNER")  # of the test's headers
    assert not any(s in text for s in secrets for text in said)


def test_what_a_peer_refuses_is_tried_again_and_blocks_nobody(tmp_path):
    spool = closed(tmp_path / "spool", small_series(tmp_path / "a", n=2, seed=0))
    closed(spool.root, small_series(tmp_path / "b", n=2, seed=1), spool)
    refused = []

    def deliver(batch, files, sent):
        if not refused or batch in refused:
            refused.append(batch)
            raise NotDelivered("it refuses 2 of 2", peer_is_away=False)
        for file in files:
            sent(file)

    node = worker(spool, deliver, pause_s=60.0)
    assert node.denoise_next() and node.denoise_next()
    assert node.deliver_next() and node.deliver_next() and not node.deliver_next()
    assert len(refused) == 1 and spool.to_send() == refused[:1]


@pytest.mark.parametrize("status", [0x0000, 0x0111, 0xB000, 0xA700, 0xC123])
def test_the_peers_answers(tmp_path, status):
    files = small_series(tmp_path / "in", n=2)
    sent = []
    with pacs_on(status=status) as (port, _):
        deliver = ToPeer(Peer("PACS", "127.0.0.1", port), "LDCT")
        if status in (0xA700, 0xC123):
            with pytest.raises(NotDelivered) as error:
                deliver("b", files, sent.append)
            assert error.value.peer_is_away == (status == 0xA700) and not sent
        else:
            deliver("b", files, sent.append)
            assert sent == files


def test_status_is_told_from_the_disk(tmp_path, capsys):
    spool = closed(tmp_path / "spool", small_series(tmp_path / "a", n=2, seed=0))
    store_all(spool, small_series(tmp_path / "b", n=3, seed=1))
    assert cli(["serve", "--spool", str(spool.root), "--status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["states"]["arriving"] == {"series": 1, "instances": 3}
    assert told["states"]["waiting for the model"] == {"series": 1, "instances": 2}
    assert not told["running"]
    assert cli(["serve", "--spool", str(spool.root), "--status"]) == 0
    assert "not running" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say where results go"),
        (["--send", "PACS@host"], "is not AE@HOST:PORT"),
        (["--send", "PACS@host:99999"], "is not AE@HOST:PORT"),
        (["--out", "x", "--from", "nobody"], "is not AE@HOST"),
        (["--out", "x", "--model", "nothing"], "there is no model"),
        (["--out", "x", "--rules", "nothing.toml"], "can't be read"),
        (["--status"], "is not the spool of a node"),
        (["--out", "x", "--quiet", "nan"], "nan is not a finite number"),
        (["--out", "x", "--keep-failed", "-1"], "-1.0 is not in the range"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, capsys, arguments, words):
    assert cli(["serve", "--spool", str(tmp_path / "spool"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_peers():
    assert parse_peer("PACS@10.0.0.9:104", needs_port=True) == Peer("PACS", "10.0.0.9", 104)
    assert parse_peer("CT 1@[::1]", needs_port=False) == Peer("CT 1", "::1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("others = 'burn'", "use one of"),
        ("kernels = 1", "unknown kernels"),
        ("[[denoise]]\nkernal = 'B3*'", "unknown kernal"),
        ("[[denoise]]\nkernel = 3", "must be a text"),
        ("denoise = 3", "must be [[denoise]] blocks"),
        ("[[[", "not TOML"),
    ],
)
def test_wrong_rules_are_told(tmp_path, text, words):
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(UsageError) as error:
        read_rules(tmp_path / "rules.toml")
    assert words in str(error.value)


def test_the_example_of_rules_can_be_read():
    from tests.processes import ROOT

    rules = read_rules(ROOT / "deploy" / "rules.toml")
    assert rules.others == "forward" and len(rules.blocks) == 2


def test_texture_and_quality_are_those_of_denoise(tmp_path, monkeypatch, capsys):
    from pydicom import dcmread

    class Once:
        """A node that does what lies in its spool, and ends."""

        port, is_alive = 0, False

        def __init__(self, listening, spool, worker, log):
            self.worker = worker

        def start(self):
            while self.worker.denoise_next() or self.worker.deliver_next():
                pass

    def images(folder) -> list[tuple[str, bytes]]:
        found = [dcmread(f) for f in folder.rglob("*.dcm")]
        return sorted((i.SeriesDescription, i.PixelData) for i in found)

    monkeypatch.setattr("ldct_jax.serve.node.Node", Once)
    files = small_series(tmp_path / "in")
    closed(tmp_path / "spool", files)
    best = ["--model", "gaussian", "--quality", "best"]
    command = ["serve", "--spool", str(tmp_path / "spool"), "--out", str(tmp_path / "out")]
    assert cli([*command, *best, "--texture", "smooth"]) == 2
    assert "gaussian has no texture to choose" in capsys.readouterr().err
    assert cli([*command, *best]) == 1  # a node that ends is an error
    for name, options in (("same", best), ("other", best[:2])):
        assert cli(["denoise", str(tmp_path / "in"), str(tmp_path / name), *options]) == 0
    found = images(tmp_path / "out")
    assert len(found) == 3 and found == images(tmp_path / "same") != images(tmp_path / "other")
