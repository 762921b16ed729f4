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
from jaxcnn.models.arithmetic import Size, pair, window_size
from jaxcnn.models.layers.convolve import convolve
from jaxcnn.models.layers.module import Module, check_window
from jaxcnn.models.layers.platforms import by_platform
from jaxcnn.models.layers.row_sums import repeat_rows, row_sum

# torch's default for convolutions and linear layers: kaiming_uniform_(a=sqrt(5)), which is
# uniform within 1 / sqrt(fan_in).
torch_default_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")
kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _uniform_bias(fan_in: int) -> Initializer:
    """Initial biases as in torch: uniform within 1 / sqrt(fan_in) of the kernel."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _checked_channels(x: jax.Array, features: int, groups: int, path: tuple[str, ...]) -> int:
    """Return the channels of ``[N, H, W, C]`` if ``groups`` divides them and the features."""
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
    """A layer's input, kernel and bias (None without one), in the dtype that it computes in."""
    kernel = layer._kernel(layer.kernel_init, kernel_shape, weight_norm)
    bias = None
    if layer.use_bias:
        bias_init = layer.bias_init or _uniform_bias(math.prod(kernel_shape[:-1]))
        bias = layer.param("bias", bias_init, (layer.features,), layer._param_dtype)
    return nn.dtypes.promote_dtype(x, kernel, bias, dtype=layer.dtype)


def _add_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """``y + bias``; the bias's gradient, a sum over all pixels, is a product on a CPU."""
    if bias is None:
        return y
    how = row_sum(y.shape)
    exact = jnp.promote_types(y.dtype, jnp.float32) == y.dtype

    def by_rows(y: jax.Array, bias: jax.Array) -> jax.Array:
        return y + repeat_rows(bias, how)

    return by_platform(y, bias, cpu=by_rows if exact and how is not None else None, default=jnp.add)


class Conv(Module):
    """``torch.nn.Conv2d``; every convolution of the package is one.

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
        """Convolve ``[N, H, W, C]`` to ``[N, H', W', features]``."""
        channels = _checked_channels(x, self.features, self.groups, self.path)
        kernel_shape = (*pair(self.kernel_size), channels // self.groups, self.features)
        x, kernel, bias = _operands(self, x, kernel_shape, self.weight_norm)
        window = list(map(window_size, pair(self.kernel_size), pair(self.dilation)))
        check_window(x, window, pair(self.padding), f"layer {'.'.join(self.path)!r}")
        y = convolve(
            x,
            kernel,
            stride=pair(self.stride),
            padding=pair(self.padding),
            dilation=pair(self.dilation),
            groups=self.groups,
        )
        return _add_bias(y, bias)


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
        """Map ``[N, H, W, C]`` to ``[N, H', W', features]``.

        H' and W' are :func:`~jaxcnn.models.arithmetic.conv_transpose_output_size`'s.
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
        return _add_bias(y, bias)


class DepthwiseSeparableConv(Module):
    """A depthwise convolution, then one of 1x1 over the channels.

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
        """Convolve ``[N, H, W, C]`` to ``[N, H', W', features]``."""
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
    """A kx1 convolution, then a 1xk one: a k x k kernel of rank one in space.

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
        """Convolve ``[N, H, W, C]`` to ``[N, H', W', features]``."""
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
        """Map ``[..., in]`` to ``[..., features]``."""
        shape = (x.shape[-1], self.features)
        x, kernel, bias = _operands(self, x, shape, self.weight_norm)
        y = x @ kernel
        return y if bias is None else y + bias
