"""The learning rate as a function of the step, as torch's schedulers compute it."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UserError, suggest

SCHEDULES = ("constant", "step", "multistep", "exponential", "cosine", "polynomial", "plateau")
SCHEDULE_UNITS = ("epoch", "step")
WARMUPS = ("linear", "constant")


def make_schedule(
    name: str,
    learning_rate: float,
    *,
    steps_per_epoch: int,
    num_epochs: int,
    by: str = "step",
    warmup_epochs: float = 0.0,
    warmup_method: str = "linear",
    warmup_decay: float = 0.01,
    decay_epochs: float = 30,
    decay_factor: float = 0.1,
    milestones: Sequence[float] = (),
    power: float = 1.0,
    min_learning_rate: float = 0.0,
) -> optax.Schedule:
    """The learning rate as a function of the step.

    After the warm-up a schedule starts to count, as in torch's ``SequentialLR``:

    * ``"constant"``;
    * ``"step"``: times ``decay_factor`` every ``decay_epochs`` (``StepLR``; He et al. 2015);
    * ``"multistep"``: times ``decay_factor`` at each of the ``milestones`` (``MultiStepLR``);
    * ``"exponential"``: times ``decay_factor`` per epoch (``ExponentialLR``);
    * ``"cosine"``: half a cosine down to ``min_learning_rate`` at the end of the run
      (``CosineAnnealingLR``; Loshchilov and Hutter 2016);
    * ``"polynomial"``: down to zero at the end, by the fraction that is left to the power of
      ``power`` (``PolynomialLR``);
    * ``"plateau"``: constant here; a :class:`Plateau` lowers it after evaluations.

    Args:
        name: one of ``SCHEDULES``.
        learning_rate: the highest learning rate.
        steps_per_epoch: number of steps per epoch.
        num_epochs: number of epochs of the run.
        by: ``"epoch"``: the rate changes between epochs, as in torchvision's reference;
            ``"step"``: at every step.
        warmup_epochs: length of the warm-up (Goyal et al. 2017).
        warmup_method: ``"linear"``: from ``warmup_decay`` times the rate up to the rate
            (``LinearLR``); ``"constant"``: ``warmup_decay`` times the rate (``ConstantLR``).
        warmup_decay: see ``warmup_method``.
        decay_epochs: see ``"step"``, more than 0.
        decay_factor: see the schedules.
        milestones: epochs, counted from the end of the warm-up.
        power: see ``"polynomial"``.
        min_learning_rate: see ``"cosine"``.

    Returns:
        A function of the step's number, of the default float dtype (float64 with
        ``jax_enable_x64``).

    Raises:
        UserError: for an unknown schedule, unit or warm-up, or ``decay_epochs`` that are not
            above 0.

    Example::

        schedule = make_schedule("cosine", 0.1, steps_per_epoch=100, num_epochs=90)
        schedule(0)  # 0.1
    """
    for what, value, known in (
        ("schedule", name, SCHEDULES),
        ("unit of schedules", by, SCHEDULE_UNITS),
        ("warm-up", warmup_method, WARMUPS),
    ):
        if value not in known:
            raise UserError(f"There is no {what} {value!r}; {suggest(value, known)}")
    if not decay_epochs > 0:
        raise UserError(f"decay_epochs is {decay_epochs}; it must be above 0.")
    # The rate changes once per tick.
    ticks_per_epoch = steps_per_epoch if by == "step" else 1
    steps_per_tick = steps_per_epoch // ticks_per_epoch
    warmup_ticks = round(warmup_epochs * ticks_per_epoch)
    decay_ticks = max(1, round(decay_epochs * ticks_per_epoch))
    milestone_ticks = [round(epoch * ticks_per_epoch) for epoch in milestones]
    last_tick = max(1, num_epochs * ticks_per_epoch - warmup_ticks)

    def decayed(tick: jax.Array) -> jax.Array | float:
        real = tick.astype(jnp.result_type(float))
        # Decays are counted in integers: compiled, a float division may fall short of a whole one.
        if name == "step":
            return learning_rate * decay_factor ** (tick // decay_ticks).astype(real.dtype)
        if name == "multistep":
            reached = sum((tick >= milestone).astype(real.dtype) for milestone in milestone_ticks)
            return learning_rate * decay_factor**reached
        if name == "exponential":
            return learning_rate * decay_factor ** (real / ticks_per_epoch)
        fraction = jnp.minimum(real / last_tick, 1.0)
        if name == "cosine":
            half_cosine = (1 + jnp.cos(math.pi * fraction)) / 2
            return min_learning_rate + (learning_rate - min_learning_rate) * half_cosine
        if name == "polynomial":
            return learning_rate * (1 - fraction) ** power
        return learning_rate

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        tick = jnp.asarray(count, int) // steps_per_tick
        rate = jnp.asarray(decayed(jnp.maximum(tick - warmup_ticks, 0)), jnp.result_type(float))
        if not warmup_ticks:
            return rate
        risen = tick / warmup_ticks if warmup_method == "linear" else 0.0
        warmup = learning_rate * (warmup_decay + (1 - warmup_decay) * risen)
        return jnp.where(tick < warmup_ticks, warmup, rate)

    return schedule


@dataclasses.dataclass(frozen=True)
class Plateau:
    """``torch.optim.lr_scheduler.ReduceLROnPlateau``: a lower rate where evaluations stagnate.

    Krizhevsky et al. 2012 (section 5) and Zeiler and Fergus 2013 (section 3) did so by hand.

    Attributes:
        metric: ``"loss"``, which is to fall, or ``"top1"``, which is to rise.
        learning_rate: the rate before any reduction.
        factor: what the rate is multiplied by.
        patience: number of evaluations without improvement that are tolerated.
        threshold: an improvement is larger than this fraction of the best value.
        min_learning_rate: the lowest rate.
    """

    metric: str = "loss"
    learning_rate: float = 0.1
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    min_learning_rate: float = 0.0

    def rate_factor(self, values: Sequence[float]) -> float:
        """What the learning rate is multiplied by after a run's evaluations.

        Args:
            values: of the metric, one per evaluation so far.
        """
        sign = 1 if self.metric == "loss" else -1
        best, bad, rate = math.inf, 0, self.learning_rate
        for value in values:
            # Relative to the best value, which is negated where it is to rise.
            if sign * value < best - self.threshold * abs(best) or math.isinf(best):
                best, bad = sign * value, 0
            else:
                bad += 1
            if bad > self.patience:
                bad = 0
                lower = max(rate * self.factor, self.min_learning_rate)
                if rate - lower > 1e-8:  # torch's eps
                    rate = lower
        return rate / self.learning_rate if self.learning_rate else 1.0
