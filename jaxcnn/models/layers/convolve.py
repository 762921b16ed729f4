"""The convolution that every layer uses, computed the way that is fast where it runs.

XLA computes some convolutions on a CPU very slowly. ``benchmarks/convolution.py`` has the figures
behind every choice for CPUs, and ``benchmarks/NOTES.md`` behind that for GPUs. The choice is made
when a program is lowered (:mod:`jaxcnn.models.layers.platforms`), so that one for a GPU is right on
a machine without one.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxcnn.models.layers.dense_convolution import (
    Pair,
    by_blocks_of_pixels,
    by_product,
    computed_once,
    is_strided,
    output_size,
    plain_convolution,
    strided_convolution,
)
from jaxcnn.models.layers.grouped_convolution import (
    by_blocks_of_groups,
    by_products_per_group,
    depthwise_convolution,
    depthwise_to_small_map,
)
from jaxcnn.models.layers.platforms import by_platform

# Output pixels per image up to which a convolution on a CPU is one matrix product of patches.
SMALL_MAP = 4
# Output pixels per batch up to which a grouped convolution on a CPU is a sum of matrix products.
FEW_ROWS = 1024
# Channels of images, which nothing computes; of so few, cuDNN convolves padding for the most part.
IMAGE_CHANNELS = 4


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> jax.Array:
    """Convolve ``[N, H, W, C]`` with ``[kh, kw, C / groups, features]``, as torch does.

    It is ``lax.conv_general_dilated``, but for what :func:`cpu_rule` replaces on a CPU and
    :func:`gpu_rule` on a GPU.

    Args:
        x: images.
        kernel: weights; the output has its ``features`` channels.
        stride: down and to the right.
        padding: zeros at the top and bottom, and at the left and right.
        dilation: distance of the kernel's places, down and to the right.
        groups: of channels that are convolved separately.
    """
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    default = functools.partial(plain_convolution, **arguments)
    return by_platform(
        x,
        kernel,
        cpu=cpu_rule(x, kernel, **arguments),
        gpu=gpu_rule(x, kernel, **arguments),
        default=default,
    )


def gpu_rule(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """What computes this convolution faster than XLA on a GPU; None: XLA is the fastest.

    * In bfloat16, of images, with a stride: cuDNN pads three channels to eight. As a convolution
      of blocks of the stride's size, whose pixels are channels, ResNet's stem takes half the time.
    * Depthwise, to a map no larger than the kernel: see :func:`depthwise_to_small_map`.
    """
    if groups == x.shape[-1] == kernel.shape[-1] > 1:
        arguments = {"stride": stride, "padding": padding, "dilation": dilation}
        out = output_size(x, kernel, **arguments)
        small = any(pixels <= size for pixels, size in zip(out, kernel.shape, strict=False))
        is_slow = small and stride == dilation == (1, 1)
        return functools.partial(depthwise_to_small_map, **arguments) if is_slow else None
    plain = groups == 1 and dilation == (1, 1) and x.dtype == jnp.bfloat16
    if not plain or min(stride) == 1 or x.shape[-1] > IMAGE_CHANNELS:
        return None
    if any(size < step for size, step in zip(kernel.shape, stride, strict=False)):
        return None  # most of a block would be multiplied with zeros
    return functools.partial(by_blocks_of_pixels, stride=stride, padding=padding)


def cpu_rule(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """What computes this convolution faster than XLA on a CPU; None: XLA is the fastest.

    * Dense, with an output map of a few pixels or a 1x1 kernel: a matrix product of the image's
      patches (XLA: 7 to 20 times slower, and up to twice).
    * Dense, with a stride: by XLA, but see :func:`strided_convolution` (XLA's gradient of the input
      takes up to four times as long).
    * Dense, of maps: by XLA, but see :func:`computed_once` (a ResNet's step on large batches takes
      up to a sixth longer).
    * Depthwise: a sum over the kernel's places (XLA: several times slower, and its gradient up to
      a hundred times).
    * Grouped: see :func:`by_blocks_of_groups` (XLA's gradient is a loop, a hundred times slower and
      more).
    """
    arguments = {"stride": stride, "padding": padding, "dilation": dilation}
    height, width = output_size(x, kernel, **arguments)
    if groups == 1:
        single = kernel.shape[:2] == (1, 1) and padding == (0, 0)
        if single or height * width <= SMALL_MAP:
            return functools.partial(by_product, **arguments)
        strided = is_strided(kernel, stride, dilation)
        way = functools.partial(strided_convolution if strided else plain_convolution, **arguments)
        if x.shape[-1] > IMAGE_CHANNELS:
            return lambda x, kernel: way(computed_once(x), kernel)
        return way if strided else None
    if groups == x.shape[-1] == kernel.shape[-1]:
        return lambda x, kernel: depthwise_convolution(x, kernel, stride, padding, dilation)
    # Exported for any number of images, the batch has no size yet.
    few = isinstance(x.shape[0], int) and x.shape[0] * height * width <= FEW_ROWS
    way = by_products_per_group if few else by_blocks_of_groups
    return functools.partial(way, **arguments, groups=groups)
