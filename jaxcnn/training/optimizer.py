"""SGD as ``torch.optim.SGD`` does it, and the learning-rate schedules of the papers."""

import jax
import jax.numpy as jnp
import optax

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
    """A learning rate as a function of the step.

    Args:
        name: ``"constant"``; ``"step"``: times ``decay_factor`` every ``decay_epochs`` (He et al.
            2015, and ``torch.optim.lr_scheduler.StepLR``); or ``"cosine"``: half a cosine down to
            zero at the end (Loshchilov and Hutter 2016).
        learning_rate: at its highest.
        steps_per_epoch: how many steps an epoch has.
        num_epochs: how many epochs the run has.
        warmup_epochs: the rate climbs linearly from zero for so long (Goyal et al. 2017).
        decay_epochs: see ``"step"``; counted from the first step, warm-up included.
        decay_factor: see ``"step"``.

    Returns:
        A function of the step's number, of the default float dtype (float64 with
        ``jax_enable_x64``).
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    total_steps = num_epochs * steps_per_epoch
    if name == "step":
        decay_steps = max(1, round(decay_epochs * steps_per_epoch))
        base = optax.exponential_decay(learning_rate, decay_steps, decay_factor, staircase=True)
    elif name == "cosine":
        cosine = optax.cosine_decay_schedule(learning_rate, max(1, total_steps - warmup_steps))
        base = lambda count: cosine(jnp.maximum(count - warmup_steps, 0))  # noqa: E731
    else:
        base = optax.constant_schedule(learning_rate)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        # A float: optax computes in float32 on an integer count even with jax_enable_x64.
        count = jnp.asarray(count, jnp.result_type(float))
        warmup = jnp.minimum(1.0, (count + 1) / (warmup_steps + 1))
        return warmup * base(count)

    return schedule


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """``torch.optim.SGD``: decay joins the gradient before momentum, the rate comes after it.

    ``g += weight_decay * p; buffer = momentum * buffer + g; p -= learning_rate * buffer``, on all
    parameters, biases and norms included.

    Example::

        optimizer = sgd(0.1, momentum=0.9, weight_decay=1e-4)
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov),
    )
