"""SGD as ``torch.optim.SGD`` computes it, and the learning-rate schedules of the papers."""

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UserError, suggest

SCHEDULES = ("constant", "step", "cosine")


def make_schedule(
    name: str,
    learning_rate: float,
    *,
    steps_per_epoch: int,
    num_epochs: int,
    warmup_epochs: float = 0.0,
    decay_epochs: float = 30,
    decay_factor: float = 0.1,
) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
        name: ``"constant"``; ``"step"``: times ``decay_factor`` every ``decay_epochs`` (He et al.
            2015, and ``torch.optim.lr_scheduler.StepLR``); or ``"cosine"``: half a cosine down to
            zero at the end (Loshchilov and Hutter 2016).
        learning_rate: the highest learning rate.
        steps_per_epoch: number of steps per epoch.
        num_epochs: number of epochs of the run.
        warmup_epochs: the rate rises linearly from zero for that many epochs (Goyal et al. 2017).
        decay_epochs: see ``"step"``, more than 0; counted from the first step, warm-up included.
        decay_factor: see ``"step"``.

    Returns:
        A function of the step's number, of the default float dtype (float64 with
        ``jax_enable_x64``).

    Raises:
        UserError: for an unknown schedule, or ``decay_epochs`` that are not above 0.

    Example::

        schedule = make_schedule("cosine", 0.1, steps_per_epoch=100, num_epochs=90)
        schedule(0)  # 0.1
    """
    if name not in SCHEDULES:
        raise UserError(f"There is no schedule {name!r}; {suggest(name, SCHEDULES)}")
    if not decay_epochs > 0:
        raise UserError(f"decay_epochs is {decay_epochs}; it must be above 0.")
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    decay_steps = max(1, round(decay_epochs * steps_per_epoch))
    cosine_steps = max(1, num_epochs * steps_per_epoch - warmup_steps)
    cosine = optax.cosine_decay_schedule(learning_rate, cosine_steps)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        # A float for optax: it computes in float32 on integers even with jax_enable_x64.
        real = jnp.asarray(count, jnp.result_type(float))
        warmup = jnp.minimum(1.0, (real + 1) / (warmup_steps + 1))
        if name == "cosine":
            return warmup * cosine(jnp.maximum(real - warmup_steps, 0))
        if name == "step":
            # In integers: compiled, a float division may fall short of a whole number.
            decays = jnp.asarray(count, int) // decay_steps
            return warmup * learning_rate * decay_factor ** decays.astype(real.dtype)
        return warmup * learning_rate

    return schedule


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """``torch.optim.SGD``: weight decay is added before momentum, the rate is applied after it.

    ``g += weight_decay * p; buffer = momentum * buffer + g; p -= learning_rate * buffer``, on all
    parameters, biases and norms included.

    Example::

        optimizer = sgd(0.1, momentum=0.9, weight_decay=1e-4)
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov),
    )
