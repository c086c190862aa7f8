"""From a received instance to a delivered result, and what a kill between any two steps leaves."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import denoise_path
from ldct_jax.dicom.write import instance_uid
from ldct_jax.serve.spool import Spool
from tests.serve.nodes import Receiver, small_series, worker


def store_all(spool: Spool, files: list[Path], sender: int = 1) -> list[bool]:
    new = [spool.store(instance_uid(f), f.read_bytes(), sender) for f in files]
    spool.gone(sender)
    return new


def test_a_series_comes_back_as_ldct_denoise_makes_it(tmp_path):
    from pydicom import dcmread

    files = small_series(tmp_path / "in")
    spool, pacs = Spool(tmp_path / "spool"), Receiver()
    assert store_all(spool, files) == [True] * 3
    node = worker(spool, pacs)
    assert not spool.close_complete(60.0) and not node.denoise_next()
    ((_batch, count, expected),) = spool.close_complete(0.0)
    assert (count, expected) == (3, 0)
    assert node.denoise_next() and not node.denoise_next()
    assert node.deliver_next() and not node.deliver_next()
    denoise_path(tmp_path / "in", tmp_path / "out", find("gaussian"))
    assert len(pacs.got) == 3
    changing = ("InstanceCreation", "Content", "Contributing")
    for file in sorted((tmp_path / "out").glob("*.dcm")):
        ours = dcmread(file)
        (data,) = pacs.got[ours.SOPInstanceUID]
        (tmp_path / "got.dcm").write_bytes(data)
        theirs = dcmread(tmp_path / "got.dcm")
        assert ours.PixelData == theirs.PixelData
        names = [e.keyword for e in ours if not e.keyword.startswith(changing)]
        assert [ours[n] for n in names] == [theirs[n] for n in names]
    left = [p for p in (tmp_path / "spool").rglob("*") if p.is_file()]
    assert sorted(p.parent.name for p in left) == ["seen", "spool"]  # no patient data
    assert store_all(spool, files) == [False] * 3  # still known
    assert store_all(Spool(tmp_path / "spool"), files) == [False] * 3


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs, but for what the test calls itself."""


class Steps:
    """Counts every call that changes the disk and dies before the ``n``-th."""

    NAMES = ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir", "utime")

    def __init__(self, monkeypatch, die_at: int):
        self.n, self.die_at, self.dead = 0, die_at, False
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real):
        def call(*arguments, **options):
            if self.dead:  # clean-up code that a killed process would not run
                raise Killed
            self.n += 1
            if self.n == self.die_at:
                self.dead = True
                raise Killed
            return real(*arguments, **options)

        return call


def sender_and_node(root: Path, files: list[Path], pacs: Receiver) -> None:
    """One life: send what the sender has no answer for, and do everything that can be done."""
    spool = Spool(root)
    store_all(spool, files)
    spool.close_complete(0.0)
    node = worker(spool, pacs)
    while node.denoise_next() or node.deliver_next():
        pass


def killed_at(die_at: int, root: Path, files: list[Path], wanted: list[str]) -> bool:
    """Kill before that change of the disk, start again and look; False where none was left."""
    pacs = Receiver()
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch, die_at)
        with contextlib.suppress(Killed):
            sender_and_node(root, files, pacs)
    if not steps.dead:
        return False
    sender_and_node(root, files, pacs)  # the next life
    assert sorted(pacs.got) == wanted, die_at
    # Sent twice only where the kill came between the peer's answer and our note of it, and then
    # it is the very same object.
    assert all(len(set(copies)) == 1 for copies in pacs.got.values()), die_at
    assert not list(root.rglob("*.dcm")), die_at
    return True


@pytest.mark.promise("serve")
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_killed_before_any_change_of_the_disk_it_loses_and_doubles_nothing(tmp_path, every):
    files = small_series(tmp_path / "in", n=2)
    pacs = Receiver()
    sender_and_node(tmp_path / "undisturbed", files, pacs)
    wanted = sorted(pacs.got)
    assert len(wanted) == 2
    die_at = 1
    while killed_at(die_at, tmp_path / f"spool{die_at}", files, wanted):
        die_at += every
    assert die_at > 50
