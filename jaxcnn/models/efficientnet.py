"""EfficientNet B0 to B7 and EfficientNetV2, as ``torchvision.models.efficientnet`` defines them.

* EfficientNet: Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural
  networks".
* EfficientNetV2: Tan and Le 2021, "EfficientNetV2: smaller models and faster training".
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import jax
from flax import linen as nn

from jaxcnn.models.blocks import (
    ConvNormActivation,
    SqueezeExcitation,
    inverted_residual_layers,
    last_of_each_stride,
    make_divisible,
)
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    BatchNorm,
    Dropout,
    LayerFactory,
    Linear,
    Module,
    Sequential,
    StochasticDepth,
    adaptive_avg_pool,
    flatten,
)
from jaxcnn.models.registry import Builder

__all__ = [
    "EfficientNet",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
]


class Block(Module):
    """The base class of the two residual blocks: their arguments and the shortcut.

    Attributes:
        features: output channels.
        expand_ratio: channels inside the block, as a multiple of the input's.
        kernel_size: of the spatial convolution.
        stride: of the spatial convolution.
        stochastic_depth_prob: probability of skipping the branch for an example in training.
        norm_layer: factory of the norms.
    """

    features: int
    expand_ratio: int
    kernel_size: int
    stride: int
    stochastic_depth_prob: float
    norm_layer: LayerFactory = BatchNorm

    def branch(self, channels: int, expanded: int) -> Sequence[LayerFactory]:
        """The layers of the residual branch, given the input's and the inner channels."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / stride, W / stride, features]``."""
        channels = x.shape[-1]
        layers = self.branch(channels, make_divisible(channels * self.expand_ratio))
        y = Sequential(layers, name="block")(x, train)
        if self.stride == 1 and channels == self.features:
            y = x + StochasticDepth(self.stochastic_depth_prob, name="stochastic_depth")(y, train)
        return y


class MBConv(Block):
    """MobileNetV3's inverted residual with SiLU; it squeezes to a quarter of the input channels."""

    def branch(self, channels: int, expanded: int) -> Sequence[LayerFactory]:
        """A 1x1 convolution, a depthwise one, squeeze-and-excitation, a 1x1 convolution."""
        return inverted_residual_layers(
            channels,
            expanded,
            self.features,
            self.kernel_size,
            self.stride,
            activation=nn.silu,
            squeeze=partial(SqueezeExcitation, max(1, channels // 4), activation=nn.silu),
            norm_layer=self.norm_layer,
        )


class FusedMBConv(Block):
    """MBConv with one dense convolution in place of its first two (EfficientNetV2, figure 2)."""

    def branch(self, channels: int, expanded: int) -> Sequence[LayerFactory]:
        """A convolution that expands, then one of 1x1; without expansion, one convolution."""
        conv = partial(ConvNormActivation, norm_layer=self.norm_layer, activation=nn.silu)
        spatial = partial(conv, kernel_size=self.kernel_size, stride=self.stride)
        if expanded == channels:
            return (partial(spatial, self.features),)
        project = partial(conv, self.features, kernel_size=1, activation=None)
        return partial(spatial, expanded), project


class Stage(NamedTuple):
    """A row of the papers' tables: blocks of one kind, the first with the stride."""

    block: type[Block]
    expand_ratio: int
    kernel_size: int
    stride: int
    features: int
    depth: int


class EfficientNet(Classifier):
    """``torchvision.models.EfficientNet``: a stem, stages of blocks, a wide convolution, one layer.

    Attributes:
        stages: the table, at ``width_mult=1`` and ``depth_mult=1``.
        stem_features: channels of the first convolution, at ``width_mult=1``.
        last_channel: channels of the last convolution; None: four times its input's.
        width_mult: multiplies the channels of every layer (compound scaling, equation 3).
        depth_mult: multiplies the depth of every stage.
        batch_norm: the norm if ``norm_layer`` is None.
        dropout: dropout rate of the last layer's input.
        stochastic_depth_prob: probability of skipping a branch for an example in training: block
            i of n has i / n of it, from 0 at the first block.
        norm_layer: see :func:`~jaxcnn.models.layers.norm_factory`; None:
            :class:`~jaxcnn.models.layers.BatchNorm` with the variant's ``eps`` and ``momentum``.
    """

    first_conv: ClassVar[str] = "features.0.0"
    classifier: ClassVar[tuple[str, ...]] = ("classifier.1",)
    paper: ClassVar[str] = (
        "Tan and Le 2019, EfficientNet: rethinking model scaling for convolutional neural networks"
    )

    stages: Sequence[Stage]
    stem_features: int
    last_channel: int | None
    width_mult: float
    depth_mult: float
    batch_norm: LayerFactory
    dropout: float
    stochastic_depth_prob: float = 0.2
    norm_layer: LayerFactory | None = None

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The last stage of each stride."""
        strides = [2, *(stage.stride for stage in self.stages)]
        return tuple(f"features.{index}" for index in last_of_each_stride(strides))

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, C']``."""
        norm_layer = self.norm_layer or self.batch_norm
        conv = partial(ConvNormActivation, norm_layer=norm_layer, activation=nn.silu)

        def width(channels: int) -> int:
            return make_divisible(channels * self.width_mult)

        layers = [partial(conv, width(self.stem_features), kernel_size=3, stride=2)]
        depths = [math.ceil(stage.depth * self.depth_mult) for stage in self.stages]
        block_index = 0
        for stage, depth in zip(self.stages, depths, strict=True):
            blocks = []
            for index in range(depth):
                blocks.append(
                    partial(
                        stage.block,
                        width(stage.features),
                        stage.expand_ratio,
                        stage.kernel_size,
                        stage.stride if index == 0 else 1,
                        self.stochastic_depth_prob * block_index / sum(depths),
                        norm_layer,
                    )
                )
                block_index += 1
            layers.append(partial(Sequential, blocks))
        last_channel = self.last_channel or 4 * width(self.stages[-1].features)
        layers.append(partial(conv, last_channel, kernel_size=1))
        return Sequential(layers, name="features")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', C']`` to ``[N, num_classes]``."""
        linear = partial(
            Linear,
            self.num_classes,
            # uniform within 1 / sqrt(num_classes)
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform"),
            bias_init=nn.initializers.zeros,
        )
        layers = [partial(Dropout, self.dropout)]
        if not pre_logits and self.num_classes:
            layers.append(linear)
        x = flatten(adaptive_avg_pool(x, 1))
        return Sequential(layers, name="classifier")(x, train)


_B = (  # EfficientNet, table 1
    Stage(MBConv, 1, 3, 1, 16, 1),
    Stage(MBConv, 6, 3, 2, 24, 2),
    Stage(MBConv, 6, 5, 2, 40, 2),
    Stage(MBConv, 6, 3, 2, 80, 3),
    Stage(MBConv, 6, 5, 1, 112, 3),
    Stage(MBConv, 6, 5, 2, 192, 4),
    Stage(MBConv, 6, 3, 1, 320, 1),
)
_V2_S = (  # EfficientNetV2, table 4
    Stage(FusedMBConv, 1, 3, 1, 24, 2),
    Stage(FusedMBConv, 4, 3, 2, 48, 4),
    Stage(FusedMBConv, 4, 3, 2, 64, 4),
    Stage(MBConv, 4, 3, 2, 128, 6),
    Stage(MBConv, 6, 3, 1, 160, 9),
    Stage(MBConv, 6, 3, 2, 256, 15),
)
_V2_M = (
    Stage(FusedMBConv, 1, 3, 1, 24, 3),
    Stage(FusedMBConv, 4, 3, 2, 48, 5),
    Stage(FusedMBConv, 4, 3, 2, 80, 5),
    Stage(MBConv, 4, 3, 2, 160, 7),
    Stage(MBConv, 6, 3, 1, 176, 14),
    Stage(MBConv, 6, 3, 2, 304, 18),
    Stage(MBConv, 6, 3, 1, 512, 5),
)
_V2_L = (
    Stage(FusedMBConv, 1, 3, 1, 32, 4),
    Stage(FusedMBConv, 4, 3, 2, 64, 7),
    Stage(FusedMBConv, 4, 3, 2, 96, 7),
    Stage(MBConv, 4, 3, 2, 192, 10),
    Stage(MBConv, 6, 3, 1, 224, 19),
    Stage(MBConv, 6, 3, 2, 384, 25),
    Stage(MBConv, 6, 3, 1, 640, 7),
)
_V2_PAPER = "Tan and Le 2021, EfficientNetV2: smaller models and faster training"


def _b(
    index: int,
    width_mult: float,
    depth_mult: float,
    input_size: int,
    dropout: float,
    batch_norm: LayerFactory = BatchNorm,
) -> Builder[EfficientNet]:
    """An EfficientNet of the first paper."""
    return Builder(
        f"efficientnet_b{index}",
        EfficientNet,
        doc=f"EfficientNet-B{index}",
        stages=_B,
        stem_features=32,
        last_channel=None,
        width_mult=width_mult,
        depth_mult=depth_mult,
        batch_norm=batch_norm,
        input_size=input_size,
        defaults={"dropout": dropout},
    )


def _v2(
    size: str, stages: Sequence[Stage], input_size: int, dropout: float
) -> Builder[EfficientNet]:
    """An EfficientNet of the second paper."""
    return Builder(
        f"efficientnet_v2_{size.lower()}",
        EfficientNet,
        doc=f"EfficientNetV2-{size}",
        paper=_V2_PAPER,
        stages=stages,
        stem_features=stages[0].features,
        last_channel=1280,
        width_mult=1.0,
        depth_mult=1.0,
        batch_norm=partial(BatchNorm, eps=0.001),
        input_size=input_size,
        defaults={"dropout": dropout},
    )


# TensorFlow's constants, with which the weights of the largest networks were trained.
_TF_BATCH_NORM = partial(BatchNorm, eps=0.001, momentum=0.01)

# Width, depth, image size and dropout. B2 has 288 pixels as torchvision's weights, not the paper's
# 260.
efficientnet_b0 = _b(0, 1.0, 1.0, 224, 0.2)
efficientnet_b1 = _b(1, 1.0, 1.1, 240, 0.2)
efficientnet_b2 = _b(2, 1.1, 1.2, 288, 0.3)
efficientnet_b3 = _b(3, 1.2, 1.4, 300, 0.3)
efficientnet_b4 = _b(4, 1.4, 1.8, 380, 0.4)
efficientnet_b5 = _b(5, 1.6, 2.2, 456, 0.4, _TF_BATCH_NORM)
efficientnet_b6 = _b(6, 1.8, 2.6, 528, 0.5, _TF_BATCH_NORM)
efficientnet_b7 = _b(7, 2.0, 3.1, 600, 0.5, _TF_BATCH_NORM)
efficientnet_v2_s = _v2("S", _V2_S, 384, 0.2)
efficientnet_v2_m = _v2("M", _V2_M, 480, 0.3)
efficientnet_v2_l = _v2("L", _V2_L, 480, 0.4)
