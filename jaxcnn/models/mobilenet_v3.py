"""MobileNetV3, as ``torchvision.models.mobilenetv3`` defines it.

Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le and Adam 2019, "Searching
for MobileNetV3".
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import jax
from flax import linen as nn

from jaxcnn.models.blocks import (
    Activation,
    ConvNormActivation,
    SqueezeExcitation,
    check_width,
    inverted_residual_layers,
    last_of_each_stride,
    make_divisible,
)
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    BatchNorm,
    Dropout,
    Lambda,
    LayerFactory,
    Linear,
    Module,
    Sequential,
    adaptive_avg_pool,
    flatten,
)
from jaxcnn.models.registry import Builder

__all__ = ["MobileNetV3", "mobilenet_v3_large", "mobilenet_v3_small"]

# TensorFlow's constants (eps 0.001, momentum 0.99), with which the networks were published.
_BatchNorm = partial(BatchNorm, eps=0.001, momentum=0.01)


class Bneck(NamedTuple):
    """A row of table 1 or 2: kernel, expansion size, output channels, SE, activation, stride."""

    kernel_size: int
    expanded: int
    features: int
    squeeze: bool
    activation: Activation
    stride: int


class InvertedResidual(Module):
    """The block of MobileNetV2 with squeeze-and-excitation between its ends (figure 4).

    Attributes:
        row: its row of the table, with the channels of this network.
        dilation: of the depthwise convolution; above 1 it replaces the stride.
        norm_layer: factory of the norms.
    """

    row: Bneck
    dilation: int = 1
    norm_layer: LayerFactory = BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / stride, W / stride, features]``."""
        row, channels = self.row, x.shape[-1]
        squeeze = partial(
            SqueezeExcitation,
            make_divisible(row.expanded // 4),  # section 5.3
            scale_activation=nn.hard_sigmoid,
        )
        layers = inverted_residual_layers(
            channels,
            row.expanded,
            row.features,
            row.kernel_size,
            row.stride if self.dilation == 1 else 1,
            dilation=self.dilation,
            activation=row.activation,
            squeeze=squeeze if row.squeeze else None,
            norm_layer=self.norm_layer,
        )
        y = Sequential(layers, name="block")(x, train)
        # As in torchvision, a block whose stride became a dilation has no shortcut either.
        return x + y if row.stride == 1 and channels == row.features else y


class MobileNetV3(Classifier):
    """``torchvision.models.MobileNetV3``: a stem, inverted residuals, pooling, two layers.

    Attributes:
        rows: of table 1 or 2, at ``width_mult=1``. The last three have stride 32, relative to the
            image.
        last_channel: features of the second to last layer, at ``width_mult=1``.
        width_mult: multiplies the channels of every layer.
        reduced_tail: whether to halve the channels of the last three blocks and of what follows,
            for dense prediction (section 6.4).
        dilated: whether the last three blocks have a dilation instead of a stride, likewise.
        norm_layer: see :func:`~jaxcnn.models.layers.norm_factory`; None:
            :class:`~jaxcnn.models.layers.BatchNorm` with ``eps=0.001`` and ``momentum=0.01``.
        dropout: dropout rate of the last layer's input.
    """

    first_conv: ClassVar[str] = "features.0.0"
    classifier: ClassVar[tuple[str, ...]] = ("classifier.3",)
    paper: ClassVar[str] = "Howard et al. 2019, Searching for MobileNetV3"

    rows: Sequence[Bneck]
    last_channel: int
    width_mult: float = 1.0
    reduced_tail: bool = False
    dilated: bool = False
    norm_layer: LayerFactory | None = None
    dropout: float = 0.2

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The last block of each stride, and the last convolution."""
        rows, tail = self.rows, len(self.rows) - 3
        strides = [1 if self.dilated and i >= tail else row.stride for i, row in enumerate(rows)]
        return tuple(f"features.{index}" for index in last_of_each_stride([2, *strides, 1]))

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, C']``."""
        check_width(self.width_mult)
        norm_layer = self.norm_layer or _BatchNorm
        conv = partial(ConvNormActivation, norm_layer=norm_layer, activation=nn.hard_swish)
        divider, tail = 2 if self.reduced_tail else 1, len(self.rows) - 3

        blocks = []
        for index, row in enumerate(self.rows):
            row = row._replace(
                # The tail's first block expands the channels of the block before the tail.
                expanded=self._width(row.expanded, divider if index > tail else 1),
                features=self._width(row.features, divider if index >= tail else 1),
            )
            dilation = 2 if self.dilated and index >= tail else 1
            blocks.append(partial(InvertedResidual, row, dilation, norm_layer))
        last = partial(conv, 6 * row.features, kernel_size=1)
        features = (partial(conv, self._width(16), kernel_size=3, stride=2), *blocks, last)
        return Sequential(features, name="features")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', C']`` to ``[N, num_classes]``."""
        linear = partial(
            Linear, kernel_init=nn.initializers.normal(0.01), bias_init=nn.initializers.zeros
        )
        layers = [
            partial(linear, self._width(self.last_channel, 2 if self.reduced_tail else 1)),
            partial(Lambda, nn.hard_swish),
            partial(Dropout, self.dropout),
        ]
        if not pre_logits and self.num_classes:
            layers.append(partial(linear, self.num_classes))
        x = flatten(adaptive_avg_pool(x, 1))
        return Sequential(layers, name="classifier")(x, train)

    @nn.nowrap
    def _width(self, channels: int, divider: int = 1) -> int:
        return make_divisible(channels // divider * self.width_mult)


_RE, _HS = nn.relu, nn.hard_swish

_LARGE = (  # table 1
    Bneck(3, 16, 16, False, _RE, 1),
    Bneck(3, 64, 24, False, _RE, 2),
    Bneck(3, 72, 24, False, _RE, 1),
    Bneck(5, 72, 40, True, _RE, 2),
    Bneck(5, 120, 40, True, _RE, 1),
    Bneck(5, 120, 40, True, _RE, 1),
    Bneck(3, 240, 80, False, _HS, 2),
    Bneck(3, 200, 80, False, _HS, 1),
    Bneck(3, 184, 80, False, _HS, 1),
    Bneck(3, 184, 80, False, _HS, 1),
    Bneck(3, 480, 112, True, _HS, 1),
    Bneck(3, 672, 112, True, _HS, 1),
    Bneck(5, 672, 160, True, _HS, 2),
    Bneck(5, 960, 160, True, _HS, 1),
    Bneck(5, 960, 160, True, _HS, 1),
)
_SMALL = (  # table 2
    Bneck(3, 16, 16, True, _RE, 2),
    Bneck(3, 72, 24, False, _RE, 2),
    Bneck(3, 88, 24, False, _RE, 1),
    Bneck(5, 96, 40, True, _HS, 2),
    Bneck(5, 240, 40, True, _HS, 1),
    Bneck(5, 240, 40, True, _HS, 1),
    Bneck(5, 120, 48, True, _HS, 1),
    Bneck(5, 144, 48, True, _HS, 1),
    Bneck(5, 288, 96, True, _HS, 2),
    Bneck(5, 576, 96, True, _HS, 1),
    Bneck(5, 576, 96, True, _HS, 1),
)

_variant = partial(Builder, module=MobileNetV3)

mobilenet_v3_large = _variant(
    "mobilenet_v3_large", doc="MobileNetV3-Large", rows=_LARGE, last_channel=1280
)
mobilenet_v3_small = _variant(
    "mobilenet_v3_small", doc="MobileNetV3-Small", rows=_SMALL, last_channel=1024
)
