"""The exponential moving average of the variables, as torchvision's reference takes it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True)
class Ema:
    """``ExponentialMovingAverage`` of torchvision's ``references/classification/utils.py``.

    Parameters and batch statistics are averaged after every ``every_steps`` steps of an epoch, from
    its first on. During the warm-up of the learning rate, and once after it, the average is a copy
    instead.

    Attributes:
        decay: of the average, per update.
        every_steps: steps from one update to the next.
        steps_per_epoch: number of steps per epoch.
        warmup_epochs: length of the warm-up.

    Example::

        ema = Ema.adjusted(0.99998, every_steps=32, batch_size=1024, num_epochs=600,
                           steps_per_epoch=1251, warmup_epochs=5)
        average = ema.update(average, state.variables, state.step)
    """

    decay: float
    every_steps: int
    steps_per_epoch: int
    warmup_epochs: float = 0.0

    @classmethod
    def adjusted(cls, decay: float, *, batch_size: int, num_epochs: int, **kwargs: Any) -> "Ema":
        """With the decay adjusted by batch size and epochs, as torchvision's ``train.py`` does.

        ``1 - decay`` is multiplied by ``batch_size * every_steps / num_epochs`` and is at most 1,
        where the average is a copy.

        Args:
            decay: as published, such as 0.99998.
            batch_size: over all devices.
            num_epochs: of the run.
            **kwargs: the other attributes.
        """
        alpha = (1.0 - decay) * batch_size * kwargs["every_steps"] / num_epochs
        return cls(decay=1.0 - min(1.0, alpha), **kwargs)

    def update(self, average: Any, variables: Any, step: jax.Array) -> Any:
        """The average after a step.

        Args:
            average: the average so far; a tree like ``variables``.
            variables: after the step.
            step: the number of the step, from 0.
        """
        epoch, position = jnp.divmod(step, self.steps_per_epoch)
        due = position % self.every_steps == 0
        # The epoch of the update before this one; -1 before the first.
        previous = jnp.where(position >= self.every_steps, epoch, epoch - 1)
        decay = jnp.where(previous < self.warmup_epochs, 0.0, self.decay)

        def averaged() -> Any:
            return jax.tree.map(
                lambda a, v: jnp.where(
                    decay > 0, decay.astype(a.dtype) * a + (1 - decay).astype(a.dtype) * v, v
                ),
                average,
                variables,
            )

        return lax.cond(due, averaged, lambda: average)
