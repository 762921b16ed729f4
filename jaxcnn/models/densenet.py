"""DenseNet-BC, as ``torchvision.models.densenet`` defines it.

Huang, Liu, van der Maaten and Weinberger 2017, "Densely connected convolutional networks", table 1,
with bottlenecks (B) and compression by a half (C). ``memory_efficient`` is Pleiss et al. 2017,
"Memory-efficient implementation of DenseNets".
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    INITIALIZERS,
    BatchNorm,
    Conv,
    Dropout,
    Lambda,
    LayerFactory,
    Linear,
    Module,
    adaptive_avg_pool,
    avg_pool,
    flatten,
    max_pool,
)
from jaxcnn.models.registry import Builder

__all__ = ["DenseNet", "densenet121", "densenet161", "densenet169", "densenet201"]

# Without bias, because a norm follows. Initial weights as torch.nn.init.kaiming_normal_; Flax's
# he_normal would truncate them.
DenseConv = partial(Conv, use_bias=False, kernel_init=INITIALIZERS["kaiming_normal"])


class DenseLayer(Module):
    """Norm, ReLU, convolution of 1x1; norm, ReLU, convolution of 3x3 (section 3, "bottleneck").

    Attributes:
        growth_rate: output channels.
        bn_size: channels between the convolutions, as a multiple of the growth rate.
        drop_rate: dropout rate of the output.
        memory_efficient: whether to recompute the concatenated and normalized input for the
            gradient instead of keeping it.
    """

    growth_rate: int
    bn_size: int = 4
    drop_rate: float = 0.0
    memory_efficient: bool = False

    @nn.compact
    def __call__(self, features: tuple[jax.Array, ...], train: bool = False) -> jax.Array:
        """Concatenate feature maps ``[N, H, W, C]``; compute ``[N, H, W, growth_rate]`` of them."""

        def bottleneck(layer: DenseLayer, features: tuple[jax.Array, ...]) -> jax.Array:
            x = jnp.concatenate(features, axis=-1)
            x = nn.relu(BatchNorm(name="norm1")(x, train))
            return DenseConv(layer.bn_size * layer.growth_rate, 1, name="conv1")(x)

        if self.memory_efficient:
            bottleneck = nn.remat(bottleneck)
        x = bottleneck(self, features)
        x = nn.relu(BatchNorm(name="norm2")(x, train))
        x = DenseConv(self.growth_rate, 3, padding=1, name="conv2")(x)
        return Dropout(self.drop_rate, name="drop")(x, train)


class DenseBlock(Module):
    """Dense layers; the input of each is the block's input and the outputs of all layers before.

    Attributes:
        depth: number of layers.
        layer: factory of the :class:`DenseLayer`.
        memory_efficient: whether each layer concatenates the outputs of all layers before, so
            that the concatenation need not be kept. Otherwise each output is appended once, and
            the compiler has two arrays to concatenate each time instead of up to ``depth``.
    """

    depth: int
    layer: LayerFactory
    memory_efficient: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H, W, C + depth * growth_rate]``."""
        features: tuple[jax.Array, ...] = (x,)
        for index in range(self.depth):
            new = self.layer(name=f"denselayer{index + 1}")(features, train)
            features = (*features, new)
            if not self.memory_efficient:
                features = (jnp.concatenate(features, axis=-1),)
        return jnp.concatenate(features, axis=-1)


class Transition(Module):
    """Halve the channels (1x1 convolution), height and width (average pooling)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 2, W / 2, C / 2]``."""
        x = nn.relu(BatchNorm(name="norm")(x, train))
        x = DenseConv(x.shape[-1] // 2, 1, name="conv")(x)
        return avg_pool(x, 2)


class DenseFeatures(Module):
    """A DenseNet before its pooling: a stem, and dense blocks with transitions between them.

    Attributes:
        num_init_features: channels of the stem.
        blocks: factories of the :class:`DenseBlock`.
    """

    num_init_features: int
    blocks: Sequence[LayerFactory]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, C']`` (with four blocks)."""
        x = DenseConv(self.num_init_features, 7, stride=2, padding=3, name="conv0")(x)
        x = BatchNorm(name="norm0")(x, train)
        x = Lambda(nn.relu, name="relu0")(x)
        x = max_pool(x, 3, 2, 1)
        for index, block in enumerate(self.blocks):
            if index:
                x = Transition(name=f"transition{index}")(x, train)
            x = block(name=f"denseblock{index + 1}")(x, train)
        # torchvision's name, whatever the number of blocks.
        return nn.relu(BatchNorm(name="norm5")(x, train))


class DenseNet(Classifier):
    """``torchvision.models.DenseNet``: :class:`DenseFeatures`, pooling, one layer.

    Attributes:
        growth_rate: channels that each dense layer adds (the paper's k).
        block_config: number of dense layers in each block.
        num_init_features: channels of the stem.
        bn_size: channels between a dense layer's convolutions, as a multiple of the growth rate.
        drop_rate: dropout rate of the dense layers' outputs.
        memory_efficient: whether to recompute the dense layers' concatenated and normalized
            inputs for the gradient instead of keeping them: memory then grows linearly with the
            number of layers, not quadratically. Parameters and results are the same. (In
            torchvision the running statistics differ: the second computation updates them again.)
    """

    first_conv: ClassVar[str] = "features.conv0"
    classifier: ClassVar[tuple[str, ...]] = ("classifier",)
    paper: ClassVar[str] = "Huang et al. 2017, Densely connected convolutional networks"

    growth_rate: int = 32
    block_config: Sequence[int] = (6, 12, 24, 16)
    num_init_features: int = 64
    bn_size: int = 4
    drop_rate: float = 0.0
    memory_efficient: bool = False

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The rectifier of the stem, the blocks but the last, and the last rectifier."""
        blocks = range(1, len(self.block_config))
        return (
            "features.relu0",
            *(f"features.denseblock{index}" for index in blocks),
            "features",
        )

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, C']``, with four blocks."""
        layer = partial(
            DenseLayer, self.growth_rate, self.bn_size, self.drop_rate, self.memory_efficient
        )
        blocks = tuple(
            partial(DenseBlock, depth, layer, self.memory_efficient) for depth in self.block_config
        )
        return DenseFeatures(self.num_init_features, blocks, name="features")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', C']`` to ``[N, num_classes]``."""
        x = flatten(adaptive_avg_pool(x, 1))
        if pre_logits or self.num_classes == 0:
            return x
        zeros = nn.initializers.zeros
        return Linear(self.num_classes, bias_init=zeros, name="classifier")(x)


_variant = partial(Builder, module=DenseNet)
_narrow = partial(_variant, growth_rate=32, num_init_features=64)

densenet121 = _narrow("densenet121", doc="DenseNet-121", block_config=(6, 12, 24, 16))
densenet161 = _variant(
    "densenet161",
    doc="DenseNet-161",
    growth_rate=48,
    block_config=(6, 12, 36, 24),
    num_init_features=96,
)
densenet169 = _narrow("densenet169", doc="DenseNet-169", block_config=(6, 12, 32, 32))
densenet201 = _narrow("densenet201", doc="DenseNet-201", block_config=(6, 12, 48, 32))
