"""What a run reports: metrics in files, and lines or a progress bar for the user."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from optax import Schedule

from jaxcnn.training import distributed
from jaxcnn.training.best import EMA
from jaxcnn.training.devices import unreplicate
from jaxcnn.training.metrics import MetricsWriter, read_metrics
from jaxcnn.training.plan import Plan
from jaxcnn.training.progress import Clock, Progress, warn

# The splits of metrics.jsonl beside "train": evaluations of the variables, and of their average.
EVALUATION, EMA_EVALUATION = "eval", "eval_ema"


class Reporter:
    """Collects the metrics of steps, and writes and shows their means.

    Every process has one; that of the main process writes and prints.

    Args:
        workdir: an existing folder.
        plan: the run's.
        schedule: the learning rate by step.
        start_step: the step from which the run starts.
        evaluate_again: whether that step will be evaluated, again if it was in part.

    Attributes:
        rate_factor: what the learning rate is multiplied by, beside its schedule.
    """

    def __init__(
        self,
        workdir: Path,
        plan: Plan,
        schedule: Schedule,
        start_step: int,
        *,
        evaluate_again: bool = False,
    ):
        main = distributed.is_main_process()
        self._plan, self._schedule = plan, schedule
        self._writer = None
        if main:
            dropped = (EVALUATION, EMA_EVALUATION) if evaluate_again else ()
            self._writer = MetricsWriter(workdir, start_step, without=dropped, report=warn)
        self._progress = Progress(plan, start_step=start_step, shown=main)
        self._clock = Clock(plan.batch_size)
        self._recent: list[Any] = []  # metrics of the steps since the last line, on the devices
        self._step = start_step
        self._skipped = 0  # bad images since then, on this host
        self.rate_factor = 1.0
        self.say = self._progress.say

    def timed_batches(self, batches: Iterator[tuple[Any, int]]) -> Iterator[Any]:
        """The batches without their counts of bad images, which are kept for the next line."""
        shape = None
        for batch, skipped in self._clock.timed(batches):
            self._skipped += skipped
            if batch["image"].shape != shape:  # of progressive resizing
                self.compiles()
            shape = batch["image"].shape
            yield batch

    def compiles(self) -> None:
        """Do not count the time from now to the end of the next step, which compiles."""
        if self._recent:
            jax.block_until_ready(self._recent[-1])
        self._clock.compiles()

    def step(self, metrics: Any) -> None:
        """Note the replicated metrics of a step, which the devices may still be computing."""
        self._step += 1
        self._recent.append(metrics)
        if len(self._recent) > 1:
            jax.block_until_ready(self._recent[-2])  # or batches would pile up on the devices
        self._clock.step(metrics)
        self._progress.step()

    def recent(self) -> dict[int, dict[str, np.ndarray]]:
        """The metrics of each step since the last line, by its number; waits for the devices."""
        first = self._step - len(self._recent) + 1
        return {step: unreplicate(values) for step, values in enumerate(self._recent, first)}

    def training(self, recent: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, float] | None:
        """The means over the steps since the last line; every process must call this.

        Args:
            recent: from :meth:`recent`.

        Returns:
            The metrics of the steps, ``learning_rate`` (of the last), ``skipped`` (bad images over
            all hosts), and where steps were timed ``images_per_second`` and ``input_wait``. Where
            steps with NaN or infinity are skipped, the means are over the others, and
            ``skipped_steps`` is how many those are; None if that is all of them: they come with the
            next line.
        """
        steps = [dict(values) for values in recent.values()]
        finite = [values for values in steps if values.pop("finite", True)]
        if not finite:
            return None
        values = _means(finite) | {
            "learning_rate": self.learning_rate(self._step),
            "skipped": distributed.sum_over_processes(self._skipped),
        }
        if any("finite" in values for values in recent.values()):
            values["skipped_steps"] = len(steps) - len(finite)
        values |= self._clock.lap()
        self._recent.clear()
        self._skipped = 0
        return values

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step."""
        return float(self._schedule(step - 1)) * self.rate_factor

    def write_training(self, step: int, values: dict[str, float]) -> None:
        """Write and show what :meth:`training` returned."""
        if self._writer is not None:
            self._writer.write(step, self._plan.epoch(step), "train", **values)
        self._progress.show(step, values)

    def write_evaluation(
        self, step: int, values: dict[str, float | int], split: str = EVALUATION
    ) -> None:
        """Write and show the means of an evaluation."""
        epoch = step // self._plan.steps_per_epoch
        if self._writer is not None:
            self._writer.write(step, epoch, split, **values)
        self.say(
            f"epoch {epoch}: {split.replace('_', ' ')} loss {values['loss']:.4f}  "
            f"top-1 {values['top1']:.2%}  "
            f"top-5 {values['top5']:.2%}  of {values['examples']:,} examples"
        )

    def write_image(
        self, step: int, name: str, make: Callable[..., np.ndarray], *args: Any
    ) -> None:
        """Write the image ``make(*args)`` for TensorBoard; it is made on the main process only."""
        if self._writer is not None:
            self._writer.write_image(step, name, make(*args))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time within the block as training."""
        with self._clock.paused():
            yield

    def flush(self) -> None:
        """Have all lines in the workdir, before a checkpoint says that the run came so far.

        Raises:
            UserError: on the main process, if they cannot be written there.
        """
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the files and end the progress bar's line."""
        self._progress.close()
        if self._writer is not None:
            self._writer.close()


def evaluations_in(path: Path) -> dict[int, dict[str, Any]]:
    """The evaluations in a ``metrics.jsonl``, by step; the average's figures as ``ema_top1``."""
    evaluations: dict[int, dict[str, Any]] = {}
    for line in read_metrics(path):
        if line["split"] in (EVALUATION, EMA_EVALUATION):
            of_average = line["split"] == EMA_EVALUATION
            values = with_ema_names(line) if of_average else line
            evaluations.setdefault(line["step"], {}).update(values)
    return evaluations


def with_ema_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation of the average, ``top1`` as ``ema_top1``."""
    return {EMA + name: value for name, value in values.items()}


def _means(metrics: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Means over steps."""
    return {name: float(np.mean([values[name] for values in metrics])) for name in metrics[0]}
