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

from jaxcnn.convert.pretrained import initialize_from
from jaxcnn.convert.variables import save_torch
from jaxcnn.errors import UserError, one_sentence
from jaxcnn.io.paths import in_bucket
from jaxcnn.training import distributed
from jaxcnn.training.augmentation import Normalize
from jaxcnn.training.best import EMA, has, ranked
from jaxcnn.training.build import Experiment
from jaxcnn.training.checkpoint_folder import saved_steps
from jaxcnn.training.checkpoints import Checkpoints
from jaxcnn.training.debugging import debugged
from jaxcnn.training.devices import pmap, replicate, unreplicate
from jaxcnn.training.evaluation import Examples, SavedEvaluation, evaluate, save_evaluation
from jaxcnn.training.lock import hold
from jaxcnn.training.monitoring import first_filters, first_inputs
from jaxcnn.training.nonfinite import NONFINITE_REMEDY, NonfiniteSteps, describe
from jaxcnn.training.optimizer import carry_over, with_rate_factor
from jaxcnn.training.parameters import Freeze, count
from jaxcnn.training.profiling import Profile
from jaxcnn.training.replicas import check_replicas
from jaxcnn.training.reporting import (
    EMA_EVALUATION,
    Reporter,
    evaluations_in,
    with_ema_names,
)
from jaxcnn.training.signals import Stopped, StopSignals
from jaxcnn.training.step import (
    TrainState,
    init_state,
    make_eval_step,
    normalizer,
)
from jaxcnn.training.workdir import (
    BEST_WEIGHTS,
    CHECKPOINTS,
    EMA_WEIGHTS,
    LAST_EVALUATION,
    METRICS,
    WEIGHTS,
    claim_workdir,
    has_checkpoint,
    has_other_classes,
    usable,
)

MISTAKES = 32  # images of the worst ones that are kept
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
    plan, inputs = experiment.plan, experiment.inputs
    _announce(experiment, workdir)
    state, reinitialized = _initial_state(experiment, resuming=has_checkpoint(workdir))
    with _memory_errors(_less_memory(experiment)), contextlib.ExitStack() as stack:
        still_held = _lock(workdir, stack)
        _claim(experiment, workdir)
        signals = StopSignals()
        stack.callback(signals.restore)  # the last: what follows is closed without interruption
        checkpoints = stack.enter_context(
            Checkpoints(workdir / CHECKPOINTS, keep=experiment.keep_checkpoints)
        )
        state, freeze = _resumed(experiment, state, checkpoints)
        start_step = int(state.step)
        evaluations = _evaluations_until(start_step, workdir)
        # Stopped between a checkpoint and its evaluation; other processes may not see it yet.
        last_figure = EMA + "loss" if experiment.with_ema else "loss"
        lacking = plan.evaluates(start_step) and not has(evaluations, start_step, last_figure)
        lacking = distributed.any_process(lacking and distributed.is_main_process())
        reporter = Reporter(workdir, plan, experiment.schedule, start_step, evaluate_again=lacking)
        stack.callback(reporter.close)
        if profile is not None:
            stack.callback(profile.close)
        _announce_start(experiment, state, freeze, reinitialized, reporter)

        normalize = _normalizer(experiment, workdir, start_step, reporter)
        train_step = _train_step(experiment, normalize, freeze, debug_nans)
        eval_step = pmap(make_eval_step(experiment.model, normalize=normalize))
        batches = stack.enter_context(
            contextlib.closing(inputs.train_batches(start_step, plan.num_steps))
        )
        state = replicate(state)
        skipped = 0  # bad images of this epoch, over all hosts

        nonfinite = NonfiniteSteps(experiment.max_nonfinite)

        def diverged(step: int, problem: str) -> UserError:
            checkpoints.wait()
            rate = reporter.learning_rate(step)
            return _diverged(problem, step, rate, workdir / CHECKPOINTS)

        def check_finite(recent: Mapping[int, Any]) -> None:
            if reason := nonfinite.reason_to_stop(recent):
                raise diverged(*reason)

        saves_begun = itertools.count()

        def save() -> None:
            if in_bucket(workdir):
                distributed.main_process_first(f"held {next(saves_begun)}", still_held)
                distributed.main_process_first(f"metrics {next(saves_begun)}", reporter.flush)
            checkpoints.save(state)

        def stop_if_requested(*, may_ask: bool, preempted: bool = False) -> None:
            number = _stop_requested(signals, may_ask)
            if preempted and number is None:
                number = signal.SIGTERM
            if number is not None:
                check_finite(reporter.recent())
                step = int(unreplicate(state.step))
                if plan.checks_replicas(step, saves=True):
                    check_replicas(state, step)
                save()
                checkpoints.wait()
                raise Stopped(number)

        def evaluate_now(step: int) -> None:
            batches = itertools.count(1)

            def progress(examples: int) -> None:  # resumed, the run makes up for the evaluation
                stop_if_requested(may_ask=next(batches) % ASK_EVERY == 0)

            with reporter.paused(), _memory_errors(_less_memory_in_evaluation(experiment)):
                last = step == plan.num_steps
                evaluation = evaluate(
                    eval_step,
                    state.variables,
                    inputs.evaluation,
                    with_examples=last,
                    progress=progress,
                )
                if problem := describe("loss of the evaluation", evaluation.means["loss"]):
                    raise diverged(step, problem)
                of_average = None
                if experiment.with_ema:
                    of_average = evaluate(
                        eval_step, state.ema, inputs.evaluation, progress=progress
                    )
                    if problem := describe("loss of the average", of_average.means["loss"]):
                        raise diverged(step, problem)
                if evaluation.examples is not None:  # before metrics.jsonl says that it is done
                    _save_examples(evaluation.examples, experiment, step, workdir)
                reporter.write_evaluation(step, evaluation.means)
                evaluations[step] = dict(evaluation.means)
                if of_average is not None:
                    reporter.write_evaluation(step, of_average.means, EMA_EVALUATION)
                    evaluations[step] |= with_ema_names(of_average.means)
                reporter.write_image(step, "filters", first_filters, experiment.model, state)
            if experiment.best_by is not None:
                known = [step] if checkpoints.best is None else [checkpoints.best, step]
                checkpoints.best = rank(known)[0]

        def rank(steps: Sequence[int]) -> list[int]:
            return ranked(steps, evaluations, experiment.best_by)

        if not distributed.is_single_process():
            signals.install()  # all stop together, or some would wait for the others
        if experiment.best_by is not None:
            checkpoints.find_best(rank)
        if lacking:
            evaluate_now(start_step)
        _check_evaluations(experiment, start_step, evaluations, workdir)
        state = _with_plateau(experiment, state, evaluations, reporter)
        saved_at = time.monotonic()
        for step, batch in enumerate(reporter.timed_batches(batches), start_step + 1):
            if freeze is not None and step > plan.last_frozen_step:
                freeze = None
                state = replicate(_unfrozen(experiment, unreplicate(state)))
                train_step = _train_step(experiment, normalize, freeze, debug_nans)
                reporter.say(f"All parameters train from step {step} on.")
            if step == 1:
                reporter.write_image(0, "filters", first_filters, experiment.model, state)
                reporter.write_image(0, "inputs", first_inputs, experiment, normalize, batch)
            if profile is not None:
                profile.before(step)
            state, metrics = train_step(state, batch)
            if profile is not None and profile.after(step, metrics):
                reporter.say(f"The trace of the steps until {step} is in {profile.folder}.")
            reporter.step(metrics)
            signals.install()  # until the first step is compiled and done there is nothing to save
            if plan.logs(step):
                recent = reporter.recent()
                check_finite(recent)
                if (values := reporter.training(recent)) is not None:
                    skipped += values["skipped"]
                    inputs.check_skipped(skipped)
                    reporter.write_training(step, values)
                checkpoints.check()
            if plan.ends_epoch(step):
                skipped = 0
            saves = plan.saves(step) or (
                plan.logs(step) and _minutes_have_passed(experiment.save_every_minutes, saved_at)
            )
            if plan.checks_replicas(step, saves=saves):
                check_replicas(state, step)
            if saves:  # before the evaluation, which may fail
                with reporter.paused():
                    save()
                saved_at = time.monotonic()
            if plan.evaluates(step):
                evaluate_now(step)
                state = _with_plateau(experiment, state, evaluations, reporter)
            stop_if_requested(
                may_ask=plan.logs(step) or step % ASK_EVERY == 0,
                preempted=distributed.is_preempted(step),
            )
        checkpoints.wait()
        # An error of the main process ends the others, too.
        distributed.main_process_first("metrics", reporter.flush)
        distributed.main_process_first("exported", lambda: _export(experiment, workdir, state))
        if experiment.best_by is not None:
            best = checkpoints.read_best(rank, ema=experiment.best_by.startswith(EMA))
            export_best = functools.partial(
                _export_best, experiment, workdir, checkpoints.best, best, evaluations, reporter
            )
            distributed.main_process_first("exported best", export_best)
        stop_if_requested(may_ask=True)
    distributed.barrier("trained")


def _initial_state(experiment: Experiment, *, resuming: bool) -> tuple[TrainState, list[str]]:
    """The state before the first step, and the heads that ``init_from`` does not fit."""
    model = experiment.model
    state = init_state(
        model,
        experiment.optimizer,
        experiment.image_shape,
        seed=experiment.seed,
        freeze=experiment.freeze,
        with_ema=experiment.with_ema,
    )
    if experiment.init_from is None or resuming:
        return state, []
    others = has_other_classes(experiment.init_from, experiment.inputs.train.classes)
    variables, reinitialized = initialize_from(
        state.variables,
        model,
        experiment.name,
        experiment.init_from,
        reinitialize=model.classifier if others else (),
    )
    state = dataclasses.replace(
        state, params=variables["params"], batch_stats=variables.get("batch_stats", {})
    )
    if experiment.with_ema:
        state = dataclasses.replace(state, ema=state.variables)
    return state, reinitialized


def _resumed(
    experiment: Experiment, state: TrainState, checkpoints: Checkpoints
) -> tuple[TrainState, Freeze | None]:
    """The state of the newest intact checkpoint, if any, and what does not train after it."""

    def is_unfrozen(step: int) -> bool:
        return experiment.freeze is not None and step > experiment.plan.last_frozen_step

    def like(step: int) -> TrainState:
        return _unfrozen(experiment, state) if is_unfrozen(step) else state

    saved = checkpoints.restore_newest(like)
    if saved is None:
        return state, experiment.freeze
    return saved, None if is_unfrozen(int(saved.step)) else experiment.freeze


def _unfrozen(experiment: Experiment, state: TrainState) -> TrainState:
    """The state from which everything trains; new optimizer state is initial."""
    everything = jax.jit(experiment.optimizer.init)(state.params)
    return dataclasses.replace(state, opt_state=carry_over(state.opt_state, everything))


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


def _check_evaluations(
    experiment: Experiment, step: int, evaluations: Mapping[int, Any], workdir: Path
) -> None:
    """Check that the evaluations are there on which the learning rate depends.

    Raises:
        UserError: on all processes, if one is missing.
    """
    plan = experiment.plan
    if experiment.plateau is None:
        return
    ends_of_epochs = range(plan.steps_per_epoch, step + 1, plan.steps_per_epoch)
    missing = any(plan.evaluates(end) and end not in evaluations for end in ends_of_epochs)
    if distributed.any_process(missing and distributed.is_main_process()):
        raise UserError(
            f"{workdir / METRICS} lacks evaluations of earlier steps, on which "
            f"config.schedule=plateau depends; restore it, or start again in another --workdir."
        )


def _export(experiment: Experiment, workdir: Path, state: TrainState) -> None:
    """Write the final variables, and their average, under torch's names."""
    if not distributed.is_main_process():
        return
    with _writing(f"The weights cannot be written to {workdir}"):
        save_torch(workdir / WEIGHTS, unreplicate(state.variables))
        if experiment.with_ema:
            save_torch(workdir / EMA_WEIGHTS, unreplicate(state.ema))


def _export_best(
    experiment: Experiment,
    workdir: Path,
    step: int | None,
    variables: Any,
    evaluations: Mapping[int, Mapping[str, float]],
    reporter: Reporter,
) -> None:
    """Write the variables of the best checkpoint, or their average, under torch's names."""
    if not distributed.is_main_process():
        return
    name = experiment.best_by
    if step is None:
        reporter.say(f"No checkpoint with {name} is intact: {BEST_WEIGHTS} is not written.")
        return
    with _writing(f"The weights cannot be written to {workdir}"):
        save_torch(workdir / BEST_WEIGHTS, variables)
    reporter.say(
        f"The best checkpoint is that of step {step} ({name} {evaluations[step][name]:.4f}); its "
        f"weights are in {workdir / BEST_WEIGHTS}."
    )


def _save_examples(examples: Examples, experiment: Experiment, step: int, workdir: Path) -> None:
    """Write what pictures of the last evaluation are made from."""
    mistakes = examples.worst_mistakes(MISTAKES)
    images = experiment.inputs.evaluation.images(examples.number[mistakes])
    with _writing(f"{LAST_EVALUATION} cannot be written to {workdir}"):
        saved = SavedEvaluation(step, examples, mistakes, images)
        save_evaluation(workdir / LAST_EVALUATION, saved)


@contextlib.contextmanager
def _writing(failure: str) -> Iterator[None]:
    """Report an OSError within the block as a UserError."""
    try:
        yield
    except OSError as error:
        in_a_bucket = isinstance(error.filename, str) and in_bucket(error.filename)
        remedy = "check the network" if in_a_bucket else "make room"
        raise UserError(
            f"{failure} ({error.strerror}); the last checkpoint is there: {remedy}, and start "
            f"the same command again."
        ) from error


@contextlib.contextmanager
def _memory_errors(advice: str) -> Iterator[None]:
    """Report within the block that a device has too little memory as a UserError with advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = one_sentence(error).partition("RESOURCE_EXHAUSTED: ")[2][:200].rstrip(".")
        raise UserError(f"Out of memory{advice}. What was saved is kept. ({reason}.)") from error


def _less_memory(experiment: Experiment) -> str:
    batch, devices = experiment.plan.batch_size, jax.device_count()
    parts, own = experiment.accumulate_steps, batch // devices
    sentence = (
        f": config.batch_size={batch} with config.accumulate_steps={parts} is {own // parts} "
        f"image(s) at once on each of {devices} device(s)"
    )
    more = next((n for n in range(parts + 1, own + 1) if own % n == 0), None)
    if more is None:
        return f"{sentence}; use smaller images, more devices, or config.dtype=bfloat16"
    return (
        f"{sentence}; set config.accumulate_steps={more}, which computes {own // more} at once, "
        f"and start the same command again (or lower config.batch_size in another --workdir)"
    )


def _less_memory_in_evaluation(experiment: Experiment) -> str:
    batch = experiment.inputs.evaluation.batch_size
    return (
        f" in the evaluation, which scores {batch} images at once on {jax.device_count()} "
        f"device(s); set a lower config.eval.batch_size, and start the same command again"
    )


def _evaluations_until(step: int, workdir: Path) -> dict[int, dict[str, Any]]:
    """The evaluations of earlier processes, by step; read by every process."""
    found = evaluations_in(workdir / METRICS)
    return {number: found[number] for number in sorted(found) if number <= step}


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
    experiment: Experiment, normalize: Normalize, freeze: Freeze | None, debug_nans: bool
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


def _diverged(problem: str, step: int, rate: float, directory: Path) -> UserError:
    """The error that a run cannot go on from a step.

    Args:
        problem: the clause that says why.
        step: the step.
        rate: its learning rate.
        directory: of the checkpoints.
    """
    good = [saved for saved in saved_steps(directory) if saved < step]
    kept = f"the last good checkpoint is that of step {good[-1]}" if good else "nothing is saved"
    return UserError(
        f"{problem} in step {step}, at a learning rate of {rate:g}; {kept} in {directory}. "
        f"{NONFINITE_REMEDY}"
    )
