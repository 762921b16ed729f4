"""VGG, as ``torchvision.models.vgg`` defines it, and with any other blocks.

Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image recognition",
table 1; with batch normalization (Ioffe and Szegedy 2015) after each convolution in the ``_bn``
variants.
"""

import itertools
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
    Dropout,
    Lambda,
    Linear,
    ReLU,
    Sequential,
    adaptive_avg_pool,
    flatten,
    kaiming_normal_fan_out,
    max_pool,
)
from jaxcnn.models.registry import Builder

__all__ = [
    "VGG",
    "vgg",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

# The networks of table 1: number of convolutions in each of the five blocks, and the channels.
_CONVOLUTIONS = {
    "A": (1, 1, 2, 2, 2),
    "B": (2, 2, 2, 2, 2),
    "D": (2, 2, 3, 3, 3),
    "E": (2, 2, 4, 4, 4),
}
_CHANNELS = (64, 128, 256, 512, 512)
_BLOCKS = {
    network: tuple(zip(convolutions, _CHANNELS, strict=True))
    for network, convolutions in _CONVOLUTIONS.items()
}


class VGG(Classifier):
    """``torchvision.models.VGG``: blocks of 3x3 convolutions, then three dense layers.

    Each block ends in max pooling that halves height and width. The last map is average-pooled to
    7x7, so images of any size work from two to the power of the number of blocks.

    Attributes:
        blocks: pairs of number of convolutions and channels, one per block.
        batch_norm: whether a batch norm follows each convolution.
        dropout: dropout rate of the outputs of the first two dense layers.
    """

    first_conv: ClassVar[str] = "features.0"
    classifier: ClassVar[tuple[str, ...]] = ("classifier.6",)
    paper: ClassVar[str] = (
        "Simonyan and Zisserman 2014, Very deep convolutional networks for large-scale image "
        "recognition"
    )

    blocks: Sequence[tuple[int, int]] = _BLOCKS["A"]
    batch_norm: bool = False
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Check the blocks; turn the lists of a config into tuples, which are hashable."""
        object.__setattr__(self, "blocks", _checked_blocks(self.blocks))
        super().__post_init__()

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The last rectifier of each block, and the last pooling layer."""
        per_convolution = 3 if self.batch_norm else 2
        lengths = (convolutions * per_convolution + 1 for convolutions, _ in self.blocks)
        ends = list(itertools.accumulate(lengths))
        return tuple(f"features.{index}" for index in (*(end - 2 for end in ends), ends[-1] - 1))

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, C']``, with five blocks."""
        pool = partial(Lambda, partial(max_pool, kernel_size=2))
        zeros = nn.initializers.zeros
        conv = partial(Conv, kernel_init=kaiming_normal_fan_out, bias_init=zeros)
        after = (BatchNorm, partial(Lambda, nn.relu)) if self.batch_norm else (ReLU,)
        features = []
        for convolutions, channels in self.blocks:
            conv3x3 = partial(conv, channels, 3, padding=1)
            features += [conv3x3, *after] * convolutions + [pool]

        return Sequential(tuple(features), name="features")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', C']`` to ``[N, num_classes]``; before the last layer ``[N, 4096]``."""
        normal, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
        linear = partial(Linear, kernel_init=normal, bias_init=zeros)
        dropout = partial(Dropout, self.dropout)
        layers = [
            *(partial(linear, 4096), ReLU, dropout),
            *(partial(linear, 4096), ReLU, dropout),
        ]
        if not pre_logits and self.num_classes:
            layers.append(partial(linear, self.num_classes))
        x = flatten(adaptive_avg_pool(x, 7))
        return Sequential(layers, name="classifier")(x, train)


def _checked_blocks(blocks: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """The blocks as tuples, checked to be pairs of positive integers."""
    try:
        pairs = tuple(tuple(block) for block in blocks)
    except TypeError:  # not a sequence of sequences
        pairs = ()
    if not pairs or not all(
        len(pair) == 2 and all(type(number) is int and number > 0 for number in pair)
        for pair in pairs
    ):
        raise UserError(
            f"blocks={blocks!r} are not pairs (number of convolutions, channels) of positive "
            "integers; use, for example, ((1, 64), (2, 128))."
        )
    return pairs


_variant = partial(Builder, module=VGG)

vgg = _variant(
    "vgg",
    doc="A VGG with any blocks, by default those of VGG-11",
    parameters=132_863_336,
    multiply_adds=7_609_090_048,
)
vgg11 = _variant("vgg11", doc="VGG-11", blocks=_BLOCKS["A"], batch_norm=False)
vgg11_bn = _variant("vgg11_bn", doc="VGG-11 with batch norm", blocks=_BLOCKS["A"], batch_norm=True)
vgg13 = _variant("vgg13", doc="VGG-13", blocks=_BLOCKS["B"], batch_norm=False)
vgg13_bn = _variant("vgg13_bn", doc="VGG-13 with batch norm", blocks=_BLOCKS["B"], batch_norm=True)
vgg16 = _variant("vgg16", doc="VGG-16", blocks=_BLOCKS["D"], batch_norm=False)
vgg16_bn = _variant("vgg16_bn", doc="VGG-16 with batch norm", blocks=_BLOCKS["D"], batch_norm=True)
vgg19 = _variant("vgg19", doc="VGG-19", blocks=_BLOCKS["E"], batch_norm=False)
vgg19_bn = _variant("vgg19_bn", doc="VGG-19 with batch norm", blocks=_BLOCKS["E"], batch_norm=True)
