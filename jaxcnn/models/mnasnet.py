"""MnasNet-B1 at four widths, as ``torchvision.models.mnasnet`` defines it.

Tan, Chen, Pang, Vasudevan, Sandler, Howard and Le 2019, "MnasNet: platform-aware neural
architecture search for mobile".
"""

from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from jaxcnn.models.blocks import make_divisible
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    BatchNorm,
    Conv,
    Dropout,
    Lambda,
    LayerFactory,
    Linear,
    Module,
    Sequential,
    adaptive_avg_pool,
    flatten,
    kaiming_normal_fan_out,
)
from jaxcnn.models.registry import Builder

__all__ = ["MNASNet", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"]

# The paper's momentum is TensorFlow's 0.9997.
_BatchNorm = partial(BatchNorm, momentum=1 - 0.9997)

# Channels, kernel size, stride, expansion and repetitions of each stack of inverted residuals.
_STACKS = (
    (24, 3, 2, 3, 3),
    (40, 5, 2, 3, 3),
    (80, 5, 2, 6, 3),
    (96, 3, 1, 6, 2),
    (192, 5, 2, 6, 4),
    (320, 3, 1, 6, 1),
)


def _conv(
    norm_layer: LayerFactory,
    features: int,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> tuple[LayerFactory, LayerFactory]:
    """A convolution, padded to keep the map's size at stride 1, and its norm."""
    conv = partial(
        Conv,
        features,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        use_bias=False,
        kernel_init=kaiming_normal_fan_out,
    )
    return conv, norm_layer


_relu = partial(Lambda, nn.relu)


class InvertedResidual(Module):
    """MobileNetV2's inverted residual block, with ReLU ("MBConv").

    Attributes:
        features: output channels.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        expansion: channels of the depthwise convolution, as a multiple of the input's.
        norm_layer: factory of the norms.
    """

    features: int
    kernel_size: int
    stride: int
    expansion: int
    norm_layer: LayerFactory = _BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / stride, W / stride, features]``."""
        channels = x.shape[-1]
        expanded = channels * self.expansion
        conv = partial(_conv, self.norm_layer)
        expand = conv(expanded)
        depthwise = conv(expanded, self.kernel_size, self.stride, groups=expanded)
        project = conv(self.features)
        layers = (*expand, _relu, *depthwise, _relu, *project)
        y = Sequential(layers, name="layers")(x, train)
        return x + y if self.stride == 1 and channels == self.features else y


class MNASNet(Classifier):
    """``torchvision.models.MNASNet``: MnasNet-B1, without squeeze-and-excitation.

    Attributes:
        alpha: multiplies the channels of every layer but the last convolution.
        dropout: dropout rate of the last layer's input.
        norm_layer: see :func:`~jaxcnn.models.layers.norm_factory`; not an argument of
            torchvision's. None: :class:`~jaxcnn.models.layers.BatchNorm` with the paper's momentum,
            of which a step replaces 0.03% of the running statistics.
    """

    first_conv: ClassVar[str] = "layers.0"
    classifier: ClassVar[tuple[str, ...]] = ("classifier.1",)
    feature_layers: ClassVar[tuple[str, ...]] = (
        *("layers.7", "layers.8", "layers.9", "layers.11", "layers.13"),
    )
    paper: ClassVar[str] = (
        "Tan et al. 2019, MnasNet: platform-aware neural architecture search for mobile"
    )

    alpha: float
    dropout: float = 0.2
    norm_layer: LayerFactory | None = None

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, 1280]``."""

        def width(channels: int) -> int:
            return make_divisible(channels * self.alpha)

        norm_layer = self.norm_layer or _BatchNorm
        conv = partial(_conv, norm_layer)
        layers = [
            *(*conv(width(32), 3, stride=2), _relu),
            *(*conv(width(32), 3, groups=width(32)), _relu),
            *conv(width(16)),
        ]
        for channels, kernel_size, stride, expansion, repetitions in _STACKS:
            blocks = [
                partial(
                    InvertedResidual,
                    width(channels),
                    kernel_size,
                    stride if index == 0 else 1,
                    expansion,
                    norm_layer,
                )
                for index in range(repetitions)
            ]
            layers.append(partial(Sequential, blocks))
        layers += [*conv(1280), _relu]
        return Sequential(layers, name="layers")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', 1280]`` to ``[N, num_classes]``."""
        linear = partial(
            Linear,
            self.num_classes,
            # kaiming_uniform_(mode="fan_out", nonlinearity="sigmoid"), whose gain is 1
            kernel_init=nn.initializers.variance_scaling(1.0, "fan_out", "uniform"),
            bias_init=nn.initializers.zeros,
        )
        layers = [partial(Dropout, self.dropout)]
        if not pre_logits and self.num_classes:
            layers.append(linear)
        x = flatten(adaptive_avg_pool(x, 1))
        return Sequential(layers, name="classifier")(x, train)


_variant = partial(Builder, module=MNASNet)

mnasnet0_5 = _variant("mnasnet0_5", doc="MnasNet-B1 0.5", alpha=0.5)
mnasnet0_75 = _variant("mnasnet0_75", doc="MnasNet-B1 0.75", alpha=0.75)
mnasnet1_0 = _variant("mnasnet1_0", doc="MnasNet-B1", alpha=1.0)
mnasnet1_3 = _variant("mnasnet1_3", doc="MnasNet-B1 1.3", alpha=1.3)
