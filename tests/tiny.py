"""A network that compiles in a second, with every kind of parameter."""

import jax
from flax import linen as nn

from jaxcnn.models import layers
from jaxcnn.models.classifier import Classifier


class TinyNet(Classifier, kw_only=True):
    """Two convolutions with norms, one with a bias, and a layer."""

    classifier = ("fc",)
    first_conv = "conv1"
    norm_layer: layers.LayerFactory = layers.BatchNorm
    num_classes: int = 10

    @nn.compact
    def forward(self, x: jax.Array, train: bool = False) -> jax.Array:
        for index in (1, 2):
            x = layers.Conv(8, 3, padding=1, use_bias=False, name=f"conv{index}")(x)
            x = nn.relu(self.norm_layer(name=f"bn{index}")(x, train))
        x = nn.relu(layers.Conv(8, 3, stride=2, name="conv3")(x))
        return layers.Linear(self.num_classes, name="fc")(x.mean((1, 2)))
