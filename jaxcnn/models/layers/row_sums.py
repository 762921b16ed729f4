"""Sums over the rows of a batch as products of matrices, which XLA computes fast on a CPU.

A row is a pixel of an image, with its channels. XLA's own sums over rows take a single core, and
several times longer (``benchmarks/layers.py``), once they are fused with what is summed.
"""

import math

import jax
import jax.numpy as jnp

# Of one product: more are slower, and sum more numbers in turn, which costs precision.
_BLOCK = range(256, 31, -1)


def block_size(rows: int) -> int | None:
    """How many rows one product sums, so that there are several equal ones; None: it is slower."""
    return next((size for size in _BLOCK if rows % size == 0 and rows > size), None)


def sum_rows(x: jax.Array, block: int) -> jax.Array:
    """The sum of ``[N, ..., C]`` over all axes but the last, ``[C]``."""
    blocks = x.reshape(-1, block, x.shape[-1])
    return (jnp.ones((len(blocks), 1, block), x.dtype) @ blocks).sum((0, 1))


def repeat_rows(values: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
    """``[C]`` in every row of an array of a shape: the gradient of this is :func:`sum_rows`."""
    count = math.prod(shape[:-1]) // block
    copies = jnp.broadcast_to(values, (count, 1, values.size))
    return (jnp.ones((count, block, 1), values.dtype) @ copies).reshape(shape)
