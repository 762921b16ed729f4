"""MobileNetV2, as ``torchvision.models.mobilenetv2`` defines it.

Sandler, Howard, Zhu, Zhmoginov and Chen 2018, "MobileNetV2: inverted residuals and linear
bottlenecks".
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from jaxcnn.errors import UserError
from jaxcnn.models.blocks import (
    ConvNormActivation,
    check_width,
    last_of_each_stride,
    make_divisible,
)
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    BatchNorm,
    Conv,
    Dropout,
    LayerFactory,
    Linear,
    Module,
    Sequential,
    adaptive_avg_pool,
    flatten,
    kaiming_normal_fan_out,
)
from jaxcnn.models.registry import Builder

__all__ = ["MobileNetV2", "mobilenet_v2"]

# Table 2: expansion t, channels c, repetitions n, stride s.
_BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(Module):
    """The inverted residual block (figure 4d).

    A 1x1 convolution that expands, a depthwise convolution, and a 1x1 convolution that projects,
    without activation. The shortcut connects the narrow ends.

    Attributes:
        features: output channels.
        stride: of the depthwise convolution.
        expand_ratio: channels of the depthwise convolution, as a multiple of the input's; at 1
            the first convolution is left out.
        norm_layer: factory of the norms.
    """

    features: int
    stride: int
    expand_ratio: float
    norm_layer: LayerFactory = BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / stride, W / stride, features]``."""
        channels = x.shape[-1]
        expanded = round(channels * self.expand_ratio)
        conv = partial(
            ConvNormActivation, expanded, norm_layer=self.norm_layer, activation=nn.relu6
        )
        expand = () if self.expand_ratio == 1 else (partial(conv, kernel_size=1),)
        depthwise = partial(conv, kernel_size=3, stride=self.stride, groups=expanded)
        project = partial(
            Conv, self.features, 1, use_bias=False, kernel_init=kaiming_normal_fan_out
        )
        layers = (*expand, depthwise, project, self.norm_layer)
        y = Sequential(layers, name="conv")(x, train)
        return x + y if self.stride == 1 and channels == self.features else y


class MobileNetV2(Classifier):
    """``torchvision.models.MobileNetV2``: a stem, inverted residuals, a wide convolution, a layer.

    Attributes:
        width_mult: multiplies the channels of every layer (of the last convolution only if it is
            above 1).
        inverted_residual_setting: rows of table 2, each with expansion, channels, repetitions and
            stride; None: the paper's.
        round_nearest: channels are rounded to a multiple of this.
        norm_layer: see :func:`~jaxcnn.models.layers.norm_factory`; None:
            :class:`~jaxcnn.models.layers.BatchNorm`.
        dropout: dropout rate of the last layer's input.
    """

    first_conv: ClassVar[str] = "features.0.0"
    classifier: ClassVar[tuple[str, ...]] = ("classifier.1",)
    paper: ClassVar[str] = (
        "Sandler et al. 2018, MobileNetV2: inverted residuals and linear bottlenecks"
    )

    width_mult: float = 1.0
    inverted_residual_setting: Sequence[Sequence[int]] | None = None
    round_nearest: int = 8
    norm_layer: LayerFactory | None = None
    dropout: float = 0.2

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The last block of each stride."""
        strides = [2]
        for _, _, repetitions, stride in self._rows():
            strides += [stride] + [1] * (repetitions - 1)
        return tuple(f"features.{index}" for index in last_of_each_stride(strides))

    @nn.nowrap
    def _rows(self) -> Sequence[Sequence[int]]:
        """The rows of the table, checked."""
        if self.inverted_residual_setting is None:
            return _BOTTLENECKS
        return _checked_rows(self.inverted_residual_setting)

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, C']``."""
        check_width(self.width_mult)
        if self.round_nearest < 1:
            raise UserError(f"round_nearest must be at least 1; it is {self.round_nearest}.")
        norm_layer = self.norm_layer or BatchNorm
        conv = partial(ConvNormActivation, norm_layer=norm_layer, activation=nn.relu6)
        block = partial(InvertedResidual, norm_layer=norm_layer)

        def width(channels: int, multiplier: float = self.width_mult) -> int:
            return make_divisible(channels * multiplier, self.round_nearest)

        blocks = [
            partial(block, width(channels), stride if index == 0 else 1, expand_ratio)
            for expand_ratio, channels, repetitions, stride in self._rows()
            for index in range(repetitions)
        ]
        # The last convolution stays wide in narrow networks.
        last = partial(conv, width(1280, max(1.0, self.width_mult)), kernel_size=1)
        features = (partial(conv, width(32), kernel_size=3, stride=2), *blocks, last)
        return Sequential(features, name="features")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', C']`` to ``[N, num_classes]``."""
        normal, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
        layers = [partial(Dropout, self.dropout)]
        if not pre_logits and self.num_classes:
            layers.append(partial(Linear, self.num_classes, kernel_init=normal, bias_init=zeros))
        x = flatten(adaptive_avg_pool(x, 1))
        return Sequential(layers, name="classifier")(x, train)


def _checked_rows(setting: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """The rows of an ``inverted_residual_setting``, checked."""
    for row in setting:
        if not isinstance(row, Sequence) or len(row) != 4 or row[3] not in (1, 2):
            raise UserError(
                "inverted_residual_setting must have rows of four numbers: expansion, channels, "
                f"repetitions and stride (1 or 2); one of them is {row!r}."
            )
    if not setting:
        raise UserError("inverted_residual_setting is empty; give it at least one row.")
    return setting


mobilenet_v2 = Builder("mobilenet_v2", MobileNetV2, doc="MobileNetV2")
