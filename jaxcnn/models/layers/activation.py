"""Activations whose gradient keeps less than Flax's do.

Each is jitted so that a program has its name, for which :mod:`jaxcnn.visualize` has a rule.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxcnn.models.layers.module import Lambda


@jax.jit
def gelu(x: jax.Array) -> jax.Array:
    """The exact Gaussian error linear unit; Flax's own is approximate.

    Its gradient is computed anew from ``x``, which the layer before keeps anyway. Otherwise a map
    of derivatives, the largest of a block, would be written in the forward pass and kept.
    """
    return jax.checkpoint(partial(jax.nn.gelu, approximate=False))(x)


@jax.custom_jvp
def _relu(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0)


# Not ``y > 0``, which XLA turns into ``x > 0``. Where y is not a number, both are as torch's.
_relu.defjvps(lambda tangent, y, x: jnp.where(y != 0, tangent, jnp.zeros_like(tangent)))


@jax.jit
def relu(x: jax.Array) -> jax.Array:
    """The rectifier of a convolution's output or of a sum: its gradient is computed from its own.

    The next layer keeps that anyway; the gradient of ``flax.linen.relu`` would keep ``x``, too.
    After a batch norm use that: the gradient of the norm keeps what ``x`` is computed from.
    """
    return _relu(x)


GELU, ReLU = partial(Lambda, gelu), partial(Lambda, relu)
