"""The convolution that every layer uses, computed the way that is fast where it runs.

XLA computes some convolutions on a CPU very slowly. ``benchmarks/convolution.py`` has the figures
behind every choice for CPUs, and ``benchmarks/NOTES.md`` behind that for GPUs. The choice is made
when a program is lowered (:mod:`jaxcnn.models.layers.platforms`), so that one for a GPU is right on
a machine without one.
"""

import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.models.arithmetic import conv_output_size
from jaxcnn.models.layers.platforms import by_platform
from jaxcnn.models.layers.row_sums import repeat_tangent, row_sum
from jaxcnn.models.layers.space_to_depth import (
    cut_into_blocks,
    cut_into_phases,
    phase_size,
    sum_of_places,
)

# Output pixels per image up to which a convolution on a CPU is one matrix product of patches.
SMALL_MAP = 4
# Places of a depthwise kernel up to which XLA makes one good loop of all of them.
SMALL_KERNEL = 9
# Output pixels per batch up to which a grouped convolution on a CPU is a sum of matrix products.
FEW_ROWS = 1024
# Channels that a block of groups has at least: fewer are slower (in float64 up to a hundred times,
# because XLA falls back to a loop), more spend the time on zeros.
BLOCK_CHANNELS = 32
# Blocks per convolution: each is compiled by itself, forward and twice backward.
MAX_BLOCKS = 16
# Channels of images, which nothing computes; of so few, cuDNN convolves padding for the most part.
IMAGE_CHANNELS = 4
# Channels that a tensor core reads together, in bfloat16.
CHANNELS_TOGETHER = 8

Pair = tuple[int, int]


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
    * Depthwise, to a map no larger than the kernel: see :func:`_depthwise_to_small_map`.
    """
    if groups == x.shape[-1] == kernel.shape[-1] > 1:
        arguments = {"stride": stride, "padding": padding, "dilation": dilation}
        out = _output_size(x, kernel, **arguments)
        small = any(pixels <= size for pixels, size in zip(out, kernel.shape, strict=False))
        is_slow = small and stride == dilation == (1, 1)
        return functools.partial(_depthwise_to_small_map, **arguments) if is_slow else None
    plain = groups == 1 and dilation == (1, 1) and x.dtype == jnp.bfloat16
    if not plain or min(stride) == 1 or x.shape[-1] > IMAGE_CHANNELS:
        return None
    if any(size < step for size, step in zip(kernel.shape, stride, strict=False)):
        return None  # most of a block would be multiplied with zeros
    return functools.partial(_space_to_depth, stride=stride, padding=padding)


def cpu_rule(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """What computes this convolution faster than XLA on a CPU; None: XLA is the fastest.

    * Dense, with an output map of a few pixels or a 1x1 kernel: a matrix product of the image's
      patches (XLA: 7 to 20 times slower, and up to twice).
    * Dense, with a stride: by XLA, but see :func:`_strided` (XLA's gradient of the input takes up
      to four times as long).
    * Dense, of maps: by XLA, but see :func:`_computed_once` (a ResNet's step on large batches takes
      up to a sixth longer).
    * Depthwise: a sum over the kernel's places (XLA: several times slower, and its gradient up to
      a hundred times).
    * Grouped: see :func:`_blocks` (XLA's gradient is a loop, a hundred times slower and more).
    """
    arguments = {"stride": stride, "padding": padding, "dilation": dilation}
    height, width = _output_size(x, kernel, **arguments)
    if groups == 1:
        single = kernel.shape[:2] == (1, 1) and padding == (0, 0)
        if single or height * width <= SMALL_MAP:
            return functools.partial(_product, **arguments)
        strided = _is_strided(kernel, stride, dilation)
        convolution = functools.partial(_strided if strided else plain_convolution, **arguments)
        if x.shape[-1] > IMAGE_CHANNELS:
            return lambda x, kernel: convolution(_computed_once(x), kernel)
        return convolution if strided else None
    if groups == x.shape[-1] == kernel.shape[-1]:
        return lambda x, kernel: _depthwise(x, kernel, stride, padding, dilation)
    # Exported for any number of images, the batch has no size yet.
    few = isinstance(x.shape[0], int) and x.shape[0] * height * width <= FEW_ROWS
    return functools.partial(_grouped_products if few else _blocks, **arguments, groups=groups)


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


def _bilinear(
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
def _computed_once(x: jax.Array) -> jax.Array:
    """``x``, which XLA on a CPU then computes once for the convolution and its kernel's gradient.

    The gradient reads a map that is transposed for it. XLA computes what has one operand of a map's
    size, such as a batch norm or a rectifier, anew in each loop that reads it: in that one at
    strides of a whole image. A selection has two. (An optimization barrier is removed before.)
    """
    return jnp.where(x >= -jnp.inf, x, jnp.nan)


@_computed_once.defjvp
def _computed_once_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return _computed_once(*primals), *tangents


def _is_strided(kernel: jax.Array, stride: Pair, dilation: Pair) -> bool:
    """Whether :func:`_strided` computes a dense convolution on a CPU."""
    whole = all(size >= step for size, step in zip(kernel.shape, stride, strict=False))
    return max(stride) > 1 and dilation == (1, 1) and whole


def _by_phases(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """A dense convolution as a sum of those of the input's phases, without a stride."""
    out = _output_size(x, kernel, stride=stride, padding=padding, dilation=dilation)
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


@_bilinear(_by_phases, plain_convolution)
def _strided(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """A dense convolution by XLA with a gradient of the input that is computed fast.

    XLA's is a convolution of the output's gradient with zeros between its pixels. Here each phase
    of the input has one of its own, with the part of the kernel that sees it.
    """
    return plain_convolution(x, kernel, stride=stride, padding=padding, dilation=dilation)


def _output_size(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair
) -> Pair:
    """Height and width of the convolution of ``[..., H, W, C]``."""
    axes = zip(x.shape[-3:-1], kernel.shape[:2], stride, padding, dilation, strict=True)
    height, width = (conv_output_size(*axis) for axis in axes)
    return height, width


def _places(
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
    height, width = _output_size(x, kernel, stride=stride, padding=padding, dilation=dilation)
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


def _product(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """A dense convolution as one matrix product of patches."""
    places = _places(x, kernel, stride=stride, padding=padding, dilation=dilation)
    patches = jnp.concatenate(list(places), axis=-1)
    # Of two axes: XLA would transpose what has more for the gradient of the kernel.
    rows = patches.reshape(-1, patches.shape[-1])
    y = rows @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*patches.shape[:-1], -1)


def _space_to_depth(x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair) -> jax.Array:
    """A convolution with a stride as one without, of blocks whose pixels are channels.

    Zeros complete the kernel to whole blocks, so that a NaN or infinity spreads to all windows that
    share a block with it.
    """
    out = _output_size(x, kernel, stride=stride, padding=padding, dilation=(1, 1))
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


def _depthwise_by_phases(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """The same as :func:`_depthwise`, with a gradient of the input that is computed fast."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(wide)
    y = sum_of_places(
        x.astype(wide),
        lambda number, pixels, _: pixels * weights[number],
        size=kernel.shape[:2],
        stride=stride,
        before=padding,
        out=_output_size(x, kernel, stride=stride, padding=padding, dilation=dilation),
        dilation=dilation,
    )
    return y.astype(x.dtype)


def _depthwise_by_rows(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """The same as :func:`_depthwise`, with a gradient of the kernel that is computed fast."""
    arguments = {"stride": stride, "padding": padding, "dilation": dilation}
    how = row_sum((x.shape[0], *_output_size(x, kernel, **arguments), x.shape[-1]))
    if how is None:
        return _depthwise(x, kernel, stride, padding, dilation)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(wide)
    places = _places(x, kernel, **arguments)
    products = (
        place.astype(wide) * repeat_tangent(w, how)
        for place, w in zip(places, weights, strict=True)
    )
    return sum(products).astype(x.dtype)


@_bilinear(_depthwise_by_phases, _depthwise_by_rows)
def _depthwise(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """Convolve each channel with its own kernel ``[kh, kw, 1, C]``."""
    wide = jnp.promote_types(x.dtype, jnp.float32)  # XLA accumulates in it, too
    # Without the barrier XLA makes one loop of it all; for a large kernel it is slow, and takes
    # minutes to compile.
    barrier = math.prod(kernel.shape[:2]) > SMALL_KERNEL
    places = _places(x, kernel, stride=stride, padding=padding, dilation=dilation, barrier=barrier)
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(wide)
    products = (place.astype(wide) * w for place, w in zip(places, weights, strict=True))
    return sum(products).astype(x.dtype)


def _depthwise_by_cudnn(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    return plain_convolution(
        x, kernel, stride=stride, padding=padding, dilation=dilation, groups=x.shape[-1]
    )


def _depthwise_to_larger_map(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """The middle of a map that is larger than the kernel, with more zeros around the images."""
    height, width = _output_size(x, kernel, stride=stride, padding=padding, dilation=dilation)
    top = max(0, (kernel.shape[0] - height) // 2 + 1)
    left = max(0, (kernel.shape[1] - width) // 2 + 1)
    padding = padding[0] + top, padding[1] + left
    y = _depthwise_by_cudnn(x, kernel, stride, padding, dilation)
    return y[:, top : top + height, left : left + width]


@_bilinear(_depthwise_by_cudnn, _depthwise_to_larger_map)
def _depthwise_to_small_map(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """A depthwise convolution by cuDNN, with the kernel's gradient by cuDNN's function for that.

    Where the map is no larger than the kernel, XLA takes the gradient for a forward convolution:
    one of ConvNeXt's, 7x7 on 7x7 pixels, takes 30 times as long as on 14x14 pixels.
    """
    return _depthwise_by_cudnn(x, kernel, stride, padding, dilation)


def _grouped_products(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> jax.Array:
    """A grouped convolution as a sum over the kernel's places of products per group.

    As fast as :func:`_blocks` on small maps, and compiled several times faster.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    by_group = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), 3, 0)  # [groups, N, H, W, C]
    places = _places(by_group, kernel, stride=stride, padding=padding, dilation=dilation)
    weights = kernel.reshape(-1, kernel.shape[2], groups, kernel.shape[-1] // groups)
    y = sum(
        jnp.einsum("gnhwi,igo->gnhwo", place, w, preferred_element_type=wide)
        for place, w in zip(places, weights, strict=True)
    )
    y = jnp.moveaxis(y.astype(x.dtype), 0, 3)
    return y.reshape(*y.shape[:3], -1)


def _blocks(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> jax.Array:
    """A grouped convolution as dense ones of a few groups at a time.

    Each has a block-diagonal kernel, and its gradient is that of a dense convolution.
    """
    inputs, outputs = x.shape[-1] // groups, kernel.shape[-1] // groups
    together = math.ceil(BLOCK_CHANNELS / inputs)
    blocks = min(max(1, groups // together), MAX_BLOCKS)
    # As equal as can be, for a prime number of groups too.
    bounds = [groups * block // blocks for block in range(blocks + 1)]
    convolution = _strided if _is_strided(kernel, stride, dilation) else plain_convolution
    results = [
        convolution(
            x[..., first * inputs : last * inputs],
            _block_diagonal(kernel[..., first * outputs : last * outputs], last - first),
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        for first, last in zip(bounds, bounds[1:], strict=False)
    ]
    return jnp.concatenate(results, axis=-1)


def _block_diagonal(kernel: jax.Array, groups: int) -> jax.Array:
    """Expand a grouped ``[kh, kw, C, features]`` to a dense ``[kh, kw, groups * C, features]``."""
    height, width, channels, features = kernel.shape
    by_group = kernel.reshape(height, width, 1, channels, groups, -1)
    own = jnp.eye(groups, dtype=bool)[:, None, :, None]
    # Not a product with zeros, which would keep NaN and infinity.
    dense = jnp.where(own, by_group, jnp.zeros((), kernel.dtype))
    return dense.reshape(height, width, groups * channels, features)
