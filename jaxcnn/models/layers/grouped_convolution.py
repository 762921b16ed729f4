"""Ways to compute a grouped or depthwise convolution, of which ``convolve.py`` chooses."""

import math

import jax
import jax.numpy as jnp

from jaxcnn.models.layers.dense_convolution import (
    Pair,
    bilinear,
    is_strided,
    output_size,
    plain_convolution,
    seen_by_places,
    strided_convolution,
)
from jaxcnn.models.layers.row_sums import repeat_tangent, row_sum
from jaxcnn.models.layers.space_to_depth import sum_of_places

# Places of a depthwise kernel up to which XLA makes one good loop of all of them.
SMALL_KERNEL = 9
# Channels that a block of groups has at least: fewer are slower (in float64 up to a hundred times,
# because XLA falls back to a loop), more spend the time on zeros.
BLOCK_CHANNELS = 32
# Blocks per convolution: each is compiled by itself, forward and twice backward.
MAX_BLOCKS = 16


def _depthwise_by_phases(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """The same as :func:`depthwise_convolution`, with a fast gradient of the input."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(wide)
    y = sum_of_places(
        x.astype(wide),
        lambda number, pixels, _: pixels * weights[number],
        size=kernel.shape[:2],
        stride=stride,
        before=padding,
        out=output_size(x, kernel, stride=stride, padding=padding, dilation=dilation),
        dilation=dilation,
    )
    return y.astype(x.dtype)


def _depthwise_by_rows(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """The same as :func:`depthwise_convolution`, with a fast gradient of the kernel."""
    arguments = {"stride": stride, "padding": padding, "dilation": dilation}
    how = row_sum((x.shape[0], *output_size(x, kernel, **arguments), x.shape[-1]))
    if how is None:
        return depthwise_convolution(x, kernel, stride, padding, dilation)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(wide)
    places = seen_by_places(x, kernel, **arguments)
    products = (
        place.astype(wide) * repeat_tangent(w, how)
        for place, w in zip(places, weights, strict=True)
    )
    return sum(products).astype(x.dtype)


@bilinear(_depthwise_by_phases, _depthwise_by_rows)
def depthwise_convolution(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """Convolve each channel with its own kernel ``[kh, kw, 1, C]``."""
    wide = jnp.promote_types(x.dtype, jnp.float32)  # XLA accumulates in it, too
    # Without the barrier XLA makes one loop of it all; for a large kernel it is slow, and takes
    # minutes to compile.
    barrier = math.prod(kernel.shape[:2]) > SMALL_KERNEL
    places = seen_by_places(
        x, kernel, stride=stride, padding=padding, dilation=dilation, barrier=barrier
    )
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
    height, width = output_size(x, kernel, stride=stride, padding=padding, dilation=dilation)
    top = max(0, (kernel.shape[0] - height) // 2 + 1)
    left = max(0, (kernel.shape[1] - width) // 2 + 1)
    padding = padding[0] + top, padding[1] + left
    y = _depthwise_by_cudnn(x, kernel, stride, padding, dilation)
    return y[:, top : top + height, left : left + width]


@bilinear(_depthwise_by_cudnn, _depthwise_to_larger_map)
def depthwise_to_small_map(
    x: jax.Array, kernel: jax.Array, stride: Pair, padding: Pair, dilation: Pair
) -> jax.Array:
    """A depthwise convolution by cuDNN, with the kernel's gradient by cuDNN's function for that.

    Where the map is no larger than the kernel, XLA takes the gradient for a forward convolution:
    one of ConvNeXt's, 7x7 on 7x7 pixels, takes 30 times as long as on 14x14 pixels.
    """
    return _depthwise_by_cudnn(x, kernel, stride, padding, dilation)


def by_products_per_group(
    x: jax.Array, kernel: jax.Array, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> jax.Array:
    """A grouped convolution as a sum over the kernel's places of products per group.

    As fast as :func:`by_blocks_of_groups` on small maps, and compiled several times faster.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    by_group = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), 3, 0)  # [groups, N, H, W, C]
    places = seen_by_places(by_group, kernel, stride=stride, padding=padding, dilation=dilation)
    weights = kernel.reshape(-1, kernel.shape[2], groups, kernel.shape[-1] // groups)
    y = sum(
        jnp.einsum("gnhwi,igo->gnhwo", place, w, preferred_element_type=wide)
        for place, w in zip(places, weights, strict=True)
    )
    y = jnp.moveaxis(y.astype(x.dtype), 0, 3)
    return y.reshape(*y.shape[:3], -1)


def by_blocks_of_groups(
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
    convolution = strided_convolution if is_strided(kernel, stride, dilation) else plain_convolution
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
