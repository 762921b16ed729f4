"""Orbax checkpoints of a replicated state: asynchronous, of which the last few are kept."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxcnn.errors import UserError
from jaxcnn.training.devices import unreplicate
from jaxcnn.training.step import TrainState

_VARIABLES = ("params", "batch_stats")


class Checkpoints:
    """The checkpoints in a folder, by step.

    One replica is saved, as host arrays, so that a checkpoint can be restored on any number of
    devices and hosts. Every process calls :meth:`save`; the main process writes.

    Args:
        directory: the folder; made if it does not exist.
        keep: how many of the last checkpoints are kept.
    """

    def __init__(self, directory: Path, *, keep: int = 3):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, create=True
        )
        self._directory = directory
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Save a replicated state in the background, unless its step is saved already.

        Raises:
            UserError: if a parameter is NaN or infinite: what was saved before stays the newest.
        """
        replica = jax.tree.map(
            lambda leaf: np.array(leaf, copy=True),  # a view of a donated buffer would change
            unreplicate(state),
        )
        step = int(replica.step)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(replica.params)):
            raise UserError(
                f"The parameters became NaN or infinite by step {step}, which is not saved in "
                f"{self._directory}; lower config.learning_rate or raise config.warmup_epochs, and "
                f"start again in another --workdir."
            )
        if step != self.latest_step:
            self._manager.save(step, args=ocp.args.StandardSave(_as_dict(replica)))

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Read a checkpoint.

        Args:
            like: an unreplicated state with the expected shapes and dtypes.
            step: of the checkpoint; None: the newest.

        Returns:
            The state as host arrays, unreplicated.

        Raises:
            UserError: if the checkpoint is damaged, or of a different model or optimiser.
        """
        step = self.latest_step if step is None else step
        wanted = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), _as_dict(like))
        try:
            saved = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        except (KeyError, ValueError) as error:
            raise UserError(
                f"The checkpoint of step {step} in {self._directory} belongs to a different model "
                f"or optimiser, or is damaged; use another --workdir, or remove that checkpoint to "
                f"resume from the one before."
            ) from error
        if jax.tree.map(np.shape, saved) != jax.tree.map(np.shape, wanted):
            raise UserError(
                f"The checkpoint of step {step} in {self._directory} belongs to a different model: "
                f"its shapes are not those of this one; use another --workdir."
            )
        return TrainState(**saved)

    def close(self) -> None:
        """Wait until the last checkpoint is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def newest_variables(directory: Path) -> dict[str, Any] | None:
    """The model's variables in the newest checkpoint of a folder, which is only read.

    Args:
        directory: of the checkpoints, while a run may be writing there.

    Returns:
        Their average where the run keeps one, as host arrays; None: there is no checkpoint.

    Raises:
        UserError: if the checkpoint is damaged.
    """
    if not directory.is_dir():
        return None
    options = ocp.CheckpointManagerOptions(create=False, enable_async_checkpointing=False)
    with ocp.CheckpointManager(directory.absolute(), options=options) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        try:
            saved = manager.restore(step, args=ocp.args.StandardRestore())
            return saved.get("ema") or {name: saved[name] or {} for name in _VARIABLES}
        except (KeyError, ValueError, OSError) as error:
            raise UserError(
                f"The checkpoint of step {step} in {directory} is damaged; remove it to use the "
                f"one before."
            ) from error


def _as_dict(state: TrainState) -> dict[str, Any]:
    saved = {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": state.opt_state,
    }
    return saved | ({"ema": state.ema} if state.ema else {})
