"""AlexNet as published, the winner of the ImageNet challenge of 2012.

Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep convolutional neural
networks". torchvision's ``alexnet`` is the narrower network of Krizhevsky's later "One weird
trick for parallelizing convolutional neural networks" (2014).
"""

import math
from collections.abc import Sequence
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

__all__ = ["AlexNetOriginal", "alexnet_original"]

# Section 5: initial weights are normal with standard deviation 0.01.
_normal = nn.initializers.normal(0.01)
_zeros = nn.initializers.zeros


class AlexNetOriginal(Classifier):
    """Five convolutions and three dense layers (figure 2), for images of 227x227 pixels.

    The paper says 224, which does not give its 55x55 map without padding; its code used 227. The
    AlexNet of textbooks has neither normalization nor columns, as in Zhang, Lipton, Li and Smola,
    "Dive into deep learning", section 8.1::

        models.alexnet_original(
            two_columns=False,
            local_response_norm=False,
            first_padding=1,
            weight_init="xavier_uniform",
            initial_bias=0.0,
        )

    Attributes:
        widths: output channels of the five convolutions.
        first_padding: padding of the first convolution, in pixels. The textbooks have 0, 1 or 2;
            2 gives the paper's maps for images of 224x224 pixels.
        two_columns: whether convolutions 2, 4 and 5 are split into two groups, which the paper
            keeps on two GPUs (section 3.2).
        local_response_norm: whether the first two layers are normalized (section 3.3).
        dropout: dropout rate of the inputs of the first two dense layers (section 4.2).
        initial_bias: initial bias of convolutions 2, 4 and 5 and of the hidden dense layers, so
            that their ReLUs have positive inputs (section 5); the other biases are zero.

    Raises:
        UserError: for invalid widths, or an invalid ``first_padding`` or ``initial_bias``.
    """

    first_conv: ClassVar[str] = "conv1"
    classifier: ClassVar[tuple[str, ...]] = ("fc8",)
    feature_layers: ClassVar[tuple[str, ...]] = ("relu1", "relu2", "relu5", "pool5")
    paper: ClassVar[str] = (
        "Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks"
    )

    input_size: int = 227
    widths: Sequence[int] = (96, 256, 384, 384, 256)
    first_padding: int = 0
    two_columns: bool = True
    local_response_norm: bool = True
    dropout: float = 0.5
    initial_bias: float = 1.0

    def __post_init__(self) -> None:
        """Check the arguments of the textbooks' forms."""
        _check_widths(self.widths)
        if type(self.first_padding) is not int or self.first_padding < 0:
            raise UserError(
                f"first_padding={self.first_padding!r} is not a number of pixels; use an integer "
                "of at least 0, for example 1."
            )
        if type(self.initial_bias) not in (int, float) or not math.isfinite(self.initial_bias):
            raise UserError(
                f"initial_bias={self.initial_bias!r} is not a number; use, for example, 0.0."
            )
        super().__post_init__()

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, 227, 227, C]`` to ``[N, 6, 6, widths[4]]``."""
        columns = 2 if self.two_columns else 1
        constant = nn.initializers.constant(self.initial_bias)
        maps = self.widths
        conv = partial(Conv, kernel_init=_normal)

        conv1 = conv(
            maps[0], 11, stride=4, padding=self.first_padding, bias_init=_zeros, name="conv1"
        )
        x = ReLU(name="relu1")(conv1(x))
        x = MaxPool(3, 2, name="pool1")(self.normalized(x))
        x = conv(maps[1], 5, padding=2, groups=columns, bias_init=constant, name="conv2")(x)
        x = ReLU(name="relu2")(x)
        x = MaxPool(3, 2, name="pool2")(self.normalized(x))
        x = conv(maps[2], 3, padding=1, bias_init=_zeros, name="conv3")(x)
        x = ReLU(name="relu3")(x)
        for layer in (4, 5):
            conv3x3 = conv(
                maps[layer - 1],
                3,
                padding=1,
                groups=columns,
                bias_init=constant,
                name=f"conv{layer}",
            )
            x = ReLU(name=f"relu{layer}")(conv3x3(x))
        return MaxPool(3, 2, name="pool5")(x)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, 6, 6, C]`` to ``[N, num_classes]``; before the last layer ``[N, 4096]``."""
        constant = nn.initializers.constant(self.initial_bias)
        linear = partial(Linear, kernel_init=_normal)
        x = flatten(x)
        for name in ("fc6", "fc7"):
            x = Dropout(self.dropout)(x, train)
            x = relu(linear(4096, bias_init=constant, name=name)(x))
        if pre_logits or self.num_classes == 0:
            return x
        return linear(self.num_classes, bias_init=_zeros, name="fc8")(x)

    def normalized(self, x: jax.Array) -> jax.Array:
        """Local response normalization with the paper's constants, or the identity.

        Like torch, the paper's code divides alpha by the number of channels in the sum.
        """
        if not self.local_response_norm:
            return x
        return local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=2)


def _check_widths(widths: Sequence[int]) -> None:
    if (
        not isinstance(widths, Sequence)
        or len(widths) != 5
        or not all(type(width) is int and width > 0 for width in widths)
    ):
        raise UserError(
            f"widths={widths!r} are not five positive integers, the output channels of the "
            "convolutions; use, for example, (96, 256, 384, 384, 256)."
        )


alexnet_original = Builder(
    "alexnet_original",
    AlexNetOriginal,
    "AlexNet of 2012",
    parameters=60_965_224,
    multiply_adds=724_406_816,
)
