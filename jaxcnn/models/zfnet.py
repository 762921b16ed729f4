"""ZFNet, the winner of the ImageNet challenge of 2013: AlexNet improved by visualising it.

Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks", figure 3.
"""

from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import Conv, Dropout, Linear, MaxPool, flatten, local_response_norm
from jaxcnn.models.registry import Builder

__all__ = ["ZFNet", "zfnet"]

# Section 3: initial weights have standard deviation 0.01, initial biases are zero.
_conv, _linear = (
    partial(layer, kernel_init=nn.initializers.normal(0.01), bias_init=nn.initializers.zeros)
    for layer in (Conv, Linear)
)
# "Normalised across feature maps" with AlexNet's constants.
_contrast = partial(local_response_norm, size=5, alpha=1e-4, beta=0.75, k=2)


class ZFNet(Classifier):
    """Five convolutions and three dense layers, for images of 224x224 pixels.

    The pooling layers ``pool1``, ``pool2`` and ``pool5`` output the switches of a deconvnet::

        logits, state = model.apply(variables, images, mutable=["switches"])
        state["switches"]["pool1"]["indices"]  # [N, 55, 55, 96]

    Attributes:
        wide: whether layers 3 to 5 have 512, 1024 and 512 channels instead of 384, 384 and 256
            (table 3).
        dropout: dropout rate after each hidden dense layer.
    """

    first_conv: ClassVar[str] = "conv1"
    classifier: ClassVar[tuple[str, ...]] = ("fc8",)
    paper: ClassVar[str] = (
        "Zeiler and Fergus 2013, Visualizing and understanding convolutional networks"
    )

    wide: bool = False
    dropout: float = 0.5

    @nn.compact
    def forward(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, 224, 224, C]`` to ``[N, num_classes]``."""
        x = nn.relu(_conv(96, 7, stride=2, padding=1, name="conv1")(x))
        x = _contrast(MaxPool(3, 2, 1, name="pool1")(x))
        x = nn.relu(_conv(256, 5, stride=2, name="conv2")(x))
        x = _contrast(MaxPool(3, 2, 1, name="pool2")(x))
        for layer, maps in enumerate((512, 1024, 512) if self.wide else (384, 384, 256), 3):
            x = nn.relu(_conv(maps, 3, padding=1, name=f"conv{layer}")(x))
        x = flatten(MaxPool(3, 2, name="pool5")(x))
        for name in ("fc6", "fc7"):
            x = Dropout(self.dropout)(nn.relu(_linear(4096, name=name)(x)), train)
        return _linear(self.num_classes, name="fc8")(x)


zfnet = Builder("zfnet", ZFNet, "ZFNet", parameters=62_357_608, multiply_adds=1_168_032_896)
