"""Network in network.

Lin, Chen and Yan 2013, "Network in network", as its authors' network for ImageNet, except that
the last block's 3x3 convolution already outputs the classes. The paper does not give the initial
weights; these are He's for ReLU (He et al. 2015, "Delving deep into rectifiers").
"""

from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    Conv,
    Dropout,
    Lambda,
    Module,
    adaptive_avg_pool,
    flatten,
    max_pool,
    relu,
)
from jaxcnn.models.registry import Builder

__all__ = ["NiN", "nin"]

_Conv = partial(Conv, kernel_init=nn.initializers.he_normal(), bias_init=nn.initializers.zeros)


class MlpConv(Module):
    """A multilayer perceptron applied at each position of the image (section 3.1).

    A convolution, then two 1x1 convolutions, each with ReLU.

    Attributes:
        features: output channels of all three.
        kernel_size: of the first.
        stride: of the first.
        padding: of the first.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H', W', features]``."""
        conv = _Conv(self.features, self.kernel_size, self.stride, self.padding, name="conv")
        x = relu(conv(x))
        x = relu(_Conv(self.features, 1, name="mlp1")(x))
        return relu(_Conv(self.features, 1, name="mlp2")(x))


class NiN(Classifier):
    """Four :class:`MlpConv` blocks, and no dense layer.

    The last block outputs one map per class; its mean is the logit: global average pooling
    (section 3.2).

    Attributes:
        dropout: dropout rate of the last block's input.
    """

    first_conv: ClassVar[str] = "mlpconv1.conv"
    classifier: ClassVar[tuple[str, ...]] = ("mlpconv4.conv", "mlpconv4.mlp1", "mlpconv4.mlp2")
    feature_layers: ClassVar[tuple[str, ...]] = ("mlpconv1", "mlpconv2", "mlpconv3", "pool3")
    paper: ClassVar[str] = "Lin et al. 2013, Network in network"

    dropout: float = 0.5

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, 384]``."""
        pool = partial(Lambda, partial(max_pool, kernel_size=3, stride=2))
        x = pool(name="pool1")(MlpConv(96, 11, stride=4, name="mlpconv1")(x))
        x = pool(name="pool2")(MlpConv(256, 5, padding=2, name="mlpconv2")(x))
        return pool(name="pool3")(MlpConv(384, 3, padding=1, name="mlpconv3")(x))

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', 384]`` to ``[N, num_classes]``; before the last block ``[N, 384]``."""
        if pre_logits or self.num_classes == 0:
            return flatten(adaptive_avg_pool(x, 1))
        x = Dropout(self.dropout)(x, train)
        x = MlpConv(self.num_classes, 3, padding=1, name="mlpconv4")(x)
        return flatten(adaptive_avg_pool(x, 1))


nin = Builder("nin", NiN, "Network in network", parameters=7_439_608, multiply_adds=965_572_864)
