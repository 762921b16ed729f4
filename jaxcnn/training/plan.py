"""What is due at which step of a run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a run, and the steps after which something is due.

    Steps are counted from 1: "step 3" is the state after three steps.

    Attributes:
        steps_per_epoch: number of steps per epoch.
        num_epochs: number of epochs.
        batch_size: images per step, over all devices.
        log_every_steps: steps from one line of metrics to the next; an epoch ends with one too.
        evaluate_every_epochs: epochs from one evaluation to the next; the run ends with one too.
        save_every_epochs: epochs from one checkpoint to the next; the run ends with one too.
        save_every_steps: steps from one checkpoint to the next, beside those; None: none.
        save_evaluated: whether there is a checkpoint for each evaluation, too.
        check_replicas_every: steps from one comparison of the replicas to the next; there is one
            before each checkpoint, too. 0: none at all.
        unfreeze_epoch: the epochs after which what is frozen trains, too; None: never.
    """

    steps_per_epoch: int
    num_epochs: int
    batch_size: int
    log_every_steps: int = 100
    evaluate_every_epochs: int = 1
    save_every_epochs: int = 1
    save_every_steps: int | None = None
    save_evaluated: bool = False
    check_replicas_every: int = 0
    unfreeze_epoch: int | None = None

    @property
    def num_steps(self) -> int:
        """The last step."""
        return self.num_epochs * self.steps_per_epoch

    @property
    def last_frozen_step(self) -> int:
        """The last step in which what is frozen does not train."""
        epochs = self.num_epochs if self.unfreeze_epoch is None else self.unfreeze_epoch
        return epochs * self.steps_per_epoch

    def epoch(self, step: int) -> float:
        """The number of epochs after a step, with its fraction."""
        return step / self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch ends with this step."""
        return step > 0 and step % self.steps_per_epoch == 0

    def logs(self, step: int) -> bool:
        """Whether training metrics are due.

        With each checkpoint, too: a run that resumes from it has lost those of the steps before.
        """
        due = step % self.log_every_steps == 0 or self.ends_epoch(step)
        return due or self._saves_by_steps(step)

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due."""
        return self._due(step, self.evaluate_every_epochs)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due."""
        due = self._due(step, self.save_every_epochs) or self._saves_by_steps(step)
        return due or (self.save_evaluated and self.evaluates(step))

    def _saves_by_steps(self, step: int) -> bool:
        return self.save_every_steps is not None and step > 0 and step % self.save_every_steps == 0

    def checks_replicas(self, step: int, *, saves: bool) -> bool:
        """Whether the replicas are to be compared, if a checkpoint is saved or not."""
        every = self.check_replicas_every
        return bool(every) and (saves or step % every == 0)

    def _due(self, step: int, every_epochs: int) -> bool:
        every = every_epochs * self.steps_per_epoch
        return self.ends_epoch(step) and (step % every == 0 or step == self.num_steps)
