"""Steps whose loss is NaN or infinite: when a run stops because of them, and what it says."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError
from jaxcnn.training.checkpoint_folder import saved_steps

NONFINITE_REMEDY = (
    "Lower config.learning_rate or raise config.warmup_epochs, and start again in another "
    "--workdir; or resume with config.on_nonfinite=skip. --debug_nans names the layer."
)


def describe(name: str, value: float) -> str | None:
    """A clause that says of a metric that it is NaN or infinite; None: it is not."""
    if math.isfinite(value):
        return None
    return f"The {name.replace('_', ' ')} became {'NaN' if math.isnan(value) else 'infinite'}"


class NonfiniteSteps:
    """Looks at the metrics of each step, and counts those that were skipped in a row.

    Args:
        limit: how many skipped steps in a row end a run.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._checked = 0  # the last step that was looked at
        self._in_a_row = 0  # skipped steps that end with that one

    def reason_to_stop(self, recent: Mapping[int, Mapping[str, Any]]) -> tuple[int, str] | None:
        """Why a run must stop, and at which step it came to that.

        Args:
            recent: the metrics of steps, by number and rising; those that it has seen are ignored.
                Those of a step that is skipped have ``finite`` false; without ``finite`` none is.

        Returns:
            The step and a clause; None: it need not stop.
        """
        for step, metrics in recent.items():
            if step <= self._checked:
                continue
            self._checked = step
            if "finite" not in metrics:
                for name, value in sorted(metrics.items(), key=lambda item: item[0] != "loss"):
                    if problem := describe(name, float(value)):
                        return step, problem
            self._in_a_row = 0 if metrics.get("finite", True) else self._in_a_row + 1
            if self._in_a_row == self._limit:
                return step, (
                    f"{self._limit} steps in a row were skipped because their loss, gradients or "
                    f"statistics are NaN or infinite (config.max_nonfinite), the last"
                )
        return None


def diverged(problem: str, step: int, rate: float, directory: Path) -> UserError:
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
