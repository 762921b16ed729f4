"""Ways to compute a dense convolution, of which ``convolve.py`` chooses.

All take images, a kernel, and ``stride``, ``padding`` and ``dilation``, down and to the right.
"""

import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.models.arithmetic import conv_output_size
from jaxcnn.models.layers.space_to_depth import cut_into_blocks, cut_into_phases, phase_size

# Channels that a tensor core reads together, in bfloat16.
CHANNELS_TOGETHER = 8

Pair = tuple[int, int]


def plain_convolution(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair, groups: int = 1
) -> jax.Array:
    """The same as :func:`convolve` by XLA, whatever the platform."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=[(p, p) for p in padding],
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def bilinear(
    of_input: Callable[..., jax.Array], of_kernel: Callable[..., jax.Array]
) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]:
    """Give a convolution the gradients of two others, which compute the same.

    All are functions of (images, kernel, stride, padding, dilation).

    Args:
        of_input: has a gradient of the images that is computed fast.
        of_kernel: has a gradient of the kernel that is computed fast.
    """

    def changed(convolution: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        function = jax.custom_jvp(convolution, nondiff_argnums=(2, 3, 4))

        @function.defjvp
        def derivative(
            stride: Pair,
            padding: Pair,
            dilation: Pair,
            primals: tuple[jax.Array, jax.Array],
            tangents: tuple[jax.Array, jax.Array],
        ) -> tuple[jax.Array, jax.Array]:
            (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
            window = {"stride": stride, "padding": padding, "dilation": dilation}
            tangent = of_input(x_tangent, kernel, **window)
            tangent += of_kernel(x, kernel_tangent, **window)
            return function(x, kernel, **window), tangent

        return function

    return changed


@jax.custom_jvp
def computed_once(x: jax.Array) -> jax.Array:
    """``x``, which XLA on a CPU then computes once for the convolution and its kernel's gradient.

    The gradient reads a map that is transposed for it. XLA computes what has one operand of a map's
    size, such as a batch norm or a rectifier, anew in each loop that reads it: in that one at
    strides of a whole image. A selection has two. (An optimization barrier is removed before.)
    """
    return jnp.where(x >= -jnp.inf, x, jnp.nan)


@computed_once.defjvp
def _computed_once_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return computed_once(*primals), *tangents


def is_strided(kernel: jax.Array, stride: Pair, dilation: Pair) -> bool:
    """Whether :func:`strided_convolution` computes a dense convolution on a CPU."""
    whole = all(size >= step for size, step in zip(kernel.shape, stride, strict=False))
    return max(stride) > 1 and dilation == (1, 1) and whole


def _by_phases(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """A dense convolution as a sum of those of the input's phases, without a stride."""
    out = output_size(x, kernel, stride=stride, padding=padding, dilation=dilation)
    counts = phase_size(out, kernel.shape[:2], stride)
    total = 0
    for top, row in enumerate(cut_into_phases(x, stride, counts, padding)):
        for left, phase in enumerate(row):
            part = kernel[top :: stride[0], left :: stride[1]]
            # A phase that fewer places see has rows and columns beyond its last window.
            ends = (windows + size - 1 for windows, size in zip(out, part.shape, strict=False))
            rows, columns = map(slice, ends)
            total += plain_convolution(
                phase[:, rows, columns], part, stride=(1, 1), padding=(0, 0), dilation=(1, 1)
            )
    return total


@bilinear(_by_phases, plain_convolution)
def strided_convolution(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """A dense convolution by XLA with a gradient of the input that is computed fast.

    XLA's is a convolution of the output's gradient with zeros between its pixels. Here each phase
    of the input has one of its own, with the part of the kernel that sees it.
    """
    return plain_convolution(x, kernel, stride=stride, padding=padding, dilation=dilation)


def output_size(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair
) -> Pair:
    """Height and width of the convolution of ``[..., H, W, C]``."""
    axes = zip(x.shape[-3:-1], kernel.shape[:2], stride, padding, dilation, strict=True)
    height, width = (conv_output_size(*axis) for axis in axes)
    return height, width


def seen_by_places(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    barrier: bool = False,
) -> Iterator[jax.Array]:
    """What each place of the kernel, row by row, sees of ``[..., H, W, C]``: ``[..., H', W', C]``.

    With ``barrier`` XLA cannot fuse across the kernel's rows.
    """
    height, width = output_size(x, kernel, stride=stride, padding=padding, dilation=dilation)
    around = [(0, 0)] * (x.ndim - 3) + [(p, p) for p in padding] + [(0, 0)]
    x = jnp.pad(x, around)
    tops = range(0, kernel.shape[0] * dilation[0], dilation[0])
    lefts = range(0, kernel.shape[1] * dilation[1], dilation[1])
    down, across = (height - 1) * stride[0] + 1, (width - 1) * stride[1] + 1
    if barrier:
        rows = [x[..., top : top + down : stride[0], :, :] for top in tops]
        for row in lax.optimization_barrier(rows):
            for left in lefts:
                yield row[..., left : left + across : stride[1], :]
    else:
        for top in tops:
            for left in lefts:
                rows = slice(top, top + down, stride[0])
                yield x[..., rows, left : left + across : stride[1], :]


def by_product(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """A dense convolution as one matrix product of patches."""
    places = seen_by_places(x, kernel, stride=stride, padding=padding, dilation=dilation)
    patches = jnp.concatenate(list(places), axis=-1)
    # Of two axes: XLA would transpose what has more for the gradient of the kernel.
    rows = patches.reshape(-1, patches.shape[-1])
    y = rows @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*patches.shape[:-1], -1)


def by_blocks_of_pixels(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair
) -> jax.Array:
    """A convolution with a stride as one without, of blocks whose pixels are channels.

    Zeros complete the kernel to whole blocks, so that a NaN or infinity spreads to all windows that
    share a block with it.
    """
    out = output_size(x, kernel, stride=stride, padding=padding, dilation=(1, 1))
    counts, reach, zeros, pads = [], [], [], []
    for length, size, step, pad, windows in zip(
        x.shape[1:3], kernel.shape[:2], stride, padding, out, strict=True
    ):
        before = math.ceil(pad / step)  # blocks of padding
        zeros.append(before * step - pad)  # in front of the kernel: it begins where a block does
        reach.append(math.ceil((zeros[-1] + size) / step))
        counts.append(math.ceil(length / step))
        pads.append((before, windows + reach[-1] - 1 - before - counts[-1]))
    channels = stride[0] * stride[1] * x.shape[-1]
    missing = -channels % CHANNELS_TOGETHER
    images = cut_into_blocks(x, stride, counts).transpose(0, 1, 3, 2, 4, 5)
    images = images.reshape(x.shape[0], *counts, channels)
    weights = jnp.moveaxis(kernel, -1, 0)
    weights = cut_into_blocks(weights, stride, reach, zeros).transpose(1, 3, 2, 4, 5, 0)
    weights = weights.reshape(*reach, channels, kernel.shape[-1])
    return lax.conv_general_dilated(
        jnp.pad(images, [(0, 0)] * 3 + [(0, missing)]),
        jnp.pad(weights, [(0, 0)] * 2 + [(0, missing), (0, 0)]),
        window_strides=(1, 1),
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
