"""Blocks and helpers that several families share, as in ``torchvision.ops.misc``."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from jaxcnn.errors import UserError
from jaxcnn.models.arithmetic import pair
from jaxcnn.models.layers import (
    BatchNorm,
    Conv,
    Lambda,
    LayerFactory,
    Module,
    Size,
    adaptive_avg_pool,
    kaiming_normal_fan_out,
)

Activation = Callable[[jax.Array], jax.Array]


class ConvNormActivation(Module):
    """``torchvision.ops.Conv2dNormActivation``: a convolution "0", its norm "1", an activation "2".

    Attributes:
        features: output channels.
        kernel_size: of the convolution.
        stride: of the convolution.
        padding: of the convolution; None: keeps the size of the map at stride 1.
        groups: of the convolution.
        norm_layer: factory of the norm; None: no norm.
        activation: None: no activation.
        dilation: of the convolution.
        use_bias: whether the convolution has a bias; None: only without a norm.
        kernel_init: initial kernel.
        bias_init: initial bias of the convolution; None: torch's default.
    """

    features: int
    kernel_size: Size = 3
    stride: Size = 1
    padding: Size | None = None
    groups: int = 1
    norm_layer: LayerFactory | None = BatchNorm
    activation: Activation | None = nn.relu
    dilation: int = 1
    use_bias: bool | None = None
    kernel_init: Initializer = kaiming_normal_fan_out
    bias_init: Initializer | None = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / stride, W / stride, features]``."""
        height, width = ((size - 1) // 2 * self.dilation for size in pair(self.kernel_size))
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            (height, width) if self.padding is None else self.padding,
            self.dilation,
            self.groups,
            use_bias=self.norm_layer is None if self.use_bias is None else self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name="0",
        )(x)
        if self.norm_layer is not None:
            x = self.norm_layer(name="1")(x, train)
        if self.activation is not None:
            x = Lambda(self.activation, name="1" if self.norm_layer is None else "2")(x)
        return x


class BasicConv(Module):
    """torchvision's ``BasicConv2d``, of the Inception networks.

    A convolution ``conv`` without bias, its batch norm ``bn``, and ReLU.

    Attributes:
        features: output channels.
        kernel_size: of the convolution.
        stride: of the convolution.
        padding: of the convolution.
        kernel_init: initial kernel.
    """

    features: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    kernel_init: Initializer = kaiming_normal_fan_out

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Convolve ``[N, H, W, C]`` to ``[N, H', W', features]``."""
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.padding,
            use_bias=False,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        return nn.relu(BatchNorm(eps=1e-3, name="bn")(x, train))


class SqueezeExcitation(Module):
    """``torchvision.ops.SqueezeExcitation``: scales each channel by weights computed from all.

    Hu, Shen and Sun 2018, "Squeeze-and-excitation networks".

    Attributes:
        squeeze_channels: output channels of ``fc1``, the first of the two 1x1 convolutions.
        activation: after ``fc1``.
        scale_activation: after ``fc2``.
        kernel_init: initial kernels.
        bias_init: initial biases; None: torch's default.
    """

    squeeze_channels: int
    activation: Activation = nn.relu
    scale_activation: Activation = nn.sigmoid
    kernel_init: Initializer = kaiming_normal_fan_out
    bias_init: Initializer | None = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Scale the channels of ``[N, H, W, C]``."""

        def conv(features: int, name: str) -> Conv:
            return Conv(
                features, 1, kernel_init=self.kernel_init, bias_init=self.bias_init, name=name
            )

        scale = adaptive_avg_pool(x, 1)
        scale = self.activation(conv(self.squeeze_channels, "fc1")(scale))
        return x * self.scale_activation(conv(x.shape[-1], "fc2")(scale))


def inverted_residual_layers(
    channels: int,
    expanded: int,
    features: int,
    kernel_size: int,
    stride: int,
    *,
    dilation: int = 1,
    activation: Activation,
    squeeze: LayerFactory | None,
    norm_layer: LayerFactory,
) -> Sequence[LayerFactory]:
    """The branch of an inverted residual block of MobileNetV3 and EfficientNet.

    A 1x1 convolution that expands, a depthwise convolution, squeeze-and-excitation, and a 1x1
    convolution that projects.

    Args:
        channels: input channels.
        expanded: channels of the depthwise convolution; if equal to ``channels``, the first
            convolution is left out.
        features: output channels.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        dilation: of the depthwise convolution.
        activation: after every convolution but the last.
        squeeze: squeeze-and-excitation before the last convolution; None: none.
        norm_layer: factory of the norms.

    Returns:
        The factories of its layers.
    """
    conv = partial(ConvNormActivation, norm_layer=norm_layer, activation=activation)
    expand = partial(conv, expanded, kernel_size=1)
    depthwise = partial(
        conv, expanded, kernel_size=kernel_size, stride=stride, dilation=dilation, groups=expanded
    )
    project = partial(conv, features, kernel_size=1, activation=None)
    layers = (expand if expanded != channels else None, depthwise, squeeze, project)
    return tuple(layer for layer in layers if layer is not None)


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round a number of channels to a multiple of ``divisor``.

    The MobileNets and their descendants round the product of channels and width multiplier so: to
    the nearest multiple, at least ``divisor`` and at least nine tenths of the number.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def last_of_each_stride(strides: Sequence[int]) -> list[int]:
    """Which layers are followed by one that makes the map smaller, or by none.

    Args:
        strides: of consecutive layers.

    Example::

        >>> last_of_each_stride([2, 1, 2, 2, 1])
        [1, 2, 4]
    """
    return [i for i, following in enumerate([*strides[1:], 2]) if following > 1]


def check_width(width_mult: float) -> None:
    """Check that a width multiplier is positive.

    Raises:
        UserError: if it is not.
    """
    if not width_mult > 0:
        raise UserError(f"width_mult must be more than 0; it is {width_mult}.")


def transform_input(images: jax.Array) -> jax.Array:
    """Rescale images ``[N, H, W, 3]`` from torchvision's normalization to TensorFlow's.

    From values with ImageNet's mean subtracted, divided by its standard deviation, to -1 to 1:
    torchvision's ``transform_input``, for weights trained in TensorFlow.

    Raises:
        UserError: for images without three channels.
    """
    if images.shape[-1] != 3:
        raise UserError(
            "transform_input=True needs images of three channels, normalized with ImageNet's mean "
            f"and standard deviation; these have {images.shape[-1]}. Use transform_input=False."
        )
    scale = [0.229 / 0.5, 0.224 / 0.5, 0.225 / 0.5]
    shift = [(0.485 - 0.5) / 0.5, (0.456 - 0.5) / 0.5, (0.406 - 0.5) / 0.5]
    return images * jnp.asarray(scale, images.dtype) + jnp.asarray(shift, images.dtype)
