"""GoogLeNet with batch normalisation, as ``torchvision.models.googlenet`` defines it.

Szegedy et al. 2014, "Going deeper with convolutions", table 1. As in torchvision a batch norm
follows every convolution, the "5x5" branches have 3x3 kernels, and there is no local response
normalisation; :mod:`jaxcnn.models.googlenet_original` is the network of the paper.
"""

from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    BatchNorm,
    Conv,
    Dropout,
    Lambda,
    Linear,
    Module,
    Sequential,
    Size,
    adaptive_avg_pool,
    flatten,
    max_pool,
)
from jaxcnn.models.registry import Builder

# torchvision cuts the initial weights off at 2, 200 standard deviations away: so at nothing.
_initial_kernel = nn.initializers.normal(0.01)

_pool = partial(max_pool, kernel_size=3, stride=2, ceil_mode=True)


class GoogLeNetOutputs(NamedTuple):
    """What a GoogLeNet with auxiliary heads gives in training, each ``[N, num_classes]``.

    Attributes:
        logits: of the network.
        aux_logits2: of the head after module 4d.
        aux_logits1: of the head after module 4a.
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


# Of every module, by its name; the modules of a digit stand between two pools (table 1).
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
# The modules that an auxiliary head follows.
AUXILIARY_HEADS = {"4a": "aux1", "4d": "aux2"}


class ConvNormRelu(Module):
    """A convolution ``conv`` without bias, its batch norm ``bn``, and ReLU.

    Attributes:
        features: output channels.
        kernel_size: of the convolution.
        stride: likewise.
        padding: likewise.
        kernel_init: initial kernel.
    """

    features: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    kernel_init: Initializer = _initial_kernel

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Convolves ``[N, H, W, C]`` to ``[N, H', W', features]``."""
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.padding,
            use_bias=False,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        return nn.relu(BatchNorm(eps=1e-3, name="bn")(x, train))


class Inception(Module):
    """Four branches side by side (figure 2b).

    A 1x1 convolution; two of 3x3, each after one of 1x1 that reduces the channels (torchvision's
    second has the widths of the paper's 5x5); and one of 1x1 after max pooling.

    Attributes:
        widths: channels of the convolutions.
    """

    widths: InceptionWidths

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[N, H, W, C]`` to ``[N, H, W, C']``, the branches' channels one after another."""
        widths = self.widths
        pool = partial(Lambda, partial(max_pool, kernel_size=3, stride=1, padding=1))
        point = partial(ConvNormRelu, kernel_size=1)
        window = partial(ConvNormRelu, kernel_size=3, padding=1)
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
    """An auxiliary head: averaging to 4x4, a 1x1 convolution, two dense layers (section 5).

    Attributes:
        num_classes: length of its logits.
        dropout: probability with which an input of the last layer is dropped.
    """

    num_classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[N, H, W, C]`` to ``[N, num_classes]``."""
        x = ConvNormRelu(128, 1, name="conv")(adaptive_avg_pool(x, 4), train)
        x = nn.relu(Linear(1024, kernel_init=_initial_kernel, name="fc1")(flatten(x)))
        x = Dropout(self.dropout)(x, train)
        return Linear(self.num_classes, kernel_init=_initial_kernel, name="fc2")(x)


def from_imagenets_to_tensorflows_scale(images: jax.Array) -> jax.Array:
    """What TensorFlow's networks want, values from -1 to 1, of images normalised for torchvision.

    Those ``[N, H, W, 3]`` are less ImageNet's mean and divided by its deviation.

    Raises:
        UserError: for images without three channels.
    """
    if images.shape[-1] != 3:
        raise UserError(
            "transform_input=True takes images of three channels, normalised with ImageNet's mean "
            f"and deviation, but these have {images.shape[-1]}; use transform_input=False."
        )
    scale = [0.229 / 0.5, 0.224 / 0.5, 0.225 / 0.5]
    shift = [(0.485 - 0.5) / 0.5, (0.456 - 0.5) / 0.5, (0.406 - 0.5) / 0.5]
    return images * jnp.asarray(scale, images.dtype) + jnp.asarray(shift, images.dtype)


class GoogLeNet(Classifier):
    """``torchvision.models.GoogLeNet``: a stem, nine Inception modules, averaging, one layer.

    In training two auxiliary heads look at the maps between, if there are any.

    Attributes:
        aux_logits: whether there are auxiliary heads.
        transform_input: whether images come normalised for torchvision's other networks, and are
            to be brought to the scale of TensorFlow's, for its weights.
        dropout: probability with which an input of the last layer is dropped.
        dropout_aux: likewise of the auxiliary heads.
    """

    first_conv: ClassVar[str] = "conv1.conv"
    classifier: ClassVar[tuple[str, ...]] = ("fc", "aux1.fc2", "aux2.fc2")
    paper: ClassVar[str] = "Szegedy et al. 2014, Going deeper with convolutions"
    aux_weight: ClassVar[float] = 0.3

    aux_logits: bool = True
    transform_input: bool = False
    dropout: float = 0.2
    dropout_aux: float = 0.7

    @nn.compact
    def forward(self, x: jax.Array, train: bool = False) -> jax.Array | GoogLeNetOutputs:
        """Maps ``[N, H, W, C]`` to ``[N, num_classes]``."""
        if self.transform_input:
            x = from_imagenets_to_tensorflows_scale(x)
        x = _pool(ConvNormRelu(64, 7, 2, 3, name="conv1")(x, train))
        x = ConvNormRelu(64, 1, name="conv2")(x, train)
        x = _pool(ConvNormRelu(192, 3, padding=1, name="conv3")(x, train))
        auxiliary = {}
        heads_run = self.aux_logits and (train or self.is_initializing())  # for their parameters
        for module, widths in INCEPTION_WIDTHS.items():
            if module == "4a":
                x = _pool(x)
            if module == "5a":
                x = max_pool(x, 2, ceil_mode=True)
            x = Inception(widths, name=f"inception{module}")(x, train)
            if heads_run and module in AUXILIARY_HEADS:
                head = AUXILIARY_HEADS[module]
                aux = InceptionAux(self.num_classes, self.dropout_aux, name=head)
                auxiliary[head] = aux(x, train)
        x = Dropout(self.dropout)(flatten(adaptive_avg_pool(x, 1)), train)
        logits = Linear(self.num_classes, kernel_init=_initial_kernel, name="fc")(x)
        if train and self.aux_logits:
            return GoogLeNetOutputs(logits, auxiliary["aux2"], auxiliary["aux1"])
        return logits


googlenet = Builder("googlenet", GoogLeNet, "GoogLeNet with batch normalisation")
