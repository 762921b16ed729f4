"""The progress bar, or lines of text, and the clock behind them."""

import contextlib
import datetime
import sys
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
from tqdm import tqdm

from jaxcnn.training.plan import Plan

T = TypeVar("T")


def warn(text: str) -> None:
    """Write a line to stderr, above the progress bar if there is one; any process may."""
    tqdm.write(text, file=sys.stderr)


class Clock:
    """Measures training steps; evaluation, checkpoints and compilation do not count.

    Args:
        batch_size: images per step, over all devices.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._seconds, self._waited, self._steps = 0.0, 0.0, 0  # of this lap, without pauses
        self._since: float | None = None  # None: not started

    def compiles(self) -> None:
        """Leave the next step out, as it compiles; the clock starts again after it."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def step(self, result: Any) -> None:
        """Count a step; the clock starts after the first one, which compiles."""
        if self._since is None:
            jax.block_until_ready(result)
            self._since = time.perf_counter()
        else:
            self._steps += 1

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time until each arrives counts as waiting for input."""
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if self._since is not None:
                self._waited += time.perf_counter() - asked
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the block."""
        running = self._since is not None
        if running:
            self._seconds += time.perf_counter() - self._since
        yield
        if running:
            self._since = time.perf_counter()

    def lap(self) -> dict[str, float]:
        """``images_per_second`` since the last lap, and ``input_wait``, the fraction spent waiting.

        Empty where no step was timed.
        """
        now = time.perf_counter()
        seconds, waited, steps = self._seconds, self._waited, self._steps
        if self._since is not None:
            seconds += now - self._since
            self._since = now
        self._seconds, self._waited, self._steps = 0.0, 0.0, 0
        if not steps:
            return {}
        return {
            "images_per_second": steps * self._batch_size / seconds,
            "input_wait": waited / seconds,
        }


class Progress:
    """A progress bar in a terminal, plain lines elsewhere, nothing where not ``shown``.

    Args:
        plan: the run's.
        start_step: the step from which the run starts.
        shown: whether this process prints.
    """

    def __init__(self, plan: Plan, *, start_step: int, shown: bool):
        self._plan, self._shown = plan, shown
        self._bar = None
        if shown and sys.stdout.isatty():
            self._bar = tqdm(
                total=plan.num_steps,
                initial=start_step,
                unit="step",
                dynamic_ncols=True,
                file=sys.stdout,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
            )

    def step(self) -> None:
        """Count a step."""
        if self._bar is not None:
            self._bar.update()

    def show(self, step: int, values: dict[str, Any]) -> None:
        """Show training metrics."""
        plan = self._plan
        parts = [f"loss {values['loss']:.4f}", f"top-1 {values['top1']:.2%}"]
        if rate := values.get("images_per_second"):
            left = (plan.num_steps - step) * plan.batch_size / rate
            parts.append(f"{rate:,.0f} images/s")
            parts.append(f"{datetime.timedelta(seconds=round(left))} left")
        label = f"epoch {-(-step // plan.steps_per_epoch)}/{plan.num_epochs}"
        if self._bar is not None:
            self._bar.set_description(label, refresh=False)
            self._bar.set_postfix_str(", ".join(parts))
        else:
            self.say(f"{label}  step {step}/{plan.num_steps}  {'  '.join(parts)}")

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        elif self._shown:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
        if self._bar is not None:
            self._bar.close()
