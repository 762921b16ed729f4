"""Maps cut into blocks of a stride's size, in which windows with that stride have a step of one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def cut_into_blocks(
    x: jax.Array,
    block: Sequence[int],
    counts: Sequence[int],
    before: Sequence[int] = (0, 0),
    fill: float = 0,
) -> jax.Array:
    """Cut ``[N, H, W, C]`` into ``[N, rows, block[0], columns, block[1], C]``.

    Args:
        x: the maps.
        block: height and width of a block.
        counts: of rows and columns of blocks; what is beyond them is left out.
        before: rows and columns of padding at the top and the left.
        fill: value of the padding there, and of what is missing at the bottom and the right.
    """
    axes = zip(x.shape[1:3], block, counts, before, strict=True)
    pads = [(first, count * size - first - length, 0) for length, size, count, first in axes]
    x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    return x.reshape(x.shape[0], counts[0], block[0], counts[1], block[1], x.shape[-1])
