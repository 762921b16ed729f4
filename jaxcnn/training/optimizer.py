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
