"""Sums over the rows of a batch as products of matrices, which XLA computes fast on a CPU.

A row is a pixel of an image, with its channels. XLA's own sums over rows take a single core, and
several times longer (``benchmarks/layers.py``), once they are fused with what is summed. A product
is not fused: what it sums is written to memory first. So the parts of a batch are added up before,
in the loop that computes them, and the product has a fraction of the rows.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

# Rows of one product: more are slower, and sum more numbers in turn, which costs precision.
_BLOCK = range(256, 31, -1)
# Parts of a batch that are added up in one loop.
_PARTS = range(8, 0, -1)


@dataclasses.dataclass(frozen=True)
class RowSum:
    """How the rows of an array are summed.

    Attributes:
        shape: of the array, ``[N, ..., C]``.
        parts: equal parts of the batch, which are added up first.
        block: rows that one product sums.
    """

    shape: tuple[int, ...]
    parts: int
    block: int


def row_sum(shape: tuple[int, ...]) -> RowSum | None:
    """How to sum the rows of an array of a shape; None: products are slower than XLA's own sum.

    And where the batch has no size yet, because the program takes any number of images.
    """
    if not isinstance(shape[0], int):
        return None
    for parts in _PARTS:
        rows = math.prod(shape[:-1]) // parts
        block = next((size for size in _BLOCK if rows % size == 0 and rows > size), None)
        if shape[0] % parts == 0 and block is not None:
            return RowSum(shape, parts, block)
    return None


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def sum_rows(x: jax.Array, how: RowSum) -> jax.Array:
    """The sum of ``[N, ..., C]`` over all axes but the last, ``[C]``."""
    parts = lax.split(x, [how.shape[0] // how.parts] * how.parts)
    return _sum_by_products(sum(parts[1:], start=parts[0]), how.block)


@sum_rows.defjvp
def _sum_rows_jvp(
    how: RowSum, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The gradient is a product that repeats rows, which XLA fuses with what follows."""
    ((x,), (tangent,)) = primals, tangents
    return sum_rows(x, how), _sum_by_products(tangent, how.block)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def repeat_rows(values: jax.Array, how: RowSum) -> jax.Array:
    """``[C]`` in every row of an array: the gradient of this is as :func:`sum_rows`."""
    return jnp.broadcast_to(values, how.shape)


@repeat_rows.defjvp
def _repeat_rows_jvp(
    how: RowSum, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    ((values,), (tangent,)) = primals, tangents
    return repeat_rows(values, how), repeat_tangent(tangent, how)


def repeat_tangent(values: jax.Array, how: RowSum) -> jax.Array:
    """:func:`repeat_rows` of a tangent in the rule of a ``custom_jvp``.

    A tangent's operations are transposed as they are, whatever rules their own derivatives have.
    """
    part = (how.shape[0] // how.parts, *how.shape[1:])
    count = math.prod(part[:-1]) // how.block
    copies = jnp.broadcast_to(values, (count, 1, values.size))
    rows = jnp.ones((count, how.block, 1), values.dtype) @ copies
    return jnp.concatenate([rows.reshape(part)] * how.parts)


def _sum_by_products(x: jax.Array, block: int) -> jax.Array:
    blocks = x.reshape(-1, block, x.shape[-1])
    return (jnp.ones((len(blocks), 1, block), x.dtype) @ blocks).sum((0, 1))
