"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldct_jax.errors import LdctError, NumericsError
from ldct_jax.hu import Window
from ldct_jax.optim import Adam
from ldct_jax.progress import Progress
from ldct_jax.train import health, steps
from ldct_jax.train import state as train_state
from ldct_jax.train.checkpoint import Checkpoints, last_good
from ldct_jax.train.clock import Clock
from ldct_jax.train.gan import WassersteinGAN, adversarial
from ldct_jax.train.initial import start_from
from ldct_jax.train.interrupt import Interrupted, StopRequest
from ldct_jax.train.log import MetricsLog
from ldct_jax.train.parallel import DataParallel, synchronised

# A call should be long enough to hide its launch and short enough for progress and signals.
SECONDS_PER_CALL = 3.0
MOST_STEPS_PER_CALL = 256
SAVE_EVERY_S = 120.0


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that decides what a training ends with.

    ``record`` is the JSON description that goes into every checkpoint; its ``model`` and
    ``window`` must describe ``model`` and ``window``.
    """

    model: Any
    loss: Callable
    optimizer: Adam
    window: Window
    epochs: int
    seed: int
    patch_size: int
    augment: str
    record: dict
    ema_decay: float | None = None
    gan: WassersteinGAN | None = None
    init_from: Path | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished training leaves besides its files."""

    variables: dict
    steps: int
    skipped: int
    best: float | None
    seconds: dict[str, float]


def train(
    job: Job,
    feeder,
    folder: Path,
    *,
    parallel: DataParallel,
    monitor: Callable[[dict], dict] | None = None,
    monitor_every: int = 1,
    stop: StopRequest | None = None,
    name: str = "train",
    profile: bool = False,
) -> Outcome:
    """Train ``job`` on what ``feeder`` gives, or go on where the run in ``folder`` stopped.

    ``monitor`` gets the variables on the host's side after every ``monitor_every`` epochs and
    returns numbers to log; its ``validation_psnr`` decides which checkpoint is the best one, and
    with ``undenoised_psnr`` whether a checkpoint counts as good (:func:`health.is_good`).
    Raises NumericsError after five batches in a row with non-finite gradients, CheckpointError
    where saving fails or the folder holds another model, Interrupted after a signal (saved),
    LdctError where another process of the same training was lost.
    """
    stop = stop or StopRequest()
    total = job.epochs * feeder.steps_per_epoch

    # ---- 1. Model and optimiser, whole on every device -----------------------------------------
    optimizer = job.optimizer.build(total, feeder.steps_per_epoch)
    critic = None
    if job.gan is not None:
        critic_steps = (total * job.gan.n_critic, feeder.steps_per_epoch * job.gan.n_critic)
        critic = (job.gan.critic, job.gan.optimizer.build(*critic_steps))
    state = train_state.create(
        job.model,
        optimizer,
        job.patch_size,
        job.seed,
        ema=job.ema_decay is not None,
        critic=critic,
    )
    if job.init_from is not None:
        state, digest = start_from(state, job.model, job.init_from)
        if parallel.is_first:
            origin = f"parameters of {job.init_from.name} (sha256 {digest[:16]})"
            print(f"{name}: {origin}", file=sys.stderr, flush=True)
    state = parallel.replicate(state)

    # ---- 2. Resume: the checkpoint knows the step, and the step knows the place in the data -----
    last = Checkpoints(folder / "checkpoints" / "last", job.record)
    best = Checkpoints(folder / "checkpoints" / "best", job.record, keep=1)
    extra: dict = {}
    if (restored := last.restore_latest(state)) is not None:
        state, extra = restored
        if parallel.is_first:
            print(f"{name}: goes on from {last.restored}", file=sys.stderr, flush=True)
    done, best_value = int(state.step), extra.get("best")
    evaluated_good = owes_evaluation = None
    clock = Clock(extra.get("seconds"))

    # ---- 3. Compile ahead of time: one program for calls of every length -----------------------
    model = synchronised(job.model)
    if job.gan is None:
        step_fn = steps.supervised(
            model,
            job.loss,
            optimizer,
            ema_decay=job.ema_decay,
            frozen_statistics=job.optimizer.trainable == "last_conv",
        )
    else:
        step_fn = adversarial(
            model, job.loss, optimizer, job.gan, critic[1], ema_decay=job.ema_decay
        )
    program = parallel.compile_steps(step_fn, feeder, job.window, job.augment, MOST_STEPS_PER_CALL)

    def arguments(first: int, count: int):
        epoch, offset = divmod(first, feeder.steps_per_epoch)
        inputs = feeder.inputs(epoch, offset, count, parallel.place)
        return inputs, np.int32(epoch), np.int32(offset), np.int32(count)

    with clock.section("compile"):
        run = program.lower(state, *arguments(min(done, total - 1), 1)).compile()

    # ---- 4. Steps: dispatch a call, then read the metrics of the one before --------------------
    pace = _Pace()
    pending = None
    saved_at, saved_step = time.monotonic(), done

    def asked() -> tuple[int, int]:
        """(the signal that asks to stop or 0, whether a checkpoint is due)."""
        return stop.number or 0, int(time.monotonic() - saved_at > SAVE_EVERY_S)

    def settle(call) -> None:
        first, count, metrics = call
        values = {k: np.asarray(v)[:count] for k, v in metrics.items()}
        for i in range(count):
            row = {k: float(v[i]) for k, v in values.items() if k != "streak"}
            if values["streak"][i]:
                row = {"skipped_in_a_row": int(values["streak"][i])}
            elif (spike := spikes.deviations(row["loss"])) is not None:
                row["spike"] = spike
                report_spike(first + i, row["loss"], spike)
            log.step(first + i + 1, (first + i) // feeder.steps_per_epoch, **row)
        pace.finished(count)
        text = f"loss {values['loss'][-1]:.3g}"
        progress.advance(count * feeder.batch_size, text)
        if values["streak"][-1] >= steps.MOST_SKIPPED_IN_A_ROW:
            last.wait()
            best.wait()
            good = last_good(folder)
            raise NumericsError(
                f"{name}: gradients or parameters were not finite in "
                f"{steps.MOST_SKIPPED_IN_A_ROW} batches in a row, until step {first + count}; "
                + ("there is no good checkpoint yet" if good is None else f"last good is {good}")
                + ": lower the learning rate or check the data"
            )

    def report_spike(step: int, loss: float, deviations: float) -> None:
        # All of them are in the log; on the terminal the first of an epoch stands for the others.
        nonlocal spike_told
        epoch = step // feeder.steps_per_epoch
        if parallel.is_first and epoch != spike_told:
            spike_told = epoch
            health.warn(
                f"{name}: the loss of step {step + 1}, {loss:.3g}, is {deviations:.1f} standard "
                f"deviations above the mean of the {health.SPIKE_WINDOW} before it"
            )

    def evaluate() -> None:
        nonlocal best_value, evaluated_good, owes_evaluation
        epoch = done // feeder.steps_per_epoch
        try:
            # Nothing is half done while it runs, so that a signal need not wait for its end. Of
            # several processes each evaluates, and one that left alone would keep the others.
            at_once = stop.immediate() if parallel.processes == 1 else contextlib.nullcontext()
            with clock.section("evaluate"), at_once:
                numbers = monitor(_own(variables_of(state), parallel))
        except Interrupted:
            owes_evaluation = done
            return
        log.evaluation(done, epoch, numbers)
        health.watch_generator(job, epoch, numbers, name)
        good = health.is_good(numbers)
        if good:
            evaluated_good = done
        elif good is False and evaluated_good is not None and parallel.is_first:
            health.warn(
                f"{name}: after {epoch} epochs the validation image "
                f"({numbers['validation_psnr']:.2f} dB) is far worse than the undenoised one; "
                f"step {evaluated_good} was the last good one"
            )
        value = numbers.get("validation_psnr")
        if value is not None and (best_value is None or value > best_value):
            best_value = value
            save(best)

    def save(to: Checkpoints) -> None:
        nonlocal saved_at, saved_step
        with clock.section("save"):
            log.flush()
            if parallel.processes > 1:
                # What is saved in the background meets the other processes by one name for both.
                (best if to is last else last).wait()
            to.save(
                state,
                {
                    "best": best_value,
                    "seconds": clock.seconds,
                    "good": evaluated_good == done,
                    "owes_evaluation": owes_evaluation == done,
                },
            )
        if to is last:
            saved_at, saved_step = time.monotonic(), done

    owed = bool(extra.get("owes_evaluation"))
    log = MetricsLog(folder, done, evaluated=not owed) if parallel.is_first else _NoLog()
    spikes, spike_told = health.LossSpikes(log.losses), None
    alone = False
    try:
        with (
            stop.deferring(),
            Progress(
                name,
                total * feeder.batch_size,
                "patches",
                done=done * feeder.batch_size,
                stream=None if parallel.is_first else io.StringIO(),
            ) as progress,
            _profiler(folder, profile),
        ):
            if owed:
                evaluate()
                stop.check()
            while done < total:
                left_in_epoch = feeder.steps_per_epoch - done % feeder.steps_per_epoch
                count = min(pace.steps(), left_in_epoch, feeder.most_steps or left_in_epoch)
                count, *agreed = parallel.agree(count, *asked())
                with clock.section("train"):
                    pace.dispatched(idle=pending is None)
                    state, metrics = run(state, *arguments(done, count))
                    if pending is not None:
                        settle(pending)
                    pending = (done, count, metrics)
                    done += count
                    epoch_over = done % feeder.steps_per_epoch == 0
                    # One process looks again after the call; several keep to what they agreed on.
                    signal, due = agreed if parallel.processes > 1 else asked()
                    if signal or due or epoch_over or pace.unsure:
                        settle(pending)
                        pending = None
                monitored = done // feeder.steps_per_epoch % monitor_every == 0 or done == total
                if epoch_over and monitored and monitor is not None:
                    evaluate()
                    signal = signal or (parallel.processes == 1 and stop.number) or 0
                if done == total or signal or due:
                    save(last)
                if signal:
                    raise Interrupted(signal)
        outcome = Outcome(variables_of(state), done, int(state.skipped), best_value, clock.report())
    except Interrupted:
        last.wait()
        raise
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if parallel.processes == 1 or (isinstance(error, ValueError) and "Gloo" not in str(error)):
            raise
        alone = True
        raise LdctError(
            f"{name}: the processes can't go on together ({' '.join(str(error).split())[:160]}): "
            "one of them ended or failed; run the same command again on all of them to go on from "
            "the last checkpoint"
        ) from error
    finally:
        log.close()
        # A save of several processes waits for all of them, and so for ever where one is lost.
        if not alone:
            with clock.section("save"), stop.deferring():
                last.close()
                best.close()
    return outcome


def _own(variables: dict, parallel: DataParallel) -> dict:
    """For the monitor: of several processes each evaluates by itself, on its own copy."""
    return variables if parallel.processes == 1 else jax.tree.map(np.asarray, variables)


class _NoLog:
    """The log of all processes but the first: they see the same numbers and write none."""

    losses = ()

    def step(self, step: int, epoch: int, **numbers: float) -> None: ...

    def evaluation(self, step: int, epoch: int, numbers: dict) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def variables_of(state) -> dict:
    """The network's variables for inference: the moving average where there is one."""
    variables = {"params": state.params if state.ema is None else state.ema}
    if state.batch_stats:
        variables["batch_stats"] = state.batch_stats
    return variables


class _Pace:
    """How many steps a call may have, so that it takes about :data:`SECONDS_PER_CALL`."""

    def __init__(self):
        self._per_second: float | None = None
        self._since = time.monotonic()

    @property
    def unsure(self) -> bool:
        """The first call is a single step and is waited for, to learn how long a step takes."""
        return self._per_second is None

    def steps(self) -> int:
        if self._per_second is None:
            return 1
        return max(1, min(MOST_STEPS_PER_CALL, round(self._per_second * SECONDS_PER_CALL)))

    def dispatched(self, idle: bool) -> None:
        """A call was handed over; ``idle``: the device had nothing else to do until then."""
        if idle:
            self._since = time.monotonic()

    def finished(self, count: int) -> None:
        now = time.monotonic()
        self._per_second, self._since = count / max(now - self._since, 1e-6), now


@contextlib.contextmanager
def _profiler(folder: Path, on: bool):
    if not on:
        yield
        return
    with jax.profiler.trace(str(folder / "profile")):
        yield
