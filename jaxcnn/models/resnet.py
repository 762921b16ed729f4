"""ResNet and its descendants, as ``torchvision.models.resnet`` defines them.

* ResNet: He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", table 1.
  As in torchvision, a bottleneck's stride is in its 3x3 convolution ("v1.5"), not the first.
* ResNeXt: Xie et al. 2016, "Aggregated residual transformations for deep neural networks".
* Wide ResNet: Zagoruyko and Komodakis 2016, "Wide residual networks".
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from jaxcnn.errors import UserError
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
    kaiming_normal_fan_out,
    max_pool,
    relu,
)
from jaxcnn.models.registry import Builder

__all__ = [
    "ResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

_Conv = partial(Conv, kernel_init=kaiming_normal_fan_out)


class Block(Module):
    """The base class of the two residual blocks: their arguments and the shortcut.

    Attributes:
        planes: channels of the block before expansion.
        stride: of the first 3x3 convolution.
        downsample: whether the shortcut is a 1x1 convolution instead of the identity.
        groups: of the 3x3 convolutions (ResNeXt's cardinality).
        base_width: channels per group for every 64 planes.
        dilation: of the 3x3 convolutions.
        norm_layer: factory of the norms.
        zero_init_residual: whether the last norm's initial scale is zero, which makes the block
            the identity.
        conv_bias: whether the convolutions have biases.
    """

    expansion: ClassVar[int]

    planes: int
    stride: int = 1
    downsample: bool = False
    groups: int = 1
    base_width: int = 64
    dilation: int = 1
    norm_layer: LayerFactory = BatchNorm
    zero_init_residual: bool = False
    conv_bias: bool = False

    @property
    def conv(self) -> LayerFactory:
        """The factory of the block's convolutions."""
        return partial(_Conv, use_bias=self.conv_bias)

    def shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        """The identity, or a projection where the shape changes."""
        if not self.downsample:
            return x
        projection = partial(self.conv, self.planes * self.expansion, 1, stride=self.stride)
        return Sequential((projection, self.norm_layer), name="downsample")(x, train)

    def last_norm(self, name: str) -> nn.Module:
        """The norm before the addition."""
        if self.zero_init_residual:
            return self.norm_layer(name=name, scale_init=nn.initializers.zeros)
        return self.norm_layer(name=name)


class BasicBlock(Block):
    """Two 3x3 convolutions (figure 5, left)."""

    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / stride, W / stride, planes]``."""
        if self.groups != 1 or self.base_width != 64 or self.dilation != 1:
            raise UserError(
                "ResNets with basic blocks (resnet18, resnet34) support only groups=1, "
                "width_per_group=64 and no dilation; use resnet50 or a deeper one."
            )
        y = self.conv(self.planes, 3, stride=self.stride, padding=1, name="conv1")(x)
        y = nn.relu(self.norm_layer(name="bn1")(y, train))
        y = self.conv(self.planes, 3, padding=1, name="conv2")(y)
        y = self.last_norm("bn2")(y, train)
        return relu(y + self.shortcut(x, train))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, the last with four times the channels (figure 5, right)."""

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / stride, W / stride, 4 * planes]``."""
        width = int(self.planes * (self.base_width / 64)) * self.groups
        conv2 = partial(
            self.conv,
            width,
            3,
            stride=self.stride,
            padding=self.dilation,
            dilation=self.dilation,
            groups=self.groups,
        )
        y = self.conv(width, 1, name="conv1")(x)
        y = nn.relu(self.norm_layer(name="bn1")(y, train))
        y = conv2(name="conv2")(y)
        y = nn.relu(self.norm_layer(name="bn2")(y, train))
        y = self.conv(self.planes * self.expansion, 1, name="conv3")(y)
        y = self.last_norm("bn3")(y, train)
        return relu(y + self.shortcut(x, train))


class ResNet(Classifier):
    """``torchvision.models.ResNet``: a stem, four stages of residual blocks, pooling, one layer.

    Stages ``layer1`` to ``layer4`` have 64, 128, 256 and 512 planes and, relative to the image,
    strides 4, 8, 16 and 32.

    Attributes:
        block: the residual block.
        layers: number of blocks in each of the four stages.
        zero_init_residual: whether every residual branch is zero initially.
        groups: of the 3x3 convolutions of a bottleneck.
        width_per_group: channels per group for every 64 planes.
        replace_stride_with_dilation: for each of the last three stages, whether its stride of 2
            becomes a dilation; None: for none of them.
        norm_layer: see :func:`~jaxcnn.models.layers.norm_factory`; with ``zero_init_residual`` it
            is called with ``scale_init``, too. None: :class:`~jaxcnn.models.layers.BatchNorm`.
        conv_bias: whether the convolutions have biases, as in textbooks. torchvision's have none,
            because the norm that follows subtracts them.
    """

    first_conv: ClassVar[str] = "conv1"
    classifier: ClassVar[tuple[str, ...]] = ("fc",)
    feature_layers: ClassVar[tuple[str, ...]] = ("relu", "layer1", "layer2", "layer3", "layer4")
    paper: ClassVar[str] = "He et al. 2015, Deep residual learning for image recognition"

    block: type[Block]
    layers: Sequence[int]
    zero_init_residual: bool = False
    groups: int = 1
    width_per_group: int = 64
    replace_stride_with_dilation: Sequence[bool] | None = None
    norm_layer: LayerFactory | None = None
    conv_bias: bool = False

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, C']``."""
        dilate = self.replace_stride_with_dilation or (False, False, False)
        if not isinstance(dilate, Sequence) or len(dilate) != 3:
            raise UserError(
                "replace_stride_with_dilation must be None or three booleans, for the last three "
                f"stages; it is {dilate!r}."
            )
        if self.groups < 1 or self.width_per_group < 1:
            raise UserError(
                f"groups and width_per_group must be at least 1; they are {self.groups} and "
                f"{self.width_per_group}."
            )
        norm_layer = self.norm_layer or BatchNorm

        x = _Conv(64, 7, stride=2, padding=3, use_bias=self.conv_bias, name="conv1")(x)
        x = Lambda(nn.relu, name="relu")(norm_layer(name="bn1")(x, train))
        x = max_pool(x, 3, 2, 1)

        dilation = 1
        for stage, (depth, dilated) in enumerate(zip(self.layers, (False, *dilate), strict=True)):
            planes, stride, first_dilation = 64 * 2**stage, 1 if stage == 0 else 2, dilation
            if dilated:
                dilation, stride = dilation * stride, 1
            block = partial(
                self.block,
                planes,
                groups=self.groups,
                base_width=self.width_per_group,
                norm_layer=norm_layer,
                zero_init_residual=self.zero_init_residual,
                conv_bias=self.conv_bias,
            )
            changes_shape = stride != 1 or x.shape[-1] != planes * self.block.expansion
            first = partial(block, stride=stride, downsample=changes_shape, dilation=first_dilation)
            others = [partial(block, dilation=dilation)] * (depth - 1)
            x = Sequential((first, *others), name=f"layer{stage + 1}")(x, train)
        return x

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', C']`` to ``[N, num_classes]``."""
        x = flatten(adaptive_avg_pool(x, 1))
        if pre_logits or self.num_classes == 0:
            return x
        return Linear(self.num_classes, name="fc")(x)


_RESNEXT = "Xie et al. 2016, Aggregated residual transformations for deep neural networks"
_WIDE = "Zagoruyko and Komodakis 2016, Wide residual networks"

_variant = partial(Builder, module=ResNet)
_resnext = partial(_variant, block=Bottleneck, paper=_RESNEXT)
_wide = partial(_variant, block=Bottleneck, paper=_WIDE, width_per_group=128)

resnet18 = _variant("resnet18", doc="ResNet-18", block=BasicBlock, layers=(2, 2, 2, 2))
resnet34 = _variant("resnet34", doc="ResNet-34", block=BasicBlock, layers=(3, 4, 6, 3))
resnet50 = _variant("resnet50", doc="ResNet-50", block=Bottleneck, layers=(3, 4, 6, 3))
resnet101 = _variant("resnet101", doc="ResNet-101", block=Bottleneck, layers=(3, 4, 23, 3))
resnet152 = _variant("resnet152", doc="ResNet-152", block=Bottleneck, layers=(3, 8, 36, 3))
resnext50_32x4d = _resnext(
    "resnext50_32x4d", doc="ResNeXt-50 32x4d", layers=(3, 4, 6, 3), groups=32, width_per_group=4
)
resnext101_32x8d = _resnext(
    "resnext101_32x8d", doc="ResNeXt-101 32x8d", layers=(3, 4, 23, 3), groups=32, width_per_group=8
)
resnext101_64x4d = _resnext(
    "resnext101_64x4d", doc="ResNeXt-101 64x4d", layers=(3, 4, 23, 3), groups=64, width_per_group=4
)
wide_resnet50_2 = _wide("wide_resnet50_2", doc="Wide ResNet-50-2", layers=(3, 4, 6, 3))
wide_resnet101_2 = _wide("wide_resnet101_2", doc="Wide ResNet-101-2", layers=(3, 4, 23, 3))
