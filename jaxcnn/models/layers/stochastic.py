"""Dropout and stochastic depth, the layers that are random in training."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.errors import UserError
from jaxcnn.models.layers.module import Module


def _checked(rate: float, layer: str) -> float:
    if not 0 <= rate <= 1:
        raise UserError(
            f"The rate of {layer} is {rate}, which is not a probability; use a number from 0 to 1."
        )
    return rate


class Dropout(Module):
    """``torch.nn.Dropout``: in training each value is zero with probability ``rate``.

    The others are multiplied by ``1 / (1 - rate)``. It draws from the rng stream ``"dropout"``.

    Raises:
        UserError: for a rate that is not a probability.
    """

    rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Drop values of an array of any shape."""
        return nn.Dropout(_checked(self.rate, "dropout"), deterministic=not train)(x)


class StochasticDepth(Module):
    """``torchvision.ops.StochasticDepth(mode="row")``: in training a branch is skipped at random.

    Huang et al. 2016, "Deep networks with stochastic depth". Each example's values are zero with
    probability ``rate`` and otherwise multiplied by ``1 / (1 - rate)``. It draws from the rng
    stream ``"dropout"``.

    Raises:
        UserError: in training, for a rate that is not a probability.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Zero random examples of ``[N, ...]``."""
        if not train or _checked(self.rate, "stochastic depth") == 0:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, shape)
        return jnp.where(kept, x / (1 - self.rate), 0)
