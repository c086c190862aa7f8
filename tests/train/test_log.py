"""The run's log: TensorBoard events hold what the lines hold."""

import json
import struct

import pytest

from ldct_jax.train.log import MetricsLog, read

pytestmark = pytest.mark.core


def events(folder) -> list:
    """The scalars of all event files: (step, tag, value), as TensorBoard's own format has them."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            at += 12 + length + 4
    return found


def test_events_hold_the_numbers_of_every_step_and_evaluation(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2):
        log.step(step, 0, loss=step / 4, grad_norm=2.0)
    log.evaluation(2, 1, {"validation_psnr": 40.5, "by_clone": [1.0, 2.0]})
    log.close()
    assert events(tmp_path / "tensorboard") == [
        (1, "train/epoch", 0.0),
        (1, "train/loss", 0.25),
        (1, "train/grad_norm", 2.0),
        (2, "train/epoch", 0.0),
        (2, "train/loss", 0.5),
        (2, "train/grad_norm", 2.0),
        (2, "evaluation/epoch", 1.0),
        (2, "evaluation/validation_psnr", 40.5),
    ]
    assert read(tmp_path / "metrics.jsonl")[0] == {
        "step": 1,
        "epoch": 0,
        "loss": 0.25,
        "grad_norm": 2.0,
    }


def test_no_file_holds_the_machines_name_even_where_the_run_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "somebodys-machine")
    log = MetricsLog(tmp_path)
    log.step(1, 0, loss=1.0)
    log.flush()
    # What a SIGKILL would leave: nothing is closed or renamed.
    (written,) = (tmp_path / "tensorboard").iterdir()
    assert written.name == "events.out.tfevents.000000"
    assert b"somebodys-machine" not in written.read_bytes()
    log.close()
    MetricsLog(tmp_path, from_step=1).close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_an_interrupted_run_drops_what_will_come_again(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.step(step, 0, loss=float(step))
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4})[:-3])  # cut short by a crash
    log = MetricsLog(tmp_path, from_step=2)
    assert log.losses == [1.0, 2.0]
    log.step(3, 0, loss=30.0)
    log.close()
    assert [row["loss"] for row in read(tmp_path / "metrics.jsonl")] == [1.0, 2.0, 30.0]
