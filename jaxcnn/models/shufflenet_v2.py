"""ShuffleNet V2 at four widths, as ``torchvision.models.shufflenetv2`` defines it.

Ma, Zhang, Zheng and Sun 2018, "ShuffleNet V2: practical guidelines for efficient CNN architecture
design".
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    BatchNorm,
    Conv,
    Lambda,
    LayerFactory,
    Linear,
    Module,
    Sequential,
    adaptive_avg_pool,
    flatten,
    max_pool,
)
from jaxcnn.models.registry import Builder

__all__ = [
    "ShuffleNetV2",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
]

_relu = partial(Lambda, nn.relu)

# Table 5: number of units in each stage.
_REPEATS = (4, 8, 4)


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Interleave the groups of channels of ``[N, H, W, C]``: first of each group, second, ...

    Zhang et al. 2018, "ShuffleNet", section 3.1.
    """
    grouped = x.reshape(*x.shape[:3], groups, -1)
    return grouped.swapaxes(3, 4).reshape(x.shape)


def _conv(features: int) -> tuple[LayerFactory, LayerFactory, LayerFactory]:
    """A 1x1 convolution, its norm and ReLU."""
    return partial(Conv, features, 1, use_bias=False), BatchNorm, _relu


def _depthwise(channels: int, stride: int) -> tuple[LayerFactory, LayerFactory]:
    """A depthwise 3x3 convolution, and its norm."""
    conv = partial(Conv, channels, 3, stride=stride, padding=1, groups=channels, use_bias=False)
    return conv, BatchNorm


class ShuffleUnit(Module):
    """The unit of figure 3c, or with stride 2 that of figure 3d.

    With stride 1, half of the channels are passed on unchanged and half go through ``branch2``;
    with stride 2 all of them go through both branches. Then the channels are shuffled.

    Attributes:
        features: output channels, an even number.
        stride: of the 3x3 convolutions.
    """

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / stride, W / stride, features]``."""
        half = self.features // 2
        if self.stride == 1:
            left, right = jnp.split(x, 2, axis=-1)
        else:
            layers = (*_depthwise(x.shape[-1], self.stride), *_conv(half))
            left, right = Sequential(layers, name="branch1")(x, train), x
        layers = (*_conv(half), *_depthwise(half, self.stride), *_conv(half))
        right = Sequential(layers, name="branch2")(right, train)
        return channel_shuffle(jnp.concatenate((left, right), axis=-1), 2)


class ShuffleNetV2(Classifier):
    """``torchvision.models.ShuffleNetV2``: a stem, three stages of units, pooling, one layer.

    Attributes:
        channels: of ``conv1``, the three stages and ``conv5`` (table 5).
    """

    first_conv: ClassVar[str] = "conv1.0"
    classifier: ClassVar[tuple[str, ...]] = ("fc",)
    feature_layers: ClassVar[tuple[str, ...]] = (
        *("conv1", "maxpool", "stage2", "stage3", "stage4"),
    )
    paper: ClassVar[str] = (
        "Ma et al. 2018, ShuffleNet V2: practical guidelines for efficient CNN architecture design"
    )

    channels: Sequence[int]

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, channels[4]]``."""
        first, *stages, last = self.channels
        conv1 = partial(Conv, first, 3, stride=2, padding=1, use_bias=False)
        x = Sequential((conv1, BatchNorm, _relu), name="conv1")(x, train)
        x = Lambda(partial(max_pool, kernel_size=3, stride=2, padding=1), name="maxpool")(x)
        for stage, (channels, repeats) in enumerate(zip(stages, _REPEATS, strict=True), start=2):
            units = [partial(ShuffleUnit, channels, 2)]
            units += [partial(ShuffleUnit, channels, 1)] * (repeats - 1)
            x = Sequential(units, name=f"stage{stage}")(x, train)
        return Sequential(_conv(last), name="conv5")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', C']`` to ``[N, num_classes]``."""
        x = flatten(adaptive_avg_pool(x, 1))
        if pre_logits or self.num_classes == 0:
            return x
        return Linear(self.num_classes, name="fc")(x)


_variant = partial(Builder, module=ShuffleNetV2)

shufflenet_v2_x0_5 = _variant(
    "shufflenet_v2_x0_5", doc="ShuffleNet V2 0.5x", channels=(24, 48, 96, 192, 1024)
)
shufflenet_v2_x1_0 = _variant(
    "shufflenet_v2_x1_0", doc="ShuffleNet V2 1x", channels=(24, 116, 232, 464, 1024)
)
shufflenet_v2_x1_5 = _variant(
    "shufflenet_v2_x1_5", doc="ShuffleNet V2 1.5x", channels=(24, 176, 352, 704, 1024)
)
shufflenet_v2_x2_0 = _variant(
    "shufflenet_v2_x2_0", doc="ShuffleNet V2 2x", channels=(24, 244, 488, 976, 2048)
)
