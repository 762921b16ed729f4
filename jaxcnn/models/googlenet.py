"""GoogLeNet with batch normalization, as ``torchvision.models.googlenet`` defines it.

Szegedy et al. 2014, "Going deeper with convolutions", table 1. As in torchvision a batch norm
follows every convolution, the "5x5" branches have 3x3 kernels, and there is no local response
normalization; :mod:`jaxcnn.models.googlenet_original` is the network of the paper.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.models.blocks import BasicConv, transform_input
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    Dropout,
    Lambda,
    Linear,
    Module,
    Sequential,
    adaptive_avg_pool,
    flatten,
    max_pool,
)
from jaxcnn.models.registry import Builder

__all__ = ["GoogLeNet", "googlenet"]

# torchvision truncates at +-2, 200 standard deviations: no value is ever that large.
_initial_kernel = nn.initializers.normal(0.01)
_Conv = partial(BasicConv, kernel_init=_initial_kernel)

_pool = partial(max_pool, kernel_size=3, stride=2, ceil_mode=True)


class GoogLeNetOutputs(NamedTuple):
    """The outputs of a GoogLeNet with auxiliary heads in training, each ``[N, num_classes]``.

    Attributes:
        logits: those of the main classifier.
        aux_logits2: those of the auxiliary head after module 4d.
        aux_logits1: those of the auxiliary head after module 4a.
    """

    logits: jax.Array
    aux_logits2: jax.Array
    aux_logits1: jax.Array


class InceptionWidths(NamedTuple):
    """Channels of the convolutions of an Inception module, named as the columns of table 1."""

    conv1x1: int
    reduce3x3: int
    conv3x3: int
    reduce5x5: int
    conv5x5: int
    pool_proj: int


# By module (table 1). Between modules of different digits there is a pooling layer.
INCEPTION_WIDTHS = {
    "3a": InceptionWidths(64, 96, 128, 16, 32, 32),
    "3b": InceptionWidths(128, 128, 192, 32, 96, 64),
    "4a": InceptionWidths(192, 96, 208, 16, 48, 64),
    "4b": InceptionWidths(160, 112, 224, 24, 64, 64),
    "4c": InceptionWidths(128, 128, 256, 24, 64, 64),
    "4d": InceptionWidths(112, 144, 288, 32, 64, 64),
    "4e": InceptionWidths(256, 160, 320, 32, 128, 128),
    "5a": InceptionWidths(256, 160, 320, 32, 128, 128),
    "5b": InceptionWidths(384, 192, 384, 48, 128, 128),
}
# The modules followed by an auxiliary head, with its number.
AUXILIARY_HEADS = {"4a": 1, "4d": 2}


class Inception(Module):
    """The Inception module: four branches, concatenated (figure 2b).

    A 1x1 convolution; twice a 1x1 convolution that reduces the channels, then a 3x3 one (the second
    of these has the channels of the paper's 5x5); and max pooling, then a 1x1 convolution.

    Attributes:
        widths: channels of the convolutions.
    """

    widths: InceptionWidths

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H, W, C']``, the branches' channels in order."""
        widths = self.widths
        pool = partial(Lambda, partial(max_pool, kernel_size=3, stride=1, padding=1))
        point = partial(_Conv, kernel_size=1)
        window = partial(_Conv, kernel_size=3, padding=1)
        branches = (
            point(widths.conv1x1, name="branch1"),
            Sequential(
                (partial(point, widths.reduce3x3), partial(window, widths.conv3x3)), name="branch2"
            ),
            Sequential(
                (partial(point, widths.reduce5x5), partial(window, widths.conv5x5)), name="branch3"
            ),
            Sequential((pool, partial(point, widths.pool_proj)), name="branch4"),
        )
        return jnp.concatenate([branch(x, train) for branch in branches], axis=-1)


class InceptionAux(Module):
    """An auxiliary head: pooling to 4x4, a 1x1 convolution, two dense layers (section 5).

    Attributes:
        num_classes: number of its logits.
        dropout: dropout rate of the last layer's input.
    """

    num_classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, num_classes]``."""
        x = _Conv(128, 1, name="conv")(adaptive_avg_pool(x, 4), train)
        x = nn.relu(Linear(1024, kernel_init=_initial_kernel, name="fc1")(flatten(x)))
        x = Dropout(self.dropout)(x, train)
        return Linear(self.num_classes, kernel_init=_initial_kernel, name="fc2")(x)


class GoogLeNet(Classifier):
    """``torchvision.models.GoogLeNet``: a stem, nine Inception modules, pooling, one layer.

    In training, two auxiliary heads classify intermediate feature maps, unless they are disabled.

    Attributes:
        aux_logits: whether there are auxiliary heads.
        transform_input: whether to rescale images normalized as for torchvision's other networks,
            for weights from TensorFlow: see :func:`~jaxcnn.models.blocks.transform_input`.
        dropout: dropout rate of the last layer's input.
        dropout_aux: dropout rate of the auxiliary heads.
    """

    first_conv: ClassVar[str] = "conv1.conv"
    classifier: ClassVar[tuple[str, ...]] = ("fc", "aux1.fc2", "aux2.fc2")
    feature_layers: ClassVar[tuple[str, ...]] = (
        *("conv1", "conv3", "inception3b", "inception4e", "inception5b"),
    )
    paper: ClassVar[str] = "Szegedy et al. 2014, Going deeper with convolutions"
    aux_weight: ClassVar[float] = 0.3
    aux_outputs: ClassVar[Callable[..., Any] | None] = GoogLeNetOutputs

    aux_logits: bool = True
    transform_input: bool = False
    dropout: float = 0.2
    dropout_aux: float = 0.7

    @nn.compact
    def forward_features(
        self,
        x: jax.Array,
        train: bool = False,
        auxiliary: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, 1024]``."""
        if self.transform_input:
            x = transform_input(x)
        x = _pool(_Conv(64, 7, 2, 3, name="conv1")(x, train))
        x = _Conv(64, 1, name="conv2")(x, train)
        x = _pool(_Conv(192, 3, padding=1, name="conv3")(x, train))
        for module, widths in INCEPTION_WIDTHS.items():
            if module == "4a":
                x = _pool(x)
            if module == "5a":
                x = max_pool(x, 2, ceil_mode=True)
            x = Inception(widths, name=f"inception{module}")(x, train)
            if auxiliary is not None and module in AUXILIARY_HEADS:
                number = AUXILIARY_HEADS[module]
                head = InceptionAux(self.num_classes, self.dropout_aux, name=f"aux{number}")
                auxiliary[f"aux_logits{number}"] = head(x, train)
        return x

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', 1024]`` to ``[N, num_classes]``."""
        x = Dropout(self.dropout)(flatten(adaptive_avg_pool(x, 1)), train)
        if pre_logits or self.num_classes == 0:
            return x
        return Linear(self.num_classes, kernel_init=_initial_kernel, name="fc")(x)


googlenet = Builder("googlenet", GoogLeNet, "GoogLeNet with batch normalization")
