"""Maps cut into blocks of a stride's size, in which windows with that stride have a step of one."""

import itertools
from collections.abc import Callable, Sequence

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


def phase_size(
    out: Sequence[int],
    size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> list[int]:
    """Rows and columns of each phase that windows see: blocks of the stride's size.

    Args:
        out: numbers of windows down and to the right.
        size: of a window, height and width.
        stride: down and to the right.
        dilation: distance of a window's places, down and to the right.
    """
    return [
        windows + (length - 1) * gap // step
        for windows, length, step, gap in zip(out, size, stride, dilation, strict=True)
    ]


def cut_into_phases(
    x: jax.Array, stride: Sequence[int], counts: Sequence[int], before: Sequence[int]
) -> list[list[jax.Array]]:
    """The pixels of ``[N, H, W, C]`` with one remainder of row and column by the stride.

    The gradient puts them together again in one pass.

    Args:
        x: the maps.
        stride: down and to the right.
        counts: of rows and columns of each phase; what is beyond them is left out.
        before: rows and columns of zeros at the top and the left.

    Returns:
        ``[N, *counts, C]``, by the remainder of the row, then of the column.
    """
    blocks = cut_into_blocks(x, stride, counts, before)
    rows = [row.squeeze(2) for row in lax.split(blocks, [1] * stride[0], 2)]
    return [[phase.squeeze(3) for phase in lax.split(row, [1] * stride[1], 3)] for row in rows]


# The sum's term of a place: of its number, the pixels there, and a function that cuts out of
# ``[N, H', W', C]`` what belongs to the windows of which each pixel is that place.
Term = Callable[[int, jax.Array, Callable[[jax.Array], jax.Array]], jax.Array]


def sum_of_places(
    x: jax.Array,
    term: Term,
    *,
    size: Sequence[int],
    stride: Sequence[int],
    before: Sequence[int],
    out: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> jax.Array:
    """Add up what each place of a window sees, with a gradient that a CPU computes fast.

    The terms of a phase (:func:`cut_into_phases`) are padded to one size, added up and cut. So the
    gradient of the sum is padded once, and that of a phase is a sum of what its pixels see of it.
    As a sum of windows, the gradient would be one of maps as large as the input, one a place, with
    zeros between the pixels.

    Args:
        x: ``[N, H, W, C]``.
        term: see :data:`Term`; places are numbered row by row, and it is linear in the pixels.
        size: of the window, height and width.
        stride: down and to the right.
        before: rows and columns of zeros at the top and the left.
        out: numbers of windows down and to the right, H' and W'.
        dilation: distance of the places, down and to the right.

    Returns:
        ``[N, H', W', C]``.
    """
    counts = phase_size(out, size, stride, dilation)
    reach = [count - windows for count, windows in zip(counts, out, strict=True)]
    phases = cut_into_phases(x, stride, counts, before)
    around = [(0, 0), *((more, more) for more in reach), (0, 0)]
    total = 0
    for number, (top, left) in enumerate(itertools.product(*map(range, size))):
        down, row = divmod(top * dilation[0], stride[0])
        across, column = divmod(left * dilation[1], stride[1])
        first = (reach[0] - down, reach[1] - across)

        def of_windows(y: jax.Array, first: Sequence[int] = first) -> jax.Array:
            rows, columns = (
                slice(start, start + count) for start, count in zip(first, counts, strict=True)
            )
            return jnp.pad(y, around)[:, rows, columns]

        pads = [(0, 0), (first[0], down), (first[1], across), (0, 0)]
        total += jnp.pad(term(number, phases[row][column], of_windows), pads)
    return total[:, reach[0] : reach[0] + out[0], reach[1] : reach[1] + out[1]]
