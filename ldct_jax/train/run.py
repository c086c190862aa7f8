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
import jax.numpy as jnp
import numpy as np

from ldct_jax.errors import LdctError, NumericsError
from ldct_jax.hu import Window
from ldct_jax.optim import Adam
from ldct_jax.system.progress import Progress
from ldct_jax.train import calls, health, steps
from ldct_jax.train import state as train_state
from ldct_jax.train.calls import Call, Pace
from ldct_jax.train.checkpoint import Checkpoints, last_good
from ldct_jax.train.clock import Clock
from ldct_jax.train.gan import WassersteinGAN, adversarial
from ldct_jax.train.initial import start_from
from ldct_jax.train.log import MetricsLog, NoLog
from ldct_jax.train.mesh import DataParallel, synchronised
from ldct_jax.train.signals import Interrupted, StopRequest

SAVE_EVERY_S = 120.0

# Gets the variables, hands work to the device, and returns what waits for it and for the numbers.
Monitor = Callable[[dict], Callable[[], dict]]


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
    epochs: int | None
    seed: int
    patch_size: int
    augment: str
    record: dict
    ema_decay: float | None = None
    gan: WassersteinGAN | None = None
    init_from: Path | None = None
    steps: int | None = None
    """How long it trains, in place of ``epochs``."""


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
    monitor: Monitor | None = None,
    monitor_every: int = 1,
    looks: int = 10,
    stop: StopRequest | None = None,
    name: str = "train",
    profile: bool = False,
) -> Outcome:
    """Train ``job`` on what ``feeder`` gives, or go on where the run in ``folder`` stopped.

    ``monitor`` gets a copy of the variables after every ``monitor_every`` epochs, or ``looks``
    times evenly spread over a training that is counted in steps, and at the end. It returns a
    function, which is called for the numbers to log when the device has the next steps to work on.
    Their ``validation_psnr`` decides which checkpoint is the best one, and with ``undenoised_psnr``
    whether a checkpoint counts as good (:func:`health.is_good`).
    Raises NumericsError after five batches in a row with non-finite gradients, CheckpointError
    where saving fails or the folder holds another model, Interrupted after a signal (saved),
    LdctError where another process of the same training was lost.
    """
    stop = stop or StopRequest()
    if job.steps is None:
        total, look_every = job.epochs * feeder.steps_per_epoch, monitor_every
        look_every *= feeder.steps_per_epoch
    else:
        total, look_every = job.steps, -(-job.steps // looks)

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
        state, digest = start_from(state, job.model, job.window, job.init_from)
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
    most = calls.MOST_STEPS_PER_CALL
    program = parallel.compile_steps(step_fn, feeder, job.window, job.augment, most)

    def arguments(first: int, count: int):
        epoch, offset = divmod(first, feeder.steps_per_epoch)
        inputs = feeder.inputs(epoch, offset, count, parallel.place)
        return inputs, np.int32(epoch), np.int32(offset), np.int32(count)

    with clock.section("compile"):
        run = program.lower(state, *arguments(min(done, total - 1), 1)).compile()
        # The state's buffers are given to the next call; an evaluation or a checkpoint has its own.
        copied = jax.jit(lambda state: jax.tree.map(jnp.copy, state)).lower(state).compile()

    # ---- 4. Steps: dispatch a call, then do what the one before has left to do -----------------
    pace = Pace()
    pending: Call | None = None
    saved_at = time.monotonic()

    def asked() -> tuple[int, int]:
        """(the signal that asks to stop or 0, whether a checkpoint is due)."""
        return stop.number or 0, int(time.monotonic() - saved_at > SAVE_EVERY_S)

    def begin_evaluation(call: Call) -> None:
        with clock.section("evaluate"), leaving_at_once(call):
            # Of several processes each evaluates on its own copy, which has to wait for the call.
            call.numbers = (
                monitor(variables_of(call.state))
                if parallel.processes == 1
                else lambda: monitor(parallel.own(variables_of(call.state)))()
            )

    def finish(call: Call) -> None:
        settle(call)
        if call.numbers is not None:
            evaluate(call)
        if call.due:
            save(last, call)

    def settle(call: Call) -> None:
        if call.settled:
            return
        first, count = call.first, call.count
        values = {k: np.asarray(v)[:count] for k, v in call.metrics.items()}
        call.settled = True
        for i in range(count):
            row = {k: float(v[i]) for k, v in values.items() if k != "streak"}
            if values["streak"][i]:
                row = {"skipped_in_a_row": int(values["streak"][i])}
            elif (spike := spikes.deviations(row["loss"])) is not None:
                row["spike"] = spike
                report_spike(first + i, row["loss"], spike)
            log.step(first + i + 1, (first + i) // feeder.steps_per_epoch, **row)
        pace.finished(count, more=call.state is not None)
        text = f"loss {values['loss'][-1]:.3g}"
        progress.advance(count * feeder.batch_size, text)
        if values["streak"][-1] >= steps.MOST_SKIPPED_IN_A_ROW:
            last.wait()
            best.wait()
            good = last_good(folder)
            raise NumericsError(
                f"{name}: gradients or parameters were not finite in "
                f"{steps.MOST_SKIPPED_IN_A_ROW} batches in a row, until step {call.end}; "
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

    @contextlib.contextmanager
    def leaving_at_once(call: Call):
        """A part of an evaluation: a signal need not wait for its end, it comes again instead.

        What is saved is the state that was to be evaluated, not that of later steps. Of several
        processes each evaluates, and one that left alone would keep the others.
        """
        nonlocal owes_evaluation
        try:
            with stop.immediate() if parallel.processes == 1 else contextlib.nullcontext():
                yield
        except Interrupted:
            owes_evaluation = call.end
            settle(call)
            save(last, call)
            raise

    def evaluate(call: Call) -> None:
        nonlocal best_value, evaluated_good
        epoch = call.end // feeder.steps_per_epoch
        with clock.section("evaluate"), leaving_at_once(call):
            numbers = call.numbers()
        log.evaluation(call.end, epoch, numbers)
        health.watch_generator(job.gan, call.end, total, numbers, name)
        good = health.is_good(numbers)
        if good:
            evaluated_good = call.end
        elif good is False and evaluated_good is not None and parallel.is_first:
            health.warn(
                f"{name}: after {call.end} steps the validation image "
                f"({numbers['validation_psnr']:.2f} dB) is far worse than the undenoised one; "
                f"step {evaluated_good} was the last good one"
            )
        value = numbers.get("validation_psnr")
        if value is not None and (best_value is None or value > best_value):
            best_value = value
            save(best, call)

    def save(to: Checkpoints, call: Call) -> None:
        with clock.section("save"):
            log.flush()
            if parallel.processes > 1:
                # What is saved in the background meets the other processes by one name for both.
                (best if to is last else last).wait()
            to.save(
                call.state,
                {
                    "best": best_value,
                    "seconds": clock.seconds,
                    "good": evaluated_good == call.end,
                    "owes_evaluation": owes_evaluation == call.end,
                },
            )

    owed = bool(extra.get("owes_evaluation"))
    log = MetricsLog(folder, done, evaluated=not owed) if parallel.is_first else NoLog()
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
                now = Call(done, 0, {}, state=state, settled=True)
                begin_evaluation(now)
                evaluate(now)
                stop.check()
            while done < total:
                left_in_epoch = feeder.steps_per_epoch - done % feeder.steps_per_epoch
                # A call ends where an epoch, the time to a look or the training does.
                until = min(left_in_epoch, look_every - done % look_every, total - done)
                count = min(pace.steps(), until, feeder.most_steps or until)
                count, *agreed = parallel.agree(count, *asked())
                with clock.section("train"):
                    pace.dispatched(idle=pending is None)
                    state, metrics = run(state, *arguments(done, count))
                    call = Call(done, count, metrics)
                    done = call.end
                    if pending is not None:
                        finish(pending)
                    pending = call
                    # One process looks again after the call; several keep to what they agreed on.
                    signal, call.due = agreed if parallel.processes > 1 else asked()
                    looked_at = done % look_every == 0 or done == total
                    look = monitor is not None and looked_at
                    call.due = call.due or done == total or bool(signal)
                    if look or call.due:
                        call.state = copied(state)
                    if call.due:
                        saved_at = time.monotonic()
                    if look:
                        begin_evaluation(call)
                    if done == total or signal or pace.unsure:
                        finish(call)
                        pending = None
                if signal:
                    raise Interrupted(signal)
        outcome = Outcome(variables_of(state), done, int(state.skipped), best_value, clock.report())
    except Interrupted:
        with stop.deferring():
            last.wait()
            best.wait()
            # Or the interpreter would be taken down under the steps that nobody waits for.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.block_until_ready(state)
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


def variables_of(state) -> dict:
    """The network's variables for inference: the moving average where there is one."""
    variables = {"params": state.params if state.ema is None else state.ema}
    if state.batch_stats:
        averaged = state.ema_stats is not None
        variables["batch_stats"] = state.ema_stats if averaged else state.batch_stats
    return variables


@contextlib.contextmanager
def _profiler(folder: Path, on: bool):
    if not on:
        yield
        return
    with jax.profiler.trace(str(folder / "profile")):
        yield
