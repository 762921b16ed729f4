"""The training run: from an experiment to a trained network and its metrics in the workdir."""

import contextlib
import dataclasses
import functools
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn.errors import UserError
from jaxcnn.io.paths import in_bucket
from jaxcnn.training import distributed
from jaxcnn.training.augmentation import Normalize
from jaxcnn.training.best import EMA, has, ranked
from jaxcnn.training.build import Experiment
from jaxcnn.training.checkpoints import Checkpoints
from jaxcnn.training.debugging import debugged
from jaxcnn.training.devices import pmap, replicate, unreplicate
from jaxcnn.training.evaluation import Evaluation, evaluate
from jaxcnn.training.lock import hold
from jaxcnn.training.monitoring import first_filters, first_inputs
from jaxcnn.training.nonfinite import NonfiniteSteps, describe, diverged
from jaxcnn.training.optimizer import with_rate_factor
from jaxcnn.training.out_of_memory import (
    less_memory,
    less_memory_in_evaluation,
    memory_errors,
)
from jaxcnn.training.outputs import export, export_best, save_examples
from jaxcnn.training.parameters import Freeze, count
from jaxcnn.training.profiling import Profile
from jaxcnn.training.replicas import check_replicas
from jaxcnn.training.reporting import EMA_EVALUATION, Reporter, with_ema_names
from jaxcnn.training.signals import Stopped, StopSignals
from jaxcnn.training.start import (
    check_evaluations,
    evaluations_until,
    initial_state,
    resumed,
    unfrozen,
)
from jaxcnn.training.step import TrainState, make_eval_step, normalizer
from jaxcnn.training.workdir import CHECKPOINTS, claim_workdir, has_checkpoint, usable

# Steps, or batches of an evaluation, between asking whether another process was told to stop.
ASK_EVERY = 10


def train_and_evaluate(
    experiment: Experiment,
    workdir: Path,
    *,
    profile: Profile | None = None,
    debug_nans: bool = False,
) -> None:
    """Train a network, or resume the run if the workdir already contains it.

    Args:
        experiment: from :func:`jaxcnn.training.build.build`.
        workdir: where ``config.json``, ``metrics.jsonl``, TensorBoard events, ``checkpoints/``
            and in the end ``weights.safetensors`` (and its like) are written.
        profile: traces some of the steps; None: none.
        debug_nans: whether a step that is not finite is taken again to name the layer; slower.

    Raises:
        UserError: if another run holds the workdir, it or the weights cannot be used, too many
            images are bad, the loss became NaN or infinite, the replicas differ, a checkpoint
            cannot be saved, or a device has too little memory.
        Stopped: after SIGTERM, SIGINT or SIGUSR1, with the state saved.
    """
    _announce(experiment, workdir)
    plan = experiment.plan
    with contextlib.ExitStack() as stack:
        run = _Run(experiment, workdir, stack, profile=profile, debug_nans=debug_nans)
        run.start()
        for step, batch in run.batches():
            run.train(step, batch)
            if plan.logs(step):
                run.log(step)
            due = run.saves(step)
            run.check_replicas(step, saves=due)
            if due:  # before the evaluation, which may fail
                run.save()
            if plan.evaluates(step):
                run.evaluate(step)
                run.follow_plateau()
            run.stop_if_requested(
                may_ask=plan.logs(step) or step % ASK_EVERY == 0,
                preempted=distributed.is_preempted(step),
            )
        run.finish()
    distributed.barrier("trained")


class _Run:
    """A run from its last checkpoint on: the state on the devices, and what is done with it.

    Args:
        experiment: see :func:`train_and_evaluate`.
        workdir: likewise.
        stack: closes what is opened, in the reverse order.
        profile: see :func:`train_and_evaluate`.
        debug_nans: likewise.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        stack: contextlib.ExitStack,
        *,
        profile: Profile | None,
        debug_nans: bool,
    ):
        self._experiment, self._workdir, self._profile = experiment, workdir, profile
        self._plan, self._inputs = experiment.plan, experiment.inputs
        state, reinitialized = initial_state(experiment, resuming=has_checkpoint(workdir))
        stack.enter_context(memory_errors(less_memory(experiment)))
        self._check_lock = _lock(workdir, stack)
        _claim(experiment, workdir)
        self._signals = StopSignals()
        # The last: what follows is closed without interruption.
        stack.callback(self._signals.restore)
        self._checkpoints = stack.enter_context(
            Checkpoints(workdir / CHECKPOINTS, keep=experiment.keep_checkpoints)
        )
        state, self._freeze = resumed(experiment, state, self._checkpoints)
        self._start_step = int(state.step)
        self._evaluations = evaluations_until(self._start_step, workdir)
        self._lacks_evaluation = self._was_stopped_before_its_evaluation()
        self._reporter = Reporter(
            workdir,
            self._plan,
            experiment.schedule,
            self._start_step,
            evaluate_again=self._lacks_evaluation,
        )
        stack.callback(self._reporter.close)
        if profile is not None:
            stack.callback(profile.close)
        _announce_start(experiment, state, self._freeze, reinitialized, self._reporter)

        self._normalize = _normalizer(experiment, workdir, self._start_step, self._reporter)
        self._make_train_step = functools.partial(
            _train_step, experiment, self._normalize, debug_nans
        )
        self._train_step = self._make_train_step(self._freeze)
        self._eval_step = pmap(make_eval_step(experiment.model, normalize=self._normalize))
        self._batches = stack.enter_context(
            contextlib.closing(self._inputs.train_batches(self._start_step, self._plan.num_steps))
        )
        self._state = replicate(state)
        self._skipped = 0  # bad images of this epoch, over all hosts
        self._nonfinite = NonfiniteSteps(experiment.max_nonfinite)
        self._saves_begun = itertools.count()

    def start(self) -> None:
        """Run the evaluation that the last process did not finish, and restore what follows."""
        if not distributed.is_single_process():
            self._signals.install()  # all stop together, or some would wait for the others
        if self._experiment.best_by is not None:
            self._checkpoints.find_best(self._rank)
        if self._lacks_evaluation:
            self.evaluate(self._start_step)
        check_evaluations(self._experiment, self._start_step, self._evaluations, self._workdir)
        self.follow_plateau()
        self._saved_at = time.monotonic()

    def batches(self) -> Iterator[tuple[int, Any]]:
        """The number of each step that is left, and its batch on the devices."""
        return enumerate(self._reporter.timed_batches(self._batches), self._start_step + 1)

    def train(self, step: int, batch: Any) -> None:
        """Take a step; the devices may still be computing it afterwards."""
        if self._freeze is not None and step > self._plan.last_frozen_step:
            self._unfreeze(step)
        if step == 1:
            self._reporter.write_image(
                0, "filters", first_filters, self._experiment.model, self._state
            )
            self._reporter.write_image(
                0, "inputs", first_inputs, self._experiment, self._normalize, batch
            )
        profile = self._profile
        if profile is not None:
            profile.before(step)
        self._state, metrics = self._train_step(self._state, batch)
        if profile is not None and profile.after(step, metrics):
            self._reporter.say(f"The trace of the steps until {step} is in {profile.folder}.")
        self._reporter.step(metrics)
        # Until the first step is compiled and done there is nothing to save.
        self._signals.install()

    def log(self, step: int) -> None:
        """Write what the steps since the last line gave, and check it."""
        recent = self._reporter.recent()
        self._check_finite(recent)
        if (values := self._reporter.training(recent)) is not None:
            self._skipped += values["skipped"]
            self._inputs.check_skipped(self._skipped)
            self._reporter.write_training(step, values)
        self._checkpoints.check()
        if self._plan.ends_epoch(step):
            self._skipped = 0

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after a step; every process must call this."""
        every = self._experiment.save_every_minutes
        return self._plan.saves(step) or (
            self._plan.logs(step) and _minutes_have_passed(every, self._saved_at)
        )

    def check_replicas(self, step: int, *, saves: bool) -> None:
        """Compare the replicas, if that is due.

        Args:
            step: the last one.
            saves: whether a checkpoint is saved.

        Raises:
            UserError: if they differ.
        """
        if self._plan.checks_replicas(step, saves=saves):
            check_replicas(self._state, step)

    def save(self) -> None:
        """Begin to save a checkpoint."""
        with self._reporter.paused():
            self._save()
        self._saved_at = time.monotonic()

    def evaluate(self, step: int) -> None:
        """Evaluate the weights and their average."""
        experiment, reporter = self._experiment, self._reporter
        with reporter.paused(), memory_errors(less_memory_in_evaluation(experiment)):
            last = step == self._plan.num_steps
            evaluation = self._evaluation_of(self._state.variables, with_examples=last)
            if problem := describe("loss of the evaluation", evaluation.means["loss"]):
                raise self._diverged(step, problem)
            of_average = None
            if experiment.with_ema:
                of_average = self._evaluation_of(self._state.ema)
                if problem := describe("loss of the average", of_average.means["loss"]):
                    raise self._diverged(step, problem)
            if evaluation.examples is not None:  # before metrics.jsonl says that it is done
                save_examples(evaluation.examples, experiment, self._workdir, step)
            reporter.write_evaluation(step, evaluation.means)
            self._evaluations[step] = dict(evaluation.means)
            if of_average is not None:
                reporter.write_evaluation(step, of_average.means, EMA_EVALUATION)
                self._evaluations[step] |= with_ema_names(of_average.means)
            reporter.write_image(step, "filters", first_filters, experiment.model, self._state)
        if experiment.best_by is not None:
            best = self._checkpoints.best
            self._checkpoints.best = self._rank([step] if best is None else [best, step])[0]

    def follow_plateau(self) -> None:
        """Set the learning rate that the evaluations so far ask for."""
        self._state = _with_plateau(
            self._experiment, self._state, self._evaluations, self._reporter
        )

    def stop_if_requested(self, *, may_ask: bool, preempted: bool = False) -> None:
        """Save and stop, if a signal says so.

        Args:
            may_ask: whether to ask the other processes now; the same on all of them.
            preempted: whether JAX's own service says so, to all of them.

        Raises:
            Stopped: with the state saved.
        """
        number = _stop_requested(self._signals, may_ask)
        if preempted and number is None:
            number = signal.SIGTERM
        if number is not None:
            self._check_finite(self._reporter.recent())
            step = int(unreplicate(self._state.step))
            self.check_replicas(step, saves=True)
            self._save()
            self._checkpoints.wait()
            raise Stopped(number)

    def finish(self) -> None:
        """Wait for the last checkpoint, and write the weights."""
        experiment, workdir = self._experiment, self._workdir
        self._checkpoints.wait()
        # An error of the main process ends the others, too.
        distributed.main_process_first("metrics", self._reporter.flush)
        distributed.main_process_first("exported", lambda: export(experiment, workdir, self._state))
        if experiment.best_by is not None:
            best = self._checkpoints.read_best(self._rank, ema=experiment.best_by.startswith(EMA))
            step = self._checkpoints.best  # of several, the best that is intact
            figures = self._evaluations.get(step, {})
            distributed.main_process_first(
                "exported best",
                lambda: export_best(experiment, workdir, step, best, figures, self._reporter.say),
            )
        self.stop_if_requested(may_ask=True)

    def _was_stopped_before_its_evaluation(self) -> bool:
        """Whether the last process saved a checkpoint and did not come to evaluate it."""
        step, experiment = self._start_step, self._experiment
        last_figure = EMA + "loss" if experiment.with_ema else "loss"
        lacking = self._plan.evaluates(step) and not has(self._evaluations, step, last_figure)
        # Other processes may not see the newest lines yet.
        return distributed.any_process(lacking and distributed.is_main_process())

    def _unfreeze(self, step: int) -> None:
        self._reporter.compiles()
        self._freeze = None
        self._state = replicate(unfrozen(self._experiment, unreplicate(self._state)))
        self._train_step = self._make_train_step(None)
        self._reporter.say(f"All parameters train from step {step} on.")

    def _save(self) -> None:
        if in_bucket(self._workdir):
            number = next(self._saves_begun)
            distributed.main_process_first(f"held {number}", self._check_lock)
            distributed.main_process_first(f"metrics {number}", self._reporter.flush)
        self._checkpoints.save(self._state)

    def _evaluation_of(self, variables: Any, *, with_examples: bool = False) -> Evaluation:
        batches = itertools.count(1)

        def progress(examples: int) -> None:  # resumed, the run makes up for the evaluation
            self.stop_if_requested(may_ask=next(batches) % ASK_EVERY == 0)

        return evaluate(
            self._eval_step,
            variables,
            self._inputs.evaluation,
            with_examples=with_examples,
            progress=progress,
        )

    def _check_finite(self, recent: Mapping[int, Any]) -> None:
        if reason := self._nonfinite.reason_to_stop(recent):
            raise self._diverged(*reason)

    def _diverged(self, step: int, problem: str) -> UserError:
        self._checkpoints.wait()
        rate = self._reporter.learning_rate(step)
        return diverged(problem, step, rate, self._workdir / CHECKPOINTS)

    def _rank(self, steps: Sequence[int]) -> list[int]:
        return ranked(steps, self._evaluations, self._experiment.best_by)


def _with_plateau(
    experiment: Experiment,
    state: TrainState,
    evaluations: Mapping[int, Mapping[str, float]],
    reporter: Reporter,
) -> TrainState:
    """The replicated state with the learning rate that the evaluations so far ask for."""
    plateau = experiment.plateau
    if plateau is None:
        return state
    values = [evaluation[plateau.metric] for evaluation in evaluations.values()]
    # Of the main process: the others may not see the newest lines of a shared disk.
    reporter.rate_factor = distributed.from_main_process(plateau.rate_factor(values))
    opt_state = with_rate_factor(state.opt_state, reporter.rate_factor)
    return dataclasses.replace(state, opt_state=opt_state)


def _lock(workdir: Path, stack: contextlib.ExitStack) -> Callable[[], None]:
    """Keep other runs out of the workdir until the stack is closed, on the main process for all.

    Returns:
        Checks that it is still so, on the main process.
    """
    held = []

    def lock() -> None:
        if distributed.is_main_process():
            with usable(workdir):
                held.append(stack.enter_context(hold(workdir)))

    def check() -> None:
        for lock in held:
            lock.check()

    distributed.main_process_first("lock", lock)
    return check


def _claim(experiment: Experiment, workdir: Path) -> None:
    claim = functools.partial(
        claim_workdir,
        workdir,
        experiment.settings,
        experiment.inputs.train.classes,
        resumable=experiment.resumable,
        write=distributed.is_main_process(),
    )
    distributed.main_process_first("workdir", claim)
    distributed.barrier("workdir")


def _announce(experiment: Experiment, workdir: Path) -> None:
    """Print what the run is, at once: initial weights of a large network take a while."""
    plan, inputs = experiment.plan, experiment.inputs
    if distributed.is_main_process():
        print(
            f"{experiment.name} on {experiment.dataset}: "
            f"{inputs.train.num_examples:,} training and "
            f"{inputs.evaluation.source.num_examples:,} evaluation examples; {plan.num_epochs} "
            f"epochs of {plan.steps_per_epoch} steps of {plan.batch_size} images on "
            f"{jax.device_count()} {jax.default_backend()} device(s); workdir {workdir}",
            flush=True,
        )


def _announce_start(
    experiment: Experiment,
    state: TrainState,
    freeze: Freeze | None,
    reinitialized: list[str],
    reporter: Reporter,
) -> None:
    frozen = f", {count(state.params, freeze):,} of which train" if freeze is not None else ""
    reporter.say(f"{count(state.params):,} parameters{frozen}")
    if reinitialized:
        reporter.say(
            f"Initialized from {experiment.init_from}; re-initialized for other classes: "
            f"{', '.join(reinitialized)}."
        )
    if start_step := int(state.step):
        reporter.say(f"Resuming from step {start_step} of {experiment.plan.num_steps}.")


def _normalizer(
    experiment: Experiment, workdir: Path, start_step: int, reporter: Reporter
) -> Normalize:
    mean = experiment.mean
    if experiment.subtract_mean_image:
        reporter.say("Computing or reading the mean of the training images.")
        mean = experiment.inputs.mean_image(workdir, reuse=start_step > 0)
    return normalizer(mean, experiment.std)


def _train_step(
    experiment: Experiment, normalize: Normalize, debug_nans: bool, freeze: Freeze | None
) -> Callable[[TrainState, Any], tuple[TrainState, Any]]:
    """The pmapped training step."""
    make = functools.partial(experiment.make_train_step, normalize=normalize, freeze=freeze)
    pmapped = debugged(make(skip_nonfinite=False)) if debug_nans else pmap(make(), donate_argnums=0)
    if experiment.teacher_variables is None:
        return pmapped
    teacher_variables = replicate(experiment.teacher_variables)
    return lambda state, batch: pmapped(state, batch, teacher_variables)


def _minutes_have_passed(minutes: float | None, since: float) -> bool:
    """Whether so many have passed on the main process; every process must call this.

    Args:
        minutes: None: the answer is no.
        since: a time of ``time.monotonic``.
    """
    if minutes is None:
        return False
    return bool(distributed.from_main_process(time.monotonic() - since >= 60 * minutes))


def _stop_requested(signals: StopSignals, may_ask: bool) -> int | None:
    """The signal that any process received, the same on all of them.

    Args:
        signals: of this process.
        may_ask: whether to ask the other processes now; the same on all of them.
    """
    if distributed.is_single_process():
        return signals.received
    if not may_ask:
        return None
    return distributed.max_over_processes(signals.received or 0) or None
