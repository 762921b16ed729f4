"""LeNet-5 as in textbooks: with ReLU, max pooling, and a dense layer as third convolution.

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition",
section II.B.
"""

from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import Conv, Lambda, Linear, ReLU, flatten, max_pool, relu
from jaxcnn.models.registry import Builder

__all__ = ["LeNet5", "lenet5"]


class LeNet5(Classifier):
    """Two 5x5 convolutions, each with 2x2 pooling, and three dense layers (400-120-84-classes).

    For images of 32x32 pixels (pad MNIST's 28x28 by two on each side). 61,706 parameters with one
    channel and ten classes.
    """

    first_conv: ClassVar[str] = "conv1"
    classifier: ClassVar[tuple[str, ...]] = ("fc3",)
    feature_layers: ClassVar[tuple[str, ...]] = ("relu1", "relu2", "pool2")
    paper: ClassVar[str] = (
        "LeCun et al. 1998, Gradient-based learning applied to document recognition"
    )

    num_classes: int = 10
    input_size: int = 32

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, 32, 32, C]`` to ``[N, 5, 5, 16]``."""
        pool = partial(Lambda, partial(max_pool, kernel_size=2))
        x = pool(name="pool1")(ReLU(name="relu1")(Conv(6, 5, name="conv1")(x)))
        return pool(name="pool2")(ReLU(name="relu2")(Conv(16, 5, name="conv2")(x)))

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, 5, 5, 16]`` to ``[N, num_classes]``; before the last layer ``[N, 84]``."""
        x = relu(Linear(120, name="fc1")(flatten(x)))
        x = relu(Linear(84, name="fc2")(x))
        if pre_logits or self.num_classes == 0:
            return x
        return Linear(self.num_classes, name="fc3")(x)


lenet5 = Builder("lenet5", LeNet5, "LeNet-5", parameters=61_706, multiply_adds=416_520)
