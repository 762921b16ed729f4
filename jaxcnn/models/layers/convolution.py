"""Convolutions and dense layers with torch's arguments and initial weights."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer

from jaxcnn.errors import UserError
from jaxcnn.models.layers.module import Module, Size, check_window, pair

# Pixels of an output map up to which a convolution on a CPU is a product of patches.
SMALL_MAP = 4

# torch's default for convolutions and linear layers: kaiming_uniform_(a=sqrt(5)), which is
# uniform within 1 / sqrt(fan_in).
torch_default_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")
kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _uniform_bias(fan_in: int) -> Initializer:
    """Biases as torch begins them: uniform within 1 / sqrt(fan_in) of the kernel."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _checked_channels(x: jax.Array, features: int, groups: int, path: tuple[str, ...]) -> int:
    """The channels of ``[N, H, W, C]``, if ``groups`` can split them and the features."""
    if x.ndim != 4:
        raise UserError(f"Images must be [N, H, W, C], but these have the shape {x.shape}.")
    channels = x.shape[-1]
    if channels % groups or features % groups:
        raise UserError(
            f"Layer {'.'.join(path)!r} cannot split {channels} input and {features} output "
            f"channels into {groups} groups; choose groups that divide both."
        )
    return channels


def _operands(
    layer: "Conv | ConvTranspose | Linear",
    x: jax.Array,
    kernel_shape: tuple[int, ...],
    weight_norm: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """A layer's input, kernel and bias (None: it has none), in the dtype that it computes in."""
    kernel = layer._kernel(layer.kernel_init, kernel_shape, weight_norm)
    bias = None
    if layer.use_bias:
        bias_init = layer.bias_init or _uniform_bias(math.prod(kernel_shape[:-1]))
        bias = layer.param("bias", bias_init, (layer.features,), layer._param_dtype)
    return nn.dtypes.promote_dtype(x, kernel, bias, dtype=layer.dtype)


class Conv(Module):
    """``torch.nn.Conv2d``, and the one home of every convolution in the package.

    Parameters: ``kernel`` ``[kh, kw, in / groups, features]``, ``bias`` ``[features]``.
    The initial values are torch's own unless given. With ``weight_norm`` the kernel has two
    factors, as under ``torch.nn.utils.weight_norm``: ``kernel_v`` and ``kernel_g``
    ``[1, 1, 1, features]``.

    Raises:
        UserError: for an input that is not ``[N, H, W, C]``, or whose channels ``groups`` does
            not divide, or that is smaller than the kernel.
    """

    features: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    dilation: Size = 1
    groups: int = 1
    use_bias: bool = True
    weight_norm: bool = False
    kernel_init: Initializer = torch_default_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Convolves ``[N, H, W, C]`` to ``[N, H', W', features]``."""
        channels = _checked_channels(x, self.features, self.groups, self.path)
        kernel_shape = (*pair(self.kernel_size), channels // self.groups, self.features)
        x, kernel, bias = _operands(self, x, kernel_shape, self.weight_norm)
        window = [d * (k - 1) + 1 for d, k in zip(pair(self.dilation), kernel.shape, strict=False)]
        check_window(x, window, pair(self.padding), f"layer {'.'.join(self.path)!r}")
        y = convolve(
            x,
            kernel,
            stride=pair(self.stride),
            padding=pair(self.padding),
            dilation=pair(self.dilation),
            groups=self.groups,
        )
        return y if bias is None else y + bias


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> jax.Array:
    """Convolves ``[N, H, W, C]`` with ``[kh, kw, C / groups, features]``, as torch does.

    XLA's convolution on a CPU is 7 to 20 times slower than a matrix product where the output
    map has a few pixels only, and up to twice as slow where the kernel has one
    (``benchmarks/convolution.py``), so these are matrix products of the image's patches there.
    One of each channel by itself is several times slower too, and its gradient up to a hundred
    times: there it is a sum over the kernel's places.
    """
    height, width = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(
            x.shape[1:3], kernel.shape[:2], stride, padding, dilation, strict=True
        )
    )
    single = kernel.shape[:2] == (1, 1) and padding == (0, 0)
    dense = groups == 1 and (single or height * width <= SMALL_MAP)
    depthwise = groups == x.shape[-1] == kernel.shape[-1]
    if jax.default_backend() == "cpu" and (dense or depthwise):
        x = jnp.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
        rows = [
            x[:, top : top + (height - 1) * stride[0] + 1 : stride[0]]
            for top in range(0, kernel.shape[0] * dilation[0], dilation[0])
        ]
        if depthwise:  # or XLA makes one loop of it all, which takes minutes to compile
            rows = lax.optimization_barrier(rows)
        patches = [
            row[:, :, left : left + (width - 1) * stride[1] + 1 : stride[1]]
            for row in rows
            for left in range(0, kernel.shape[1] * dilation[1], dilation[1])
        ]
        places = kernel.reshape(-1, kernel.shape[-1])
        if depthwise:
            wide = jnp.promote_types(x.dtype, jnp.float32)  # in which XLA's adds up, too
            products = zip(patches, places.astype(wide), strict=True)
            return sum(patch.astype(wide) * place for patch, place in products).astype(x.dtype)
        return jnp.concatenate(patches, axis=-1) @ places
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=[(p, p) for p in padding],
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


class ConvTranspose(Module):
    """``torch.nn.ConvTranspose2d``: the gradient of a convolution as a layer.

    Parameters: ``kernel`` ``[kh, kw, features / groups, in]`` (that of the convolution whose
    gradient it is), ``bias`` ``[features]``.

    Raises:
        UserError: for an input that is not ``[N, H, W, C]``, or whose channels ``groups`` does
            not divide.
    """

    features: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    output_padding: Size = 0
    groups: int = 1
    use_bias: bool = True
    dilation: Size = 1
    kernel_init: Initializer = torch_default_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[N, H, W, C]`` to ``[N, H', W', features]``.

        ``H' = (H - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1``.
        """
        channels = _checked_channels(x, self.features, self.groups, self.path)
        out = self.features // self.groups
        kernel_shape = (*pair(self.kernel_size), out, channels)
        x, kernel, bias = _operands(self, x, kernel_shape)
        # The convolution that does it has the kernel turned by 180 degrees, in and out swapped
        # within each group.
        flipped = kernel[::-1, ::-1].reshape(*kernel.shape[:3], self.groups, -1)
        flipped = jnp.moveaxis(flipped, 2, 4).swapaxes(2, 3)
        flipped = flipped.reshape(*kernel.shape[:2], channels // self.groups, self.features)
        reach = [d * (k - 1) for d, k in zip(pair(self.dilation), kernel.shape, strict=False)]
        y = lax.conv_general_dilated(
            x,
            flipped,
            window_strides=(1, 1),
            padding=[
                (r - p, r - p + extra)
                for r, p, extra in zip(
                    reach, pair(self.padding), pair(self.output_padding), strict=True
                )
            ],
            lhs_dilation=pair(self.stride),
            rhs_dilation=pair(self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return y if bias is None else y + bias


class DepthwiseSeparableConv(Module):
    """A convolution of each channel by itself, then one of 1x1 over the channels.

    Howard et al. 2017, "MobileNets", section 3.1 (without the norm and activation between them).
    Children: ``depthwise``, ``pointwise``.
    """

    features: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    dilation: Size = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Convolves ``[N, H, W, C]`` to ``[N, H', W', features]``."""
        channels = x.shape[-1]
        x = Conv(
            channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            groups=channels,
            use_bias=self.use_bias,
            name="depthwise",
        )(x)
        return Conv(self.features, 1, use_bias=self.use_bias, name="pointwise")(x)


class SpatiallySeparableConv(Module):
    """A convolution of kx1, then one of 1xk, for a k x k one of rank one in space.

    Szegedy et al. 2016, "Rethinking the Inception architecture", section 3.2. Children:
    ``vertical``, ``horizontal``.
    """

    features: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Convolves ``[N, H, W, C]`` to ``[N, H', W', features]``."""
        (height, width), (down, right) = pair(self.kernel_size), pair(self.stride)
        rows, columns = pair(self.padding)
        conv = functools.partial(Conv, self.features, use_bias=self.use_bias)
        x = conv((height, 1), (down, 1), (rows, 0), name="vertical")(x)
        return conv((1, width), (1, right), (0, columns), name="horizontal")(x)


class Linear(Module):
    """``torch.nn.Linear``: ``kernel`` ``[in, features]``, ``bias`` ``[features]``.

    With ``weight_norm`` as in :class:`Conv`.
    """

    features: int
    use_bias: bool = True
    weight_norm: bool = False
    kernel_init: Initializer = torch_default_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[..., in]`` to ``[..., features]``."""
        shape = (x.shape[-1], self.features)
        x, kernel, bias = _operands(self, x, shape, self.weight_norm)
        y = x @ kernel
        return y if bias is None else y + bias
