"""Checkpoints: the only place that imports orbax.

A checkpoint holds the whole train state, a record from which its model and window are rebuilt,
and a digest of every array. What counts as durable is decided by reading it back, never by what
the manager believes.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.serialization import from_state_dict, to_state_dict
from flax.traverse_util import flatten_dict, unflatten_dict

from ldct_jax.errors import CheckpointError
from ldct_jax.record import difference, from_record, short_name
from ldct_jax.shipped import SHIPPED
from ldct_jax.system.files import json_sha256
from ldct_jax.train import released
from ldct_jax.train.digests import combined, digests
from ldct_jax.train.state import TrainState
from ldct_jax.user_script import changed_code, warned

FORMAT = 1
_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one kind (``last`` or ``best``) in a run folder.

    Saving is asynchronous: the state is copied to the host and written while training continues.
    With several processes the first writes, and training waits for it.
    :meth:`wait` returns when everything is on the disk and raises what went wrong.
    """

    def __init__(self, folder: Path, record: dict, *, keep: int = 2):
        import orbax.checkpoint as ocp

        self.folder, self.record = Path(folder), record
        self.restored: str | None = None
        """A description, with its digest, of the checkpoint that :meth:`restore_latest` took."""
        self._ocp = ocp
        self._saved: int | None = None
        # With several processes the first writes alone (it holds the whole state), and not in the
        # background: the threads of two managers would use barriers of the same name.
        self._writes = jax.process_index() == 0
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=False,
            enable_async_checkpointing=jax.process_count() == 1,
            # What a crash left half written: the study's lock keeps other commands out.
            cleanup_tmp_directories=self._writes,
            multiprocessing_options=_alone(),
        )

        def manager():
            self.folder.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(self.folder.absolute(), options=options)

        self._manager = self._guard(manager)

    def save(self, state: TrainState, extra: dict | None = None) -> None:
        """Begin to save ``state`` under its step; ``extra`` is JSON that is returned with it."""
        step = int(state.step)
        if not self._writes or step in self._manager.all_steps():
            return
        # Copies: the caller donates the state's buffers to the next call while this one writes.
        tree = {n: np.array(jax.device_get(v)) for n, v in _flatten(state).items()}
        meta = {
            "format": FORMAT,
            "record": self.record,
            "extra": extra or {},
            "digests": digests(tree),
        }
        # A copy: it is written in the background while the caller changes its own.
        meta = json.loads(json.dumps(meta))
        meta["digest"] = json_sha256(meta)
        self._guard(
            lambda: self._manager.save(
                step,
                args=self._ocp.args.Composite(
                    state=self._ocp.args.StandardSave(tree),
                    meta=self._ocp.args.JsonSave(meta),
                ),
            )
        )
        self._saved = step

    def wait(self) -> None:
        """Block until all saves are durable; raises CheckpointError where one failed."""

        def finish():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

        self._guard(finish)

    def close(self) -> None:
        """Wait, and read the last checkpoint that was saved back from the disk.

        Raises CheckpointError where it isn't there as it was saved, whatever the manager says.
        """
        try:
            self.wait()
            if self._saved is not None:
                read(self.folder / str(self._saved))
        except DamagedCheckpoint as error:
            if _is_full(self.folder):
                raise CheckpointError(NO_SPACE) from error
            raise CheckpointError(
                f"the checkpoint of step {self._saved} is not on the disk as it was saved: was "
                f"{self.folder.parent} changed or removed? Run the same command again to resume "
                "from the last whole one"
            ) from error
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps that claim to be there, oldest first."""
        return sorted(self._manager.all_steps())

    def restore_latest(self, like: TrainState) -> tuple[TrainState, dict] | None:
        """The newest checkpoint that reads back whole, and its ``extra``; None where there is none.

        A damaged one is skipped with a warning. One of another model, window or version
        raises CheckpointError, which names what differs.
        """
        damaged = []
        for step in reversed(self.steps()):
            try:
                _compare(self.record, read_meta(self.folder / str(step))["record"], self.folder)
                tree, meta = read(self.folder / str(step), like=_flatten(like))
            except DamagedCheckpoint as error:
                _log.warning("checkpoint %s is damaged, taking the one before: %s", step, error)
                damaged.append(step)
                continue
            for bad in damaged if self._writes else ():
                self._manager.delete(bad)
            self.restored = f"step {step} (sha256 {combined(meta['digests'])[:16]})"
            return _unflatten(tree, like), meta["extra"]
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self.folder.name} reads back whole; delete the run folder to "
                "start again"
            )
        return None

    def _guard(self, action):
        try:
            return action()
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint can't be written: {error.strerror or error}; free some space or "
                "choose another folder, then run the same command again"
            ) from error
        except ValueError as error:  # tensorstore reports a full disk this way
            if "No space left" not in str(error):
                raise
            raise CheckpointError(NO_SPACE) from error


NO_SPACE = (
    "the checkpoint can't be written: no space left on the device; free some, then run the same "
    "command again"
)


def _is_full(folder: Path) -> bool:
    """Whether less than 1 MiB is free: a writer may fail there without an error."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free < 1 << 20


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose files are missing or whose values are not the ones that were saved."""


def _alone():
    """Options of what waits for no other process."""
    import orbax.checkpoint as ocp

    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})


def _reader(handler):
    """A reader that waits for no other process: any one of them may read at any time."""
    import orbax.checkpoint as ocp

    return ocp.Checkpointer(handler, multiprocessing_options=_alone())


def read_meta(folder: Path) -> dict:
    """The record, extra and digests of one checkpoint folder."""
    import orbax.checkpoint as ocp

    # Whatever a broken file makes the readers raise, it means the same to us.
    try:
        with _reader(ocp.JsonCheckpointHandler()) as reader:
            meta = reader.restore((folder / "meta").absolute())
        own = meta.pop("digest")
    except Exception as error:
        raise DamagedCheckpoint(
            f"{folder.name}: its record can't be read ({_brief(error)})"
        ) from error
    if own != json_sha256(meta):
        raise DamagedCheckpoint(f"{folder.name}: its record is not what was saved")
    if meta["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint format {meta['format']} is not the one of this version ({FORMAT})"
        )
    return meta


def read(folder: Path, like: Any | None = None) -> tuple[dict, dict]:
    """(arrays by name, meta) of one checkpoint folder, every value compared with its digest.

    ``like``, arrays by name, gives the devices to put them on; without it they come as numpy.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder)
    meta = read_meta(folder)
    names = meta["digests"]
    if like is not None and (differing := sorted(set(like) ^ set(names))):
        raise CheckpointError(
            f"{folder.parent.name} belongs to another model or optimiser: {differing[0]} is only "
            "on one side"
        )
    try:
        with _reader(ocp.PyTreeCheckpointHandler()) as reader:
            arrays = reader.restore(
                (folder / "state").absolute(),
                restore_args={n: ocp.RestoreArgs(restore_type=np.ndarray) for n in names},
            )
    except Exception as error:
        raise DamagedCheckpoint(f"{folder.name}: {_brief(error)}") from error
    for name, digest in names.items():
        if name not in arrays or digests({name: arrays[name]})[name] != digest:
            raise DamagedCheckpoint(f"{folder.name}: {name} is not what was saved")
    if like is not None:
        arrays = {n: _place(n, arrays[n], like[n]) for n in names}
    return arrays, meta


def _brief(error: Exception) -> str:
    """The beginning of a message that may be pages long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:120]} …"


def _place(name: str, array: np.ndarray, like: jax.Array) -> jax.Array:
    if array.shape != like.shape or array.dtype != like.dtype:
        raise CheckpointError(
            f"{name} is {array.dtype}{list(array.shape)} in the checkpoint and "
            f"{like.dtype}{list(like.shape)} here: it belongs to another model or optimiser"
        )
    if like.sharding.is_fully_addressable:
        # A copy on the device: the state is donated, and numpy memory must not be.
        return jax.device_put(array, like.sharding, may_alias=False)
    return jax.make_array_from_callback(array.shape, like.sharding, lambda i: array[i])


def _flatten(state: TrainState) -> dict:
    """Arrays by names such as ``params/clone/conv1/kernel``; empty parts leave no trace."""
    arrays = flatten_dict(to_state_dict(state), sep="/")
    return {name: value for name, value in arrays.items() if value is not None}


def _unflatten(arrays: dict, like: TrainState) -> TrainState:
    empty = flatten_dict(to_state_dict(like), sep="/", keep_empty_nodes=True)
    return from_state_dict(like, unflatten_dict({**empty, **arrays}, sep="/"))


def _compare(wanted: dict, found: dict, folder: Path) -> None:
    if where := difference({**found, "code": None}, {**wanted, "code": None}):
        raise CheckpointError(
            f"{folder.parent.parent.name} holds a checkpoint of another training: "
            f"{where}; choose another folder (--out, or OUT= of make), or the same settings"
        )


def find(path: Path | str) -> Path:
    """The checkpoint folder that ``path`` means: itself, or the one of a run that its table scored.

    Of a run folder that is the last one, or the best where the experiment says ``select="best"``.
    """
    path = Path(path)
    if (path / "meta").is_dir() and (path / "state").is_dir():
        return path
    for kinds in (("checkpoints/last", "checkpoints/best"), ("last", "best"), (".", ".")):
        last, best = (_newest(path / kind) for kind in kinds)
        if last is not None and best is not None:
            chosen = read_meta(last)["record"].get("experiment", {}).get("select", "last")
            return best if chosen == "best" else last
        if last is not None or best is not None:
            return last or best
    here = sorted(p.parent.parent for p in path.glob("*/checkpoints/last"))
    rows = f"; here: {', '.join(map(str, here))}" if here else ""
    raise CheckpointError(
        f"{path} holds no checkpoint: give a run folder (runs/EXP/VARIANT) or a checkpoint in it"
        + rows
    )


def _newest(folder: Path) -> Path | None:
    """The checkpoint of the latest step in ``folder``."""
    steps = [p for p in folder.glob("*") if p.name.isdigit() and (p / "meta").is_dir()]
    return max(steps, key=lambda p: int(p.name), default=None)


def last_good(folder: Path) -> str | None:
    """The newest good checkpoint of a run folder that reads back whole, as ``checkpoints/best/16``.

    Good as :func:`ldct_jax.train.health.is_good` says of an evaluation of that very state; None
    where there is none.
    """
    found = [p for p in (folder / "checkpoints").glob("*/*") if p.name.isdigit()]
    for path in sorted(found, key=lambda p: int(p.name), reverse=True):
        try:
            if read(path)[1]["extra"].get("good"):
                return f"checkpoints/{path.parent.name}/{path.name}"
        except CheckpointError:
            continue
    return None


def load_arrays(path: Path | str) -> tuple[dict, dict]:
    """(state as nested dicts of numpy arrays, meta) of the checkpoint that ``path`` means."""
    if Path(path).suffix == released.SUFFIX and Path(path).is_file():
        tree, meta = released.read(Path(path))
    else:
        found = find(path)
        arrays, meta = read(found)
        meta["step"] = int(found.name) if found.name.isdigit() else None
        tree = unflatten_dict(arrays, sep="/")
    experiment = meta["record"].get("experiment", {})
    record = {
        **{k: experiment[k] for k in ("model", "window") if k in experiment},
        **meta["record"],
    }
    return tree, {**meta, "record": record, "digest": combined(meta["digests"])}


def load_model(path: Path | str, *, tell: Callable[[str], None] = warned):
    """(model, variables, window, meta) of a checkpoint, for inference; EMA variables if it has.

    ``meta["name"]`` is for headers and tables: the record's, that of a shipped model, or the
    network's class; folder names stay out of them. ``tell`` gets a sentence where the user's
    script has changed since the training.
    """
    tree, meta = load_arrays(path)
    if changed := changed_code(meta["record"].get("code")):
        tell(changed)
    shipped = {file: name for name, file in SHIPPED.items()}.get(Path(path).resolve())
    own = short_name(meta["record"]["model"]["type"])
    meta = {**meta, "name": meta["record"].get("name") or shipped or own}
    model = from_record(meta["record"]["model"])
    window = from_record(meta["record"]["window"])
    variables = {"params": tree.get("ema") or tree["params"]}
    if "batch_stats" in tree:
        variables["batch_stats"] = tree.get("ema_stats") or tree["batch_stats"]
    return model, variables, window, meta
