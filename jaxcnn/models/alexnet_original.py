"""AlexNet as published, the winner of the ImageNet challenge of 2012.

Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep convolutional neural
networks". torchvision's ``alexnet`` is the narrower network of Krizhevsky's later "One weird
trick for parallelizing convolutional neural networks" (2014).
"""

from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import Conv, Dropout, Linear, MaxPool, flatten, local_response_norm
from jaxcnn.models.registry import Builder

__all__ = ["AlexNetOriginal", "alexnet_original"]

# Section 5: initial weights are normal with standard deviation 0.01; initial biases are one in
# convolutions 2, 4 and 5 and the hidden dense layers, so that their ReLUs have positive inputs, and
# zero elsewhere.
_normal = nn.initializers.normal(0.01)
_zeros, _ones = nn.initializers.zeros, nn.initializers.ones


class AlexNetOriginal(Classifier):
    """Five convolutions and three dense layers (figure 2), for images of 227x227 pixels.

    The paper says 224, which does not give its 55x55 map without padding; its code used 227.

    Attributes:
        two_columns: whether convolutions 2, 4 and 5 are split into two groups, which the paper
            keeps on two GPUs (section 3.2).
        local_response_norm: whether the first two layers are normalised (section 3.3). Without
            normalisation and columns this is the AlexNet of textbooks.
        dropout: dropout rate of the inputs of the first two dense layers (section 4.2).
    """

    first_conv: ClassVar[str] = "conv1"
    classifier: ClassVar[tuple[str, ...]] = ("fc8",)
    paper: ClassVar[str] = (
        "Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks"
    )

    input_size: int = 227
    two_columns: bool = True
    local_response_norm: bool = True
    dropout: float = 0.5

    @nn.compact
    def forward(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, 227, 227, C]`` to ``[N, num_classes]``."""
        columns = 2 if self.two_columns else 1
        conv, linear = (partial(layer, kernel_init=_normal) for layer in (Conv, Linear))

        x = nn.relu(conv(96, 11, stride=4, bias_init=_zeros, name="conv1")(x))
        x = MaxPool(3, 2, name="pool1")(self.normalized(x))
        x = conv(256, 5, padding=2, groups=columns, bias_init=_ones, name="conv2")(x)
        x = MaxPool(3, 2, name="pool2")(self.normalized(nn.relu(x)))
        x = nn.relu(conv(384, 3, padding=1, bias_init=_zeros, name="conv3")(x))
        x = nn.relu(conv(384, 3, padding=1, groups=columns, bias_init=_ones, name="conv4")(x))
        x = nn.relu(conv(256, 3, padding=1, groups=columns, bias_init=_ones, name="conv5")(x))
        x = flatten(MaxPool(3, 2, name="pool5")(x))

        for name in ("fc6", "fc7"):
            x = Dropout(self.dropout)(x, train)
            x = nn.relu(linear(4096, bias_init=_ones, name=name)(x))
        return linear(self.num_classes, bias_init=_zeros, name="fc8")(x)

    def normalized(self, x: jax.Array) -> jax.Array:
        """Local response normalisation with the paper's constants, or the identity.

        Like torch, the paper's code divides alpha by the number of channels in the sum.
        """
        if not self.local_response_norm:
            return x
        return local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=2)


alexnet_original = Builder(
    "alexnet_original",
    AlexNetOriginal,
    "AlexNet of 2012",
    parameters=60_965_224,
    multiply_adds=724_406_816,
)
