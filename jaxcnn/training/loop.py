"""The training run: from an experiment to a trained network and its metrics in the workdir."""

import contextlib
import dataclasses
import functools
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn.convert.pretrained import initialize_from
from jaxcnn.convert.variables import save_torch
from jaxcnn.errors import UserError
from jaxcnn.training import distributed
from jaxcnn.training.augmentation import Normalize
from jaxcnn.training.best import EMA, has, ranked
from jaxcnn.training.build import Experiment
from jaxcnn.training.checkpoints import Checkpoints
from jaxcnn.training.devices import pmap, replicate, unreplicate
from jaxcnn.training.evaluation import Examples, SavedEvaluation, evaluate, save_evaluation
from jaxcnn.training.monitoring import first_filters, first_inputs
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
)

MISTAKES = 32  # images of the worst ones that are kept
ASK_EVERY = 10  # steps between asking the other processes whether they were told to stop


def train_and_evaluate(
    experiment: Experiment, workdir: Path, *, profile: Profile | None = None
) -> None:
    """Train a network, or resume the run if the workdir already contains it.

    Args:
        experiment: from :func:`jaxcnn.training.build.build`.
        workdir: where ``config.json``, ``metrics.jsonl``, TensorBoard events, ``checkpoints/``
            and in the end ``weights.safetensors`` (and its like) are written.
        profile: traces some of the steps; None: none.

    Raises:
        UserError: if the workdir or the weights cannot be used, too many images are bad, the loss
            became NaN or infinite, the replicas differ, or a checkpoint cannot be saved.
        Stopped: after SIGTERM or SIGINT, with the state saved.
    """
    plan, inputs = experiment.plan, experiment.inputs
    _announce(experiment, workdir)
    state, reinitialized = _initial_state(experiment, resuming=has_checkpoint(workdir))
    _claim(experiment, workdir)
    with contextlib.ExitStack() as stack:
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
        train_step = _train_step(experiment, normalize, freeze)
        eval_step = pmap(make_eval_step(experiment.model, normalize=normalize))
        batches = stack.enter_context(
            contextlib.closing(inputs.train_batches(start_step, plan.num_steps))
        )
        state = replicate(state)
        skipped = 0  # bad images of this epoch, over all hosts

        def evaluate_now(step: int) -> None:
            with reporter.paused():
                last = step == plan.num_steps
                evaluation = evaluate(
                    eval_step, state.variables, inputs.evaluation, with_examples=last
                )
                _check_finite(evaluation.means["loss"], step, workdir)
                of_average = None
                if experiment.with_ema:
                    of_average = evaluate(eval_step, state.ema, inputs.evaluation)
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

        if experiment.best_by is not None:
            checkpoints.find_best(rank)
        if lacking:
            evaluate_now(start_step)
        _check_evaluations(experiment, start_step, evaluations, workdir)
        state = _with_plateau(experiment, state, evaluations, reporter)
        signals.install()
        saved_at = time.monotonic()
        for step, batch in enumerate(reporter.timed_batches(batches), start_step + 1):
            if freeze is not None and step > plan.last_frozen_step:
                freeze = None
                state = replicate(_unfrozen(experiment, unreplicate(state)))
                train_step = _train_step(experiment, normalize, freeze)
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
            if plan.logs(step):
                values = reporter.training(step)
                _check_finite(values["loss"], step, workdir)
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
                    checkpoints.save(state)
                saved_at = time.monotonic()
            if plan.evaluates(step):
                evaluate_now(step)
                state = _with_plateau(experiment, state, evaluations, reporter)
            may_ask = plan.logs(step) or step % ASK_EVERY == 0
            if step < plan.num_steps and (number := _stop_requested(signals, may_ask)):
                if plan.checks_replicas(step, saves=True):
                    check_replicas(state, step)
                checkpoints.save(state)
                checkpoints.wait()
                raise Stopped(number)
        checkpoints.wait()
        # An error of the main process ends the others, too.
        distributed.main_process_first("exported", lambda: _export(experiment, workdir, state))
        if experiment.best_by is not None:
            best = checkpoints.read_best(rank, ema=experiment.best_by.startswith(EMA))
            export_best = functools.partial(
                _export_best, experiment, workdir, checkpoints.best, best, evaluations, reporter
            )
            distributed.main_process_first("exported best", export_best)
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
        raise UserError(
            f"{failure} ({error.strerror}); the last checkpoint is there: make room, and start "
            f"the same command again."
        ) from error


def _evaluations_until(step: int, workdir: Path) -> dict[int, dict[str, Any]]:
    """The evaluations of earlier processes, by step; read by every process."""
    found = evaluations_in(workdir / METRICS)
    return {number: found[number] for number in sorted(found) if number <= step}


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
    experiment: Experiment, normalize: Normalize, freeze: Freeze | None
) -> Callable[[TrainState, Any], tuple[TrainState, Any]]:
    """The pmapped training step."""
    step = experiment.make_train_step(normalize=normalize, freeze=freeze)
    pmapped = pmap(step, donate_argnums=0)
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
    """The signal that any process received, agreed on by all.

    Args:
        signals: of this process.
        may_ask: whether to ask the other processes now; the same on all of them.
    """
    if distributed.is_single_process():
        return signals.received
    if may_ask and distributed.any_process(signals.received is not None):
        return signals.received or signal.SIGTERM
    return None


def _check_finite(loss: float, step: int, workdir: Path) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"The loss became NaN or infinite by step {step}; lower config.learning_rate or raise "
            f"config.warmup_epochs, and start again in another --workdir than {workdir}."
        )
