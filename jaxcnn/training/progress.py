"""What a person sees while a run goes on."""

import contextlib
import datetime
import sys
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
from tqdm import tqdm

T = TypeVar("T")


def warn(text: str) -> None:
    """Writes a line to stderr, above the bar if there is one; any process may."""
    tqdm.write(text, file=sys.stderr)


class Progress:
    """A progress bar; plain lines where the output is no terminal; nothing where not ``shown``.

    Also keeps the clock: evaluation and checkpoints do not count in images a second.

    Args:
        start_step: the step that the run begins with.
        num_steps: the step that it ends with.
        steps_per_epoch: how many steps an epoch has.
        batch_size: images a step, over all devices.
        shown: whether this process speaks.
    """

    def __init__(
        self,
        *,
        start_step: int,
        num_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        shown: bool,
    ):
        self._num_steps, self._steps_per_epoch = num_steps, steps_per_epoch
        self._batch_size, self._shown = batch_size, shown
        self._bar = None
        if shown and sys.stdout.isatty():
            self._bar = tqdm(
                total=num_steps,
                initial=start_step,
                unit="step",
                dynamic_ncols=True,
                file=sys.stdout,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
            )
        self._seconds, self._waited, self._steps = 0.0, 0.0, 0  # of this lap, without pauses
        self._since: float | None = None  # None: the clock stands

    def stepped(self, result: Any) -> None:
        """One more step was taken; the clock starts after the first, which compiles."""
        if self._since is None:
            jax.block_until_ready(result)
            self._since = time.perf_counter()
        else:
            self._steps += 1
        if self._bar is not None:
            self._bar.update()

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time until each is there counts as waited for input."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if self._since is not None:
                self._waited += time.perf_counter() - began
            yield batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training."""
        self._seconds += time.perf_counter() - self._since
        yield
        self._since = time.perf_counter()

    def lap(self) -> dict[str, float]:
        """``images_per_second`` since the last lap, and ``input_wait``, the part of that time.

        Nothing where no step was timed.
        """
        now = time.perf_counter()
        seconds, waited, steps = self._seconds + now - self._since, self._waited, self._steps
        self._seconds, self._waited, self._steps, self._since = 0.0, 0.0, 0, now
        if not steps:
            return {}
        return {
            "images_per_second": steps * self._batch_size / seconds,
            "input_wait": waited / seconds,
        }

    def report(self, step: int, values: dict[str, Any]) -> None:
        """Shows training metrics, as :mod:`jaxcnn.training.metrics` writes them."""
        parts = [f"loss {values['loss']:.4f}", f"top-1 {values['top1']:.2%}"]
        if rate := values.get("images_per_second"):
            left = (self._num_steps - step) * self._batch_size / rate
            parts.append(f"{rate:,.0f} images/s")
            parts.append(f"{datetime.timedelta(seconds=round(left))} left")
        epochs = self._num_steps // self._steps_per_epoch
        label = f"epoch {-(-step // self._steps_per_epoch)}/{epochs}"
        if self._bar is not None:
            self._bar.set_description(label, refresh=False)
            self._bar.set_postfix_str(", ".join(parts))
        else:
            self.say(f"{label}  step {step}/{self._num_steps}  {'  '.join(parts)}")

    def report_eval(self, epoch: int, values: dict[str, Any]) -> None:
        """Shows the metrics of an evaluation."""
        self.say(
            f"epoch {epoch}: eval loss {values['loss']:.4f}  top-1 {values['top1']:.2%}  "
            f"top-5 {values['top5']:.2%}  of {values['examples']:,} examples"
        )

    def say(self, text: str) -> None:
        """Writes a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        elif self._shown:
            print(text, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is and ends its line."""
        if self._bar is not None:
            self._bar.close()
