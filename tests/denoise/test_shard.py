"""``--shard K/N``: several processes on one folder give what one gives."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ldct_jax.cli import run as cli
from ldct_jax.denoise.models import find
from ldct_jax.denoise.run import RECORD, Options, denoise_path
from ldct_jax.errors import LdctError
from ldct_jax.system.files import locked
from ldct_jax.system.shard import Shard
from tests.denoise.series import contents
from tests.dicom_fixtures import anatomy, noisy, write_series


def archive(root):
    """Five series under three numbers, so that the results' numbers depend on each other."""
    for seed in range(5):
        hu = noisy(anatomy(seed, n=2, size=32), 20, seed)
        write_series(root / f"{seed}", hu, SeriesNumber=seed % 3)
    return root


def without_times(folder) -> dict:
    """Every file as its elements; the times of creation differ from run to run."""
    from pydicom import dcmread

    found = {}
    for name in contents(folder):
        image = dcmread(folder / name)
        for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContentDate"):
            delattr(image, keyword)
        del image.ContentTime, image.ContributingEquipmentSequence
        found[name] = image.to_json(), image.PixelData
    return found


def rows(folder) -> list[dict]:
    found = json.loads((folder / RECORD).read_text())["results"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.mark.promise("shard")
def test_four_processes_give_what_one_gives(tmp_path):
    source = archive(tmp_path / "in")
    one, four = tmp_path / "one", tmp_path / "four"
    denoise_path(source, one, find("gaussian"))
    command = [sys.executable, "-m", "ldct_jax", "denoise", str(source), str(four)]
    together = [
        subprocess.Popen([*command, "--model", "gaussian", "--shard", f"{k}/4"])
        for k in (1, 2, 3, 4)
    ]
    assert [p.wait(120) for p in together] == [0] * 4
    assert without_times(four) == without_times(one)
    assert len(without_times(one)) == 10 and rows(four) == rows(one)


def test_a_shard_does_its_own_and_is_continued(tmp_path):
    source, out = archive(tmp_path / "in"), tmp_path / "out"
    second = Options(shard=Shard(2, 3))
    denoise_path(source, out, find("gaussian"), second)
    mine = contents(out)
    assert sorted({name.split("/")[0] for name in mine}) == ["1", "4"]
    lost = out / "4" / "001.dcm"
    lost.unlink()
    summary = denoise_path(source, out, find("gaussian"), second)
    assert sum(r.written for r in summary.results) == 1 and lost.exists()


def test_who_may_share_a_folder(tmp_path):
    source, out = archive(tmp_path / "in"), tmp_path / "out"
    with locked(out), pytest.raises(LdctError, match="another command"):
        denoise_path(source, out, find("identity"), Options(shard=Shard(1, 2)))
    with locked(out, shared=True):
        with pytest.raises(LdctError, match="another command"):
            denoise_path(source, out, find("identity"))
        denoise_path(source, out, find("identity"), Options(shard=Shard(1, 2)))
    with locked(out / ".shards" / "1-of-2"), pytest.raises(LdctError, match="another command"):
        denoise_path(source, out, find("identity"), Options(shard=Shard(1, 2)))


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "1/0", "-1/2"])
def test_wrong_shards_are_wrong_use(tmp_path, capsys, text):
    assert cli(["denoise", "in", "out", f"--shard={text}"]) == 2
    assert "give K/N" in capsys.readouterr().err
