"""GoogLeNet as published, the winner of the ImageNet challenge of 2014.

Szegedy et al. 2014, "Going deeper with convolutions", table 1 and figure 3: convolutions
with biases, 5x5 where torchvision has 3x3, local response normalization in the stem and no batch
normalization. Where the paper gives no details, this follows Caffe's ``bvlc_googlenet``: the
constants of the normalization, rounding up in pooling layers (``ceil_mode``), and the initial
weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.googlenet import (
    AUXILIARY_HEADS,
    INCEPTION_WIDTHS,
    GoogLeNetOutputs,
    InceptionWidths,
)
from jaxcnn.models.layers import (
    Conv,
    Dropout,
    Linear,
    Module,
    ReLU,
    adaptive_avg_pool,
    avg_pool,
    flatten,
    local_response_norm,
    max_pool,
    relu,
)
from jaxcnn.models.registry import Builder

__all__ = ["GoogLeNetOriginal", "googlenet_original"]

# Caffe's "xavier": uniform with the variance 1 / fan_in; positive biases keep the ReLUs active.
_initial_kernel = nn.initializers.lecun_uniform()
_initial_bias = nn.initializers.constant(0.2)

# Size of the maps that the auxiliary heads were designed for, and after their pooling, in pixels.
AUXILIARY_MAP, AUXILIARY_POOLED = 14, 4

_Conv = partial(Conv, kernel_init=_initial_kernel, bias_init=_initial_bias)
_LastLinear = partial(Linear, kernel_init=_initial_kernel, bias_init=nn.initializers.zeros)

_normalize = partial(local_response_norm, size=5)
_halve = partial(max_pool, kernel_size=3, stride=2, ceil_mode=True)


class Inception(Module):
    """The Inception module: 1x1, 3x3 and 5x5 convolutions and pooling, concatenated (figure 2).

    Attributes:
        widths: channels of the convolutions.
        naive: whether to leave out the 1x1 convolutions that reduce the channels, before the 3x3
            and 5x5 convolutions and after the pooling (figure 2a instead of 2b).
    """

    widths: InceptionWidths
    naive: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H, W, C']``, the branches' channels in order."""
        widths = self.widths

        def point(x: jax.Array, name: str) -> jax.Array:
            return relu(_Conv(getattr(widths, name), 1, name=name)(x))

        def reduced(x: jax.Array, name: str) -> jax.Array:
            return x if self.naive else point(x, name)

        conv3x3 = _Conv(widths.conv3x3, 3, padding=1, name="conv3x3")
        conv5x5 = _Conv(widths.conv5x5, 5, padding=2, name="conv5x5")
        branches = (
            point(x, "conv1x1"),
            relu(conv3x3(reduced(x, "reduce3x3"))),
            relu(conv5x5(reduced(x, "reduce5x5"))),
            reduced(max_pool(x, 3, stride=1, padding=1), "pool_proj"),
        )
        return jnp.concatenate(branches, axis=-1)


class AuxiliaryHead(Module):
    """An auxiliary head: average pooling, a 1x1 convolution, two dense layers (section 5).

    Attributes:
        num_classes: number of its logits.
        dropout: dropout rate of the last layer's input.
    """

    num_classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]``, 14 to 16 pixels high and wide, to ``[N, num_classes]``."""
        if not all(AUXILIARY_MAP <= size < AUXILIARY_MAP + 3 for size in x.shape[1:3]):
            raise UserError(
                "The auxiliary heads need images 223 to 270 pixels high and wide, whose maps there "
                f"are 14 to 16; this map is {x.shape[1]}x{x.shape[2]}. Use such images, or "
                "aux_logits=False."
            )
        x = avg_pool(x, 5, 3)
        x = flatten(relu(_Conv(128, 1, name="conv")(x)))
        x = relu(Linear(1024, kernel_init=_initial_kernel, bias_init=_initial_bias, name="fc1")(x))
        x = Dropout(self.dropout)(x, train)
        return _LastLinear(self.num_classes, name="fc2")(x)


class GoogLeNetOriginal(Classifier):
    """A stem, nine Inception modules, pooling, and one dense layer.

    In training, two auxiliary heads classify intermediate feature maps, unless they are disabled.
    Their dense layers fix the size of the images: 223 to 270 pixels high and wide. In evaluation,
    and without the heads, any size from 31 pixels works.

    Attributes:
        aux_logits: whether there are auxiliary heads.
        dropout: dropout rate of the last layer's input.
        dropout_aux: dropout rate of the auxiliary heads.
    """

    first_conv: ClassVar[str] = "conv1"
    classifier: ClassVar[tuple[str, ...]] = ("fc", "aux1.fc2", "aux2.fc2")
    feature_layers: ClassVar[tuple[str, ...]] = (
        *("relu1", "relu2", "inception3b", "inception4e", "inception5b"),
    )
    paper: ClassVar[str] = "Szegedy et al. 2014, Going deeper with convolutions"
    aux_weight: ClassVar[float] = 0.3
    aux_outputs: ClassVar[Callable[..., Any] | None] = GoogLeNetOutputs

    aux_logits: bool = True
    dropout: float = 0.4
    dropout_aux: float = 0.7

    @nn.compact
    def forward_features(
        self,
        x: jax.Array,
        train: bool = False,
        auxiliary: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, 1024]``."""
        x = _Conv(64, 7, stride=2, padding=3, name="conv1")(x)
        x = ReLU(name="relu1")(x)
        x = _normalize(_halve(x))
        x = relu(_Conv(64, 1, name="conv2_reduce")(x))
        x = _Conv(192, 3, padding=1, name="conv2")(x)
        x = ReLU(name="relu2")(x)
        x = _halve(_normalize(x))
        for module, widths in INCEPTION_WIDTHS.items():
            if module in ("4a", "5a"):
                x = _halve(x)
            x = Inception(widths, name=f"inception{module}")(x, train)
            if auxiliary is not None and module in AUXILIARY_HEADS:
                number = AUXILIARY_HEADS[module]
                head = AuxiliaryHead(self.num_classes, self.dropout_aux, name=f"aux{number}")
                # In evaluation it runs for its parameters only, whatever the size of the images.
                size = (1, AUXILIARY_MAP, AUXILIARY_MAP, x.shape[-1])
                auxiliary[f"aux_logits{number}"] = head(
                    x if train else jnp.zeros(size, x.dtype), train
                )
        return x

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', 1024]`` to ``[N, num_classes]``."""
        x = Dropout(self.dropout)(flatten(adaptive_avg_pool(x, 1)), train)
        if pre_logits or self.num_classes == 0:
            return x
        return _LastLinear(self.num_classes, name="fc")(x)


googlenet_original = Builder(
    "googlenet_original",
    GoogLeNetOriginal,
    "GoogLeNet as published",
    parameters=6_998_552,  # without the auxiliary heads, as torchvision counts
    multiply_adds=1_582_671_872,
)
