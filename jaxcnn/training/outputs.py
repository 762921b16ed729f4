"""What a run leaves in its workdir beside metrics and checkpoints."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxcnn.convert.variables import save_torch
from jaxcnn.errors import UserError
from jaxcnn.io.paths import in_bucket
from jaxcnn.training import distributed
from jaxcnn.training.build import Experiment
from jaxcnn.training.devices import unreplicate
from jaxcnn.training.evaluation import Examples, SavedEvaluation, save_evaluation
from jaxcnn.training.step import TrainState
from jaxcnn.training.workdir import BEST_WEIGHTS, EMA_WEIGHTS, LAST_EVALUATION, WEIGHTS

MISTAKES = 32  # images of the worst ones that are kept


def export(experiment: Experiment, workdir: Path, state: TrainState) -> None:
    """Write the final variables, and their average, under torch's names; on the main process.

    Args:
        experiment: of the run.
        workdir: where.
        state: replicated.

    Raises:
        UserError: if they cannot be written.
    """
    if not distributed.is_main_process():
        return
    with _writing(f"The weights cannot be written to {workdir}"):
        save_torch(workdir / WEIGHTS, unreplicate(state.variables))
        if experiment.with_ema:
            save_torch(workdir / EMA_WEIGHTS, unreplicate(state.ema))


def export_best(
    experiment: Experiment,
    workdir: Path,
    step: int | None,
    variables: Any,
    figures: Mapping[str, float],
    say: Callable[[str], None],
) -> None:
    """Write the variables of the best checkpoint, or their average; on the main process.

    Args:
        experiment: of the run.
        workdir: where.
        step: of the checkpoint; None: none is intact, and nothing is written.
        variables: those of the checkpoint.
        figures: of its evaluation.
        say: called with a sentence about it.

    Raises:
        UserError: if they cannot be written.
    """
    if not distributed.is_main_process():
        return
    name = experiment.best_by
    if step is None:
        say(f"No checkpoint with {name} is intact: {BEST_WEIGHTS} is not written.")
        return
    with _writing(f"The weights cannot be written to {workdir}"):
        save_torch(workdir / BEST_WEIGHTS, variables)
    say(
        f"The best checkpoint is that of step {step} ({name} {figures[name]:.4f}); its weights are "
        f"in {workdir / BEST_WEIGHTS}."
    )


def save_examples(examples: Examples, experiment: Experiment, workdir: Path, step: int) -> None:
    """Save the worst mistakes of the last evaluation, for reports.

    Args:
        examples: of the evaluation.
        experiment: of the run.
        workdir: where.
        step: of the evaluation.

    Raises:
        UserError: if they cannot be written.
    """
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
