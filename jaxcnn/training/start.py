"""Where a run starts: initial weights, or the newest checkpoint and what was evaluated until it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxcnn.convert.pretrained import initialize_from
from jaxcnn.errors import UserError
from jaxcnn.training import distributed
from jaxcnn.training.build import Experiment
from jaxcnn.training.checkpoints import Checkpoints
from jaxcnn.training.optimizer import carry_over
from jaxcnn.training.parameters import Freeze
from jaxcnn.training.reporting import evaluations_in
from jaxcnn.training.step import TrainState, init_state
from jaxcnn.training.workdir import METRICS, has_other_classes


def initial_state(experiment: Experiment, *, resuming: bool) -> tuple[TrainState, list[str]]:
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


def resumed(
    experiment: Experiment, state: TrainState, checkpoints: Checkpoints
) -> tuple[TrainState, Freeze | None]:
    """The state of the newest intact checkpoint, if any, and what does not train after it."""

    def is_unfrozen(step: int) -> bool:
        return experiment.freeze is not None and step > experiment.plan.last_frozen_step

    def like(step: int) -> TrainState:
        return unfrozen(experiment, state) if is_unfrozen(step) else state

    saved = checkpoints.restore_newest(like)
    if saved is None:
        return state, experiment.freeze
    return saved, None if is_unfrozen(int(saved.step)) else experiment.freeze


def unfrozen(experiment: Experiment, state: TrainState) -> TrainState:
    """The state from which everything trains; new optimizer state is initial."""
    everything = jax.jit(experiment.optimizer.init)(state.params)
    return dataclasses.replace(state, opt_state=carry_over(state.opt_state, everything))


def evaluations_until(step: int, workdir: Path) -> dict[int, dict[str, Any]]:
    """The evaluations of earlier processes, by step; read by every process."""
    found = evaluations_in(workdir / METRICS)
    return {number: found[number] for number in sorted(found) if number <= step}


def check_evaluations(
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
