"""The single-GPU AlexNet, as ``torchvision.models.alexnet`` defines it.

Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks": a single tower
with 64, 192, 384, 256 and 256 channels and without local response normalization.
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
    Linear,
    ReLU,
    Sequential,
    adaptive_avg_pool,
    flatten,
    max_pool,
)
from jaxcnn.models.registry import Builder

__all__ = ["AlexNet", "alexnet"]


class AlexNet(Classifier):
    """``torchvision.models.AlexNet``: five convolutions, pooling to 6x6, three dense layers.

    Attributes:
        dropout: dropout rate of the inputs of the first two dense layers.
    """

    first_conv: ClassVar[str] = "features.0"
    classifier: ClassVar[tuple[str, ...]] = ("classifier.6",)
    feature_layers: ClassVar[tuple[str, ...]] = (
        *("features.1", "features.4", "features.11"),  # the rectifier before each pooling
        "features.12",
    )
    paper: ClassVar[str] = (
        "Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks"
    )

    dropout: float = 0.5

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, 256]``."""
        pool = partial(Lambda, partial(max_pool, kernel_size=3, stride=2))
        features = (
            *(partial(Conv, 64, 11, stride=4, padding=2), ReLU, pool),
            *(partial(Conv, 192, 5, padding=2), ReLU, pool),
            *(partial(Conv, 384, 3, padding=1), ReLU),
            *(partial(Conv, 256, 3, padding=1), ReLU),
            *(partial(Conv, 256, 3, padding=1), ReLU, pool),
        )
        return Sequential(features, name="features")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', 256]`` to ``[N, num_classes]``; before the last layer ``[N, 4096]``."""
        dropout = partial(Dropout, self.dropout)
        layers = [
            *(dropout, partial(Linear, 4096), ReLU),
            *(dropout, partial(Linear, 4096), ReLU),
        ]
        if not pre_logits and self.num_classes:
            layers.append(partial(Linear, self.num_classes))
        x = flatten(adaptive_avg_pool(x, 6))
        return Sequential(layers, name="classifier")(x, train)


alexnet = Builder("alexnet", AlexNet, "AlexNet with one tower")
