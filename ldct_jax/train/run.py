"""The training loop, to be read from top to bottom: :func:`train`, then what :class:`Run` does."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ldct_jax.data.feed.feed import Feed
from ldct_jax.errors import CheckpointError, LdctError, NumericsError
from ldct_jax.system.progress import Progress
from ldct_jax.train import calls, program
from ldct_jax.train.calls import Call, Clock, Pace
from ldct_jax.train.checkpoint import Checkpoints, last_good
from ldct_jax.train.health import Watch
from ldct_jax.train.initial import start_from
from ldct_jax.train.log import MetricsLog, NoLog
from ldct_jax.train.mesh import DataParallel
from ldct_jax.train.program import Training
from ldct_jax.train.signals import Interrupted, StopRequest
from ldct_jax.train.state import variables_of
from ldct_jax.train.steps import MAX_SKIPPED_IN_A_ROW

SAVE_EVERY_S = 120.0

# Gets the variables, hands work to the device, and returns a function that blocks for the numbers.
Monitor = Callable[[dict], Callable[[], dict]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished training leaves besides its files."""

    variables: dict
    steps: int
    skipped: int
    best: float | None
    seconds: dict[str, float]


def train(
    training: Training,
    feed: Feed,
    folder: Path,
    *,
    record: dict,
    parallel: DataParallel,
    init_from: Path | None = None,
    monitor: Monitor | None = None,
    monitor_every: int = 1,
    looks: int = 10,
    stop: StopRequest | None = None,
    name: str = "train",
    profile: bool = False,
) -> Outcome:
    """Train on what ``feed`` gives, or resume the run in ``folder``; on a CPU to the same bits.

    Args:
      training: model, loss, optimiser and so on; its model and window must be what ``record`` says.
      record: the JSON description of the run, which goes into every checkpoint.
      init_from: start from this checkpoint's parameters, see :func:`start_from`.
      monitor: gets a copy of the variables after every ``monitor_every`` epochs, or ``looks`` times
        evenly spread over a training that is counted in steps, and at the end. It returns a
        function that is called for the numbers to log once the device has its next steps. Their
        ``validation_psnr`` decides which checkpoint is the best one, and with ``undenoised_psnr``
        whether a checkpoint counts as good (:func:`ldct_jax.train.health.is_good`).
      stop: finish the call and save where it asks for that.

    Raises NumericsError after five batches in a row with non-finite gradients, CheckpointError
    where saving fails or the folder holds another model, Interrupted after a signal (saved),
    LdctError where another process of the same training was lost.
    """
    if training.steps is None:
        look_every = monitor_every * feed.steps_per_epoch
        total = training.epochs * feed.steps_per_epoch
    else:
        total, look_every = training.steps, -(-training.steps // looks)
    run = Run(training, feed, folder, total, look_every, record, parallel, monitor, stop, name)
    with run:
        run.restore(init_from)
        if run.done < total:
            run.compile()
        with run.stepping(profile):
            run.evaluate_owed()
            pending = None
            while run.done < total:
                # Dispatch call N, then read the metrics of N - 1, evaluate and save: the device
                # computes meanwhile.
                call = run.dispatch(idle=pending is None)
                if pending is not None:
                    run.retire(pending)
                # Retiring may have taken long, so look for signals and the time to save after it.
                run.decide(call)
                pending = call
                # Nothing follows, or the first call is to show how long a step takes.
                if run.done == total or call.signal or run.pace.unsure:
                    run.retire(call)
                    pending = None
                if call.signal:
                    raise Interrupted(call.signal)
        return run.outcome()


class Run:
    """One training in its folder. The loop in :func:`train` says what is called when, and why."""

    def __init__(
        self, training, feed, folder, total, look_every, record, parallel, monitor, stop, name
    ):
        self.training, self.feed, self.folder, self.record = training, feed, folder, record
        self.total, self.look_every, self.parallel = total, look_every, parallel
        self.monitor, self.stop, self.name = monitor, stop or StopRequest(), name
        self.done, self.best_value, self.pace = 0, None, Pace()
        self.state = self.log = self.last = self.best = None
        self.clock = Clock()

    # ---- before the steps -----------------------------------------------------------------------

    def restore(self, init_from: Path | None) -> None:
        """The state: fresh, from other parameters, or from the newest whole checkpoint.

        The checkpoint knows the step, and the step knows the place in the data.
        """
        training, parallel = self.training, self.parallel
        self.optimizers = program.optimizers(training, self.total, self.feed.steps_per_epoch)
        state = program.first_state(training, *self.optimizers)
        if init_from is not None:
            state, digest = parallel.together(
                lambda: start_from(state, training.model, training.window, init_from)
            )
            if self.record.get("init") not in (None, digest):
                raise CheckpointError(
                    f"{init_from.name} has changed since this command began: run it again"
                )
            self._say(f"parameters of {init_from.name} (sha256 {digest[:16]})")
        self.state = parallel.replicate(state)

        def open_checkpoints() -> dict:
            kept = self.folder / "checkpoints"
            self.last = Checkpoints(kept / "last", self.record)
            self.best = Checkpoints(kept / "best", self.record, keep=1)
            if (restored := self.last.restore_latest(self.state)) is None:
                return {}
            self._say(f"resumes from {self.last.restored}")
            self.state = restored[0]
            return restored[1]

        extra = parallel.together(open_checkpoints)
        self.done = int(self.state.step)
        parallel.check_equal(self.done, "checkpoints")
        self.best_value, self.clock = extra.get("best"), Clock(extra.get("seconds"))

        def open_log():
            return MetricsLog(self.folder, self.done) if parallel.is_first else NoLog()

        self.log = parallel.together(open_log)
        self.watch = Watch(
            self.name, training.gan, self.total, self.log.losses, not parallel.is_first
        )

    def compile(self) -> None:
        """Ahead of time, and one program for calls of every length."""
        training, max_steps = self.training, calls.MAX_STEPS_PER_CALL
        step = program.step(training, *self.optimizers)
        steps = self.parallel.compile_steps(
            step, self.feed, training.window, training.patches.augment, max_steps
        )
        with self.clock.section("compile"):
            arguments = self._arguments(min(self.done, self.total - 1), 1)
            self._steps = steps.lower(self.state, *arguments).compile()
            # The next call gets the state's buffers; an evaluation or a checkpoint has its own.
            copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
            self._copied = copy.lower(self.state).compile()

    @contextlib.contextmanager
    def stepping(self, profile: bool):
        """While steps run, progress is shown and a signal waits until the state is saved."""
        batch, stream = self.feed.batch_size, None if self.parallel.is_first else io.StringIO()
        trace = contextlib.nullcontext()
        if profile:
            trace = jax.profiler.trace(str(self.folder / "profile"))
        patches = (self.total * batch, "patches")
        self.progress = Progress(self.name, *patches, done=self.done * batch, stream=stream)
        self._saved_at = time.monotonic()
        with self.stop.deferring(), self.progress, trace, self.clock.section("train"):
            yield

    def evaluate_owed(self) -> None:
        """Evaluate the restored step if the log has no row of it (an interrupted evaluation)."""
        if self.monitor is None or not self._looks_at(self.done):
            return
        if self.parallel.first(lambda: self.log.evaluated(self.done)):
            return
        now = Call(self.done, 0, {}, state=self.state, logged=True)
        self._begin_evaluation(now)
        self._evaluate(now)
        self.stop.check()

    # ---- the steps ------------------------------------------------------------------------------

    def dispatch(self, idle: bool) -> Call:
        """Hand the next steps to the device; ``idle``: it has nothing else to do."""
        left_in_epoch = self.feed.steps_per_epoch - self.done % self.feed.steps_per_epoch
        # A call ends where an epoch, the time to a look or the training does.
        to_look = self.look_every - self.done % self.look_every
        count = min(left_in_epoch, to_look, self.total - self.done, self.pace.steps())
        count, *asked = self.parallel.agree(
            min(count, self.feed.max_steps or count), *self._asked()
        )
        self.pace.dispatched(idle)
        self.state, metrics = self._steps(self.state, *self._arguments(self.done, count))
        call = Call(self.done, count, metrics)
        call.signal, call.save = asked[0], bool(asked[1])
        self.done = call.end
        return call

    def decide(self, call: Call) -> None:
        """Whether a call is evaluated and saved; its state is then copied, the evaluation begun."""
        if self.parallel.processes == 1:  # several agreed on this before the call
            call.signal, save = self._asked()
            call.save = bool(save)
        call.save = call.save or bool(call.signal) or self.done == self.total
        look = self.monitor is not None and self._looks_at(call.end)
        if look or call.save:
            call.state = self._copied(self.state)
        if call.save:
            self._saved_at = time.monotonic()
        if look:
            self._begin_evaluation(call)

    def retire(self, call: Call) -> None:
        """Wait for a call and log its metrics; evaluate and save its state where that is due."""
        self._log_steps(call)
        if call.numbers is not None:
            self._evaluate(call)
        if call.save:
            self._save(self.last, call)

    def outcome(self) -> Outcome:
        state = self.state
        skipped, seconds = int(state.skipped), self.clock.report()
        return Outcome(variables_of(state), self.done, skipped, self.best_value, seconds)

    # ---- the parts of these ---------------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self.parallel.is_first:
            print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def _arguments(self, first: int, count: int) -> tuple:
        epoch, offset = divmod(first, self.feed.steps_per_epoch)
        inputs = self.feed.inputs(epoch, offset, count, self.parallel.place)
        return inputs, np.int32(epoch), np.int32(offset), np.int32(count)

    def _asked(self) -> tuple[int, int]:
        """(the signal that asks to stop or 0, whether a checkpoint is due)."""
        return self.stop.number or 0, int(time.monotonic() - self._saved_at > SAVE_EVERY_S)

    def _looks_at(self, step: int) -> bool:
        return step > 0 and (step % self.look_every == 0 or step == self.total)

    def _log_steps(self, call: Call) -> None:
        if call.logged:
            return
        values = {k: np.asarray(v)[: call.count] for k, v in call.metrics.items()}
        call.logged = True
        streaks = values.pop("streak")
        for i, streak in enumerate(streaks):
            step, epoch = call.first + i + 1, (call.first + i) // self.feed.steps_per_epoch
            row = {k: float(v[i]) for k, v in values.items()}
            if streak:
                row = {"skipped_in_a_row": int(streak)}
            elif (spike := self.watch.step(step, epoch, row["loss"])) is not None:
                row["spike"] = spike
            self.log.step(step, epoch, **row)
        self.pace.finished(call.count, more=call.state is not None)
        self.progress.advance(call.count * self.feed.batch_size, f"loss {values['loss'][-1]:.3g}")
        if streaks[-1] >= MAX_SKIPPED_IN_A_ROW:
            self.last.wait()
            self.best.wait()
            good = last_good(self.folder)
            raise NumericsError(
                f"{self.name}: gradients or parameters were not finite in "
                f"{MAX_SKIPPED_IN_A_ROW} batches in a row, until step {call.end}; "
                + ("there is no good checkpoint yet" if good is None else f"last good is {good}")
                + ": lower the learning rate or check the data"
            )

    def _begin_evaluation(self, call: Call) -> None:
        with self._leaving_at_once(call):
            if self.parallel.processes == 1:
                call.numbers = self.monitor(variables_of(call.state))
                return

            def numbers() -> dict:
                """From the first process: rounding could make another choose another best state."""
                own = self.parallel.own(variables_of(call.state))
                return self.parallel.first(lambda: self.monitor(own)())

            call.numbers = numbers

    def _evaluate(self, call: Call) -> None:
        with self._leaving_at_once(call):
            numbers = call.numbers()
        self.log.evaluation(call.end, call.end // self.feed.steps_per_epoch, numbers)
        self.watch.evaluation(call.end, numbers)
        value = numbers.get("validation_psnr")
        if value is not None and (self.best_value is None or value > self.best_value):
            self.best_value = value
            self._save(self.best, call)

    @contextlib.contextmanager
    def _leaving_at_once(self, call: Call):
        """A part of an evaluation that a signal leaves at once; the resumed run evaluates again.

        Saved is the state that was to be evaluated, not that of later steps. With several
        processes the signal waits: one that left alone would leave the others waiting for it.
        """
        alone = self.parallel.processes == 1
        try:
            with (
                self.clock.section("evaluate"),
                self.stop.immediate() if alone else contextlib.nullcontext(),
            ):
                yield
        except Interrupted:
            self._log_steps(call)
            self._save(self.last, call)
            raise

    def _save(self, to: Checkpoints, call: Call) -> None:
        good = self.watch.good_step == call.end
        with self.clock.section("save"):
            self.log.flush()
            extra = {"best": self.best_value, "seconds": self.clock.seconds, "good": good}
            self.parallel.together(lambda: to.save(call.state, extra))

    # ---- the end, whatever it is ----------------------------------------------------------------

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        """Wait until what was saved is on the disk, and read it back."""
        if isinstance(error, Interrupted):
            with self.stop.deferring(), contextlib.suppress(jax.errors.JaxRuntimeError):
                # Otherwise the interpreter would exit while the device still computes.
                jax.block_until_ready(self.state)
        if self.log is not None:
            self.log.close()
        # XLA's error for a lost connection, or gloo's where the collective was not compiled.
        lost = isinstance(error, jax.errors.JaxRuntimeError)
        lost = lost or (isinstance(error, ValueError) and "Gloo" in str(error))
        if lost and self.parallel.processes > 1:
            raise LdctError(
                f"{self.name}: lost the connection between the processes "
                f"({' '.join(str(error).split())[:160]}): one of them ended or failed; run the "
                "same command again on all of them to resume from the last checkpoint"
            ) from error

        def close_checkpoints() -> None:
            with contextlib.ExitStack() as closing:
                for checkpoints in (self.best, self.last):
                    if checkpoints is not None:
                        closing.callback(checkpoints.close)

        with self.clock.section("save"), self.stop.deferring():
            # After an error the other processes may be anywhere: wait for none of them.
            self.parallel.together(close_checkpoints) if error is None else close_checkpoints()
