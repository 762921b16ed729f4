"""Pooling with torch's windows."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from jaxcnn.models.arithmetic import Size, conv_output_size, pair, pool_output_size
from jaxcnn.models.layers.module import Module, check_window
from jaxcnn.models.layers.platforms import by_platform
from jaxcnn.models.layers.space_to_depth import cut_into_blocks, phase_size, sum_of_places

Pair = tuple[int, int]
# Places of a window up to which a CPU finds the maximum of all in one good loop.
FEW_PLACES = 25


def _pads(x: jax.Array, window: Pair, strides: Pair, padding: Size, ceil_mode: bool) -> list[Pair]:
    """Pixels of padding before and after height and width.

    Raises:
        ImageTooSmall: if the window does not fit.
    """
    overhang = (strides[0] - 1, strides[1] - 1) if ceil_mode else (0, 0)
    check_window(x, window, pair(padding), "a pooling layer", overhang)
    pads = []
    for size, k, s, p in zip(x.shape[1:3], window, strides, pair(padding), strict=True):
        last = (pool_output_size(size, k, s, p, ceil_mode=ceil_mode) - 1) * s
        pads.append((p, p + max(0, last + k - (size + 2 * p))))
    return pads


def _reduce_windows(
    x: jax.Array,
    init: float,
    operation: Callable[..., jax.Array],
    window: Pair,
    strides: Pair,
    pads: Sequence[Pair],
) -> jax.Array:
    """Reduce windows of height and width."""
    return lax.reduce_window(
        x,
        np.asarray(init, x.dtype),  # concrete: XLA differentiates known reductions only
        operation,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *pads, (0, 0)),
    )


def max_pool(
    x: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """``torch.nn.functional.max_pool2d`` of ``[N, H, W, C]``; ``stride=None``: the kernel size."""
    window = pair(kernel_size)
    strides = window if stride is None else pair(stride)
    pads = _pads(x, window, strides, padding, ceil_mode)
    return _max_pool(x, window, strides, tuple(pads))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: Pair, strides: Pair, pads: tuple[Pair, Pair]) -> jax.Array:
    return _reduce_windows(x, -jnp.inf, lax.max, window, strides, pads)


@_max_pool.defjvp
def _max_pool_jvp(
    window: Pair,
    strides: Pair,
    pads: tuple[Pair, Pair],
    primals: tuple[jax.Array],
    tangents: tuple[jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """XLA computes the gradient 10 to 30 times slower on a CPU (benchmarks/layers.py).

    On a GPU it is twice (benchmarks/NOTES.md), and there the maxima come with their places. On a
    CPU a loop over the places of few finds them 2 to 5 times faster than XLA reduces windows.
    """
    number_dtype = jnp.uint8 if math.prod(window) <= 256 else jnp.int32

    def on_gpu(x: jax.Array, tangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        places = _block_places(x, window, strides, pads, -jnp.inf)
        y, chosen = _first_maxima(places, number_dtype)
        of_tangent = _block_places(tangent, window, strides, pads, 0)
        return y, sum(jnp.where(chosen == n, place, 0) for n, place in enumerate(of_tangent))

    def on_cpu(x: jax.Array, tangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        places = list(_window_places(x, window, strides, pads, -jnp.inf))
        _, chosen = _first_maxima(places, number_dtype)
        few = len(places) <= FEW_PLACES
        y = functools.reduce(jnp.maximum, places) if few else _max_pool(x, window, strides, pads)
        derivative = sum_of_places(
            tangent,
            lambda number, pixels, of_windows: jnp.where(of_windows(chosen) == number, pixels, 0),
            size=window,
            stride=strides,
            before=[pad[0] for pad in pads],
            out=chosen.shape[1:3],
        )
        return y, derivative

    def by_xla(x: jax.Array, tangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        pool = functools.partial(
            _reduce_windows,
            init=-jnp.inf,
            operation=lax.max,
            window=window,
            strides=strides,
            pads=pads,
        )
        return _max_pool(x, window, strides, pads), jax.jvp(pool, (x,), (tangent,))[1]

    ((x,), (tangent,)) = primals, tangents
    return by_platform(x, tangent, cpu=on_cpu, gpu=on_gpu, default=by_xla)


def _output_size(x: jax.Array, window: Pair, strides: Pair, pads: Sequence[Pair]) -> Pair:
    """Numbers of windows down and to the right."""
    height, width = (
        conv_output_size(size + sum(pad), k, s)
        for size, pad, k, s in zip(x.shape[1:3], pads, window, strides, strict=True)
    )
    return height, width


def _window_places(
    x: jax.Array, window: Pair, strides: Pair, pads: Sequence[Pair], fill: float
) -> Iterator[jax.Array]:
    """What each place of the windows, row by row, has of ``[N, H, W, C]``: ``[N, H', W', C]``."""
    height, width = _output_size(x, window, strides, pads)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    for top in range(window[0]):
        for left in range(window[1]):  # rows and columns at once: XLA makes one loop of it
            bottom, right = top + (height - 1) * strides[0], left + (width - 1) * strides[1]
            yield x[:, top : bottom + 1 : strides[0], left : right + 1 : strides[1]]


def _block_places(
    x: jax.Array, window: Pair, strides: Pair, pads: Sequence[Pair], fill: float
) -> Iterator[jax.Array]:
    """The same as :func:`_window_places`, read without a stride.

    In the gradient each pixel then looks only at the windows that contain it, and computes no other
    indices, which on a GPU takes most of the time.
    """
    sizes = _output_size(x, window, strides, pads)
    counts = phase_size(sizes, window, strides)
    blocks = cut_into_blocks(x, strides, counts, [pad[0] for pad in pads], fill)
    rows = [lax.index_in_dim(blocks, n, 2, keepdims=False) for n in range(strides[0])]
    pixels = [
        [lax.index_in_dim(row, n, 3, keepdims=False) for n in range(strides[1])] for row in rows
    ]
    for top in range(window[0]):
        for left in range(window[1]):
            (down, row), (across, column) = divmod(top, strides[0]), divmod(left, strides[1])
            yield pixels[row][column][:, down : down + sizes[0], across : across + sizes[1]]


def _first_maxima(
    places: Iterable[jax.Array], dtype: DTypeLike = jnp.int32
) -> tuple[jax.Array, jax.Array]:
    """The maximum, and the number of the first place that has it, or of the last with NaN."""
    (highest, *others) = places
    chosen = jnp.zeros(highest.shape, dtype)
    for number, place in enumerate(others, 1):
        higher = (place > highest) | jnp.isnan(place)
        highest = jnp.where(higher, place, highest)
        chosen = jnp.where(higher, jnp.asarray(number, dtype), chosen)
    return highest, chosen


def max_pool_switches(
    x: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """The positions of the maxima of :func:`max_pool`: torch's ``return_indices=True``.

    These are the "switches" of Zeiler and Fergus 2013, section 2.1, with which a deconvnet
    reverses pooling.

    Returns:
        int32 ``[N, H', W', C]``: row times W plus column of the first maximum in each window.
    """
    window = pair(kernel_size)
    strides = window if stride is None else pair(stride)
    return window_switches(x, window, strides, _pads(x, window, strides, padding, ceil_mode))


def window_switches(
    x: jax.Array,
    window: Pair,
    strides: Pair,
    pads: Sequence[Pair],
) -> jax.Array:
    """:func:`max_pool_switches` for windows with any padding.

    Args:
        x: ``[N, H, W, C]``.
        window: height and width.
        strides: down and to the right.
        pads: pixels of padding before and after height and width.
    """
    _, chosen = _first_maxima(_window_places(x, window, strides, pads, -jnp.inf))
    down, right = jnp.divmod(chosen, window[1])
    height, width = chosen.shape[1:3]
    (rows, _), (columns, _) = pads
    top = jnp.arange(height)[:, None, None] * strides[0] - rows
    left = jnp.arange(width)[:, None] * strides[1] - columns
    return ((top + down) * x.shape[2] + left + right).astype(jnp.int32)


def max_unpool(x: jax.Array, switches: jax.Array, output_size: tuple[int, int]) -> jax.Array:
    """``torch.nn.functional.max_unpool2d``: put each value back to where its maximum was.

    Where windows overlap, several may have chosen one pixel: the last of them, row by row, is
    kept, as torch does in one thread.

    Args:
        x: ``[N, H', W', C]``.
        switches: of :func:`max_pool_switches`, ``[N, H', W', C]``.
        output_size: the H and W of what was pooled.

    Returns:
        ``[N, H, W, C]``, zero elsewhere.
    """
    (n, height, width, c), pixels = x.shape, math.prod(output_size)
    cells = jnp.arange(height * width, dtype=jnp.int32)[:, None]

    def unpool(values: jax.Array, places: jax.Array) -> jax.Array:  # of one image, [cells, C]
        channels = jnp.arange(c)
        # The order of several writes to one place is undefined, a maximum is not.
        last = jnp.full((pixels, c), -1, jnp.int32).at[places, channels].max(cells)
        return jnp.where(last < 0, 0, values[last, channels])

    flat = jax.vmap(unpool)(x.reshape(n, -1, c), switches.reshape(n, -1, c))
    return flat.reshape(n, *output_size, c)


class MaxPool(Module):
    """:func:`max_pool` as a layer that can return its switches.

    Applied with ``mutable=["switches"]``, it stores :func:`max_pool_switches` in the collection
    ``"switches"``, under its path and ``indices``.
    """

    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Pool ``[N, H, W, C]``."""
        window = (self.kernel_size, self.stride, self.padding)
        if self.is_mutable_collection("switches") and not self.is_initializing():
            self.put_variable("switches", "indices", max_pool_switches(x, *window))
        return max_pool(x, *window)


def avg_pool(
    x: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """``torch.nn.functional.avg_pool2d`` of ``[N, H, W, C]``; ``stride=None``: the kernel size.

    The mean includes the zeros of ``padding`` unless ``count_include_pad`` is False; it never
    includes what ``ceil_mode`` adds.
    """
    window = pair(kernel_size)
    strides = window if stride is None else pair(stride)

    def total_of(x: jax.Array, padding: Size) -> jax.Array:
        pads = _pads(x, window, strides, padding, ceil_mode)
        return _reduce_windows(x, 0.0, lax.add, window, strides, pads)

    total = total_of(x, padding)
    height, width = pair(padding)
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    if count_include_pad:
        pads = ((0, 0), (height, height), (width, width), (0, 0))
        ones = jnp.pad(ones, pads, constant_values=1)
        pads_left = (0, 0)
    else:
        pads_left = (height, width)
    count = total_of(ones, pads_left)
    return total / count[:, : total.shape[1], : total.shape[2]]


def adaptive_avg_pool(x: jax.Array, output_size: Size) -> jax.Array:
    """``torch.nn.functional.adaptive_avg_pool2d`` of ``[N, H, W, C]``, for any input size.

    Output cell i averages the rows from ``floor(i * H / out)`` to ``ceil((i + 1) * H / out)``.
    """
    out_height, out_width = pair(output_size)
    if (out_height, out_width) == (1, 1):
        return jnp.mean(x, axis=(1, 2), keepdims=True)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows = jnp.asarray(_averaging_matrix(x.shape[1], out_height), dtype)
    columns = jnp.asarray(_averaging_matrix(x.shape[2], out_width), dtype)
    precision = lax.Precision.HIGHEST
    y = jnp.einsum("ih,nhwc,jw->nijc", rows, x.astype(dtype), columns, precision=precision)
    return y.astype(x.dtype)


def _averaging_matrix(size: int, out: int) -> np.ndarray:
    matrix = np.zeros((out, size))
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix
