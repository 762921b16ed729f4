"""Blocks that several families share, as in ``torchvision.ops.misc``."""

from collections.abc import Callable

import jax
from flax import linen as nn
from jax.nn.initializers import Initializer

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
from jaxcnn.models.layers.module import pair

Activation = Callable[[jax.Array], jax.Array]


class ConvNormActivation(Module):
    """``torchvision.ops.Conv2dNormActivation``: a convolution "0", its norm "1", an activation "2".

    Attributes:
        features: output channels.
        kernel_size: of the convolution.
        stride: likewise.
        padding: likewise; None: what keeps the map's size at stride 1.
        groups: likewise.
        norm_layer: factory of the norm; None: there is none.
        activation: None: there is none.
        dilation: of the convolution.
        use_bias: likewise; None: where there is no norm.
        kernel_init: initial kernel.
        bias_init: initial bias of the convolution; None: torch's own.
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
        """Maps ``[N, H, W, C]`` to ``[N, H / stride, W / stride, features]``."""
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


class SqueezeExcitation(Module):
    """``torchvision.ops.SqueezeExcitation``: weighs the channels by what the whole map holds.

    Hu, Shen and Sun 2018, "Squeeze-and-excitation networks".

    Attributes:
        squeeze_channels: between the two convolutions ``fc1`` and ``fc2``.
        activation: after ``fc1``.
        scale_activation: after ``fc2``.
        kernel_init: initial kernels.
        bias_init: initial biases; None: torch's own.
    """

    squeeze_channels: int
    activation: Activation = nn.relu
    scale_activation: Activation = nn.sigmoid
    kernel_init: Initializer = kaiming_normal_fan_out
    bias_init: Initializer | None = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Scales the channels of ``[N, H, W, C]``."""

        def conv(features: int, name: str) -> Conv:
            return Conv(
                features, 1, kernel_init=self.kernel_init, bias_init=self.bias_init, name=name
            )

        scale = adaptive_avg_pool(x, 1)
        scale = self.activation(conv(self.squeeze_channels, "fc1")(scale))
        return x * self.scale_activation(conv(x.shape[-1], "fc2")(scale))
