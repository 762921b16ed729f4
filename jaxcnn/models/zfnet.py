"""ZFNet, the winner of the ImageNet challenge of 2013: AlexNet improved by visualizing it.

Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks", figure 3.
"""

import math
from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    Conv,
    Dropout,
    Linear,
    MaxPool,
    ReLU,
    flatten,
    local_response_norm,
    relu,
)
from jaxcnn.models.registry import Builder

__all__ = ["ZFNet", "zfnet"]

# Section 3 has weights initialized "to 10^-2" and biases to zero. Equal filters would stay equal:
# 0.01 is the standard deviation here, and the constant with ``weight_init=0.01``.
_conv, _linear = (
    partial(layer, kernel_init=nn.initializers.normal(0.01), bias_init=nn.initializers.zeros)
    for layer in (Conv, Linear)
)


class ZFNet(Classifier):
    """Five convolutions and three dense layers, for images of 224x224 pixels.

    The pooling layers ``pool1``, ``pool2`` and ``pool5`` output the switches of a deconvnet::

        logits, state = model.apply(variables, images, mutable=["switches"])
        state["switches"]["pool1"]["indices"]  # [N, 55, 55, 96]

    Attributes:
        wide: whether layers 3 to 5 have 512, 1024 and 512 channels instead of 384, 384 and 256
            (table 3).
        local_response_norm: whether the first two layers are normalized "across feature maps".
        lrn_size: number of neighboring channels that the normalization sums over, the n of
            AlexNet's paper; this and the next three are the arguments of
            ``torch.nn.LocalResponseNorm``, by default with AlexNet's values.
        lrn_alpha: weight of the sum of squares, which is divided by ``lrn_size``.
        lrn_beta: exponent.
        lrn_k: constant that is added to the sum, so that it is never zero.
        dropout: dropout rate after each hidden dense layer.

    Raises:
        UserError: for constants of the normalization that are out of range.
    """

    first_conv: ClassVar[str] = "conv1"
    classifier: ClassVar[tuple[str, ...]] = ("fc8",)
    feature_layers: ClassVar[tuple[str, ...]] = ("relu1", "pool1", "relu2", "relu5", "pool5")
    paper: ClassVar[str] = (
        "Zeiler and Fergus 2013, Visualizing and understanding convolutional networks"
    )

    wide: bool = False
    local_response_norm: bool = True
    lrn_size: int = 5
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    lrn_k: float = 2.0
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Check the constants of the local response normalization."""
        if type(self.lrn_size) is not int or self.lrn_size < 1:
            raise UserError(
                f"lrn_size={self.lrn_size!r} is not a number of channels; use a positive integer, "
                "for example 5."
            )
        for name, least in (("lrn_alpha", 0), ("lrn_beta", 0), ("lrn_k", 1e-6)):
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value < math.inf:
                raise UserError(
                    f"{name}={value!r} is not a number of at least {least}; use, for example, "
                    f"{getattr(type(self), name)}."
                )
        super().__post_init__()

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, 224, 224, C]`` to ``[N, 6, 6, C']``."""
        x = ReLU(name="relu1")(_conv(96, 7, stride=2, padding=1, name="conv1")(x))
        x = self.normalized(MaxPool(3, 2, 1, name="pool1")(x))
        x = ReLU(name="relu2")(_conv(256, 5, stride=2, name="conv2")(x))
        x = self.normalized(MaxPool(3, 2, 1, name="pool2")(x))
        for layer, maps in enumerate((512, 1024, 512) if self.wide else (384, 384, 256), 3):
            x = _conv(maps, 3, padding=1, name=f"conv{layer}")(x)
            x = ReLU(name=f"relu{layer}")(x)
        return MaxPool(3, 2, name="pool5")(x)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, 6, 6, C]`` to ``[N, num_classes]``; before the last layer ``[N, 4096]``."""
        x = flatten(x)
        for name in ("fc6", "fc7"):
            x = Dropout(self.dropout)(relu(_linear(4096, name=name)(x)), train)
        if pre_logits or self.num_classes == 0:
            return x
        return _linear(self.num_classes, name="fc8")(x)

    def normalized(self, x: jax.Array) -> jax.Array:
        """Local response normalization with the given constants, or the identity."""
        if not self.local_response_norm:
            return x
        return local_response_norm(x, self.lrn_size, self.lrn_alpha, self.lrn_beta, self.lrn_k)


zfnet = Builder("zfnet", ZFNet, "ZFNet", parameters=62_357_608, multiply_adds=1_168_032_896)
