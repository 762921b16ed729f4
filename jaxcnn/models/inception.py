"""Inception v3, as ``torchvision.models.inception`` defines it.

Szegedy et al. 2015, "Rethinking the Inception architecture for computer vision", table 1 and
figures 5 to 7 and 10.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.models.arithmetic import pair
from jaxcnn.models.blocks import BasicConv, transform_input
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    Dropout,
    Linear,
    Module,
    adaptive_avg_pool,
    avg_pool,
    flatten,
    max_pool,
)
from jaxcnn.models.registry import Builder

__all__ = ["Inception3", "inception_v3"]

# torchvision truncates at +-2, 20 standard deviations: no value is ever that large.
_initial_kernel = nn.initializers.normal(0.1)
# Of the auxiliary head's last layer. torchvision also sets 0.01 for its conv1, but on a module that
# has no weights itself, so that conv1 has 0.1 as all others.
_initial_aux_kernel = nn.initializers.normal(0.001)

InceptionConv = partial(BasicConv, kernel_init=_initial_kernel)

# Output channels, kernel size and, unless it is 1, stride.
Convolution = tuple[Any, ...]


class InceptionOutputs(NamedTuple):
    """The outputs of Inception v3 with its auxiliary head in training, each ``[N, num_classes]``.

    Attributes:
        logits: those of the main classifier.
        aux_logits: those of the auxiliary head after the last module of 17x17 pixels.
    """

    logits: jax.Array
    aux_logits: jax.Array


class InceptionModule(Module):
    """The base class of the modules, which concatenate branches of convolutions."""

    def convolve(self, x: jax.Array, train: bool, **convolutions: Convolution) -> jax.Array:
        """Apply convolutions in order, given by name: ``conv=(features, kernel_size[, stride])``.

        They keep the size of the map, except that those with a stride have no padding.
        """
        for name, (features, kernel_size, *stride) in convolutions.items():
            height, width = pair(kernel_size)
            padding = 0 if stride else (height // 2, width // 2)
            x = InceptionConv(features, kernel_size, *stride, padding=padding, name=name)(x, train)
        return x

    def pooled(self, x: jax.Array, train: bool, features: int) -> jax.Array:
        """The branch of average pooling and a 1x1 convolution."""
        return self.convolve(avg_pool(x, 3, 1, 1), train, branch_pool=(features, 1))


class InceptionA(InceptionModule):
    """A branch with a 5x5 convolution beside one with two 3x3 convolutions (figure 5).

    Attributes:
        pool_features: output channels of the pooling branch.
    """

    pool_features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H, W, 224 + pool_features]``."""
        branch = partial(self.convolve, x, train)
        branches = (
            branch(branch1x1=(64, 1)),
            branch(branch5x5_1=(48, 1), branch5x5_2=(64, 5)),
            branch(branch3x3dbl_1=(64, 1), branch3x3dbl_2=(96, 3), branch3x3dbl_3=(96, 3)),
            self.pooled(x, train, self.pool_features),
        )
        return jnp.concatenate(branches, axis=-1)


class InceptionB(InceptionModule):
    """Halve the map of 35x35 pixels (figure 10): convolutions beside max pooling."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, (H - 1) / 2, (W - 1) / 2, 480 + C]``."""
        branch = partial(self.convolve, x, train)
        branches = (
            branch(branch3x3=(384, 3, 2)),
            branch(branch3x3dbl_1=(64, 1), branch3x3dbl_2=(96, 3), branch3x3dbl_3=(96, 3, 2)),
            max_pool(x, 3, 2),
        )
        return jnp.concatenate(branches, axis=-1)


class InceptionC(InceptionModule):
    """7x7 convolutions, each factored into 1x7 and 7x1 (figure 6, n = 7).

    Attributes:
        channels_7x7: channels between the factors.
    """

    channels_7x7: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H, W, 768]``."""
        between, row, column = self.channels_7x7, (1, 7), (7, 1)
        branch = partial(self.convolve, x, train)
        branches = (
            branch(branch1x1=(192, 1)),
            branch(
                branch7x7_1=(between, 1),
                branch7x7_2=(between, row),
                branch7x7_3=(192, column),
            ),
            branch(
                branch7x7dbl_1=(between, 1),
                branch7x7dbl_2=(between, column),
                branch7x7dbl_3=(between, row),
                branch7x7dbl_4=(between, column),
                branch7x7dbl_5=(192, row),
            ),
            self.pooled(x, train, 192),
        )
        return jnp.concatenate(branches, axis=-1)


class InceptionD(InceptionModule):
    """Halve the map of 17x17 pixels: convolutions beside max pooling."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, (H - 1) / 2, (W - 1) / 2, 512 + C]``."""
        branch = partial(self.convolve, x, train)
        branches = (
            branch(branch3x3_1=(192, 1), branch3x3_2=(320, 3, 2)),
            branch(
                branch7x7x3_1=(192, 1),
                branch7x7x3_2=(192, (1, 7)),
                branch7x7x3_3=(192, (7, 1)),
                branch7x7x3_4=(192, 3, 2),
            ),
            max_pool(x, 3, 2),
        )
        return jnp.concatenate(branches, axis=-1)


class InceptionE(InceptionModule):
    """3x3 convolutions followed by 1x3 and 3x1 convolutions in parallel (figure 7)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H, W, 2048]``."""
        row, column = (1, 3), (3, 1)
        branch = partial(self.convolve, x, train)
        single = branch(branch3x3_1=(384, 1))
        double = branch(branch3x3dbl_1=(448, 1), branch3x3dbl_2=(384, 3))
        branches = (
            branch(branch1x1=(320, 1)),
            self.convolve(single, train, branch3x3_2a=(384, row)),
            self.convolve(single, train, branch3x3_2b=(384, column)),
            self.convolve(double, train, branch3x3dbl_3a=(384, row)),
            self.convolve(double, train, branch3x3dbl_3b=(384, column)),
            self.pooled(x, train, 192),
        )
        return jnp.concatenate(branches, axis=-1)


class InceptionAux(Module):
    """The auxiliary head: a 1x1 and a 5x5 convolution between poolings, one layer (figure 8).

    Attributes:
        num_classes: number of its logits.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, num_classes]``; the map has at least 17x17 pixels."""
        x = InceptionConv(128, 1, name="conv0")(avg_pool(x, 5, 3), train)
        x = InceptionConv(768, 5, name="conv1")(x, train)
        x = flatten(adaptive_avg_pool(x, 1))
        return Linear(self.num_classes, kernel_init=_initial_aux_kernel, name="fc")(x)


class Inception3(Classifier):
    """``torchvision.models.Inception3``: a stem, eleven modules, pooling, one layer.

    With images of 299x299 pixels the modules have maps of 35x35, 17x17 and 8x8 pixels. In training,
    the auxiliary head classifies the last map of 17x17; it needs images of at least 299x299.

    Attributes:
        aux_logits: whether there is an auxiliary head.
        transform_input: whether to rescale images normalized as for torchvision's other networks,
            for weights from TensorFlow: see :func:`~jaxcnn.models.blocks.transform_input`.
        dropout: dropout rate of the last layer's input.
    """

    first_conv: ClassVar[str] = "Conv2d_1a_3x3.conv"
    classifier: ClassVar[tuple[str, ...]] = ("fc", "AuxLogits.fc")
    feature_layers: ClassVar[tuple[str, ...]] = (
        *("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
    )
    paper: ClassVar[str] = (
        "Szegedy et al. 2015, Rethinking the Inception architecture for computer vision"
    )
    aux_weight: ClassVar[float] = 0.4
    aux_outputs: ClassVar[Callable[..., Any] | None] = InceptionOutputs

    input_size: int = 299
    aux_logits: bool = True
    transform_input: bool = False
    dropout: float = 0.5

    @nn.compact
    def forward_features(
        self,
        x: jax.Array,
        train: bool = False,
        auxiliary: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, 2048]``, rounded down."""
        if self.transform_input:
            x = transform_input(x)
        x = InceptionConv(32, 3, 2, name="Conv2d_1a_3x3")(x, train)
        x = InceptionConv(32, 3, name="Conv2d_2a_3x3")(x, train)
        x = InceptionConv(64, 3, padding=1, name="Conv2d_2b_3x3")(x, train)
        x = max_pool(x, 3, 2)
        x = InceptionConv(80, 1, name="Conv2d_3b_1x1")(x, train)
        x = InceptionConv(192, 3, name="Conv2d_4a_3x3")(x, train)
        x = max_pool(x, 3, 2)

        for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
            x = InceptionA(pool_features, name=f"Mixed_5{letter}")(x, train)
        x = InceptionB(name="Mixed_6a")(x, train)
        for letter, channels_7x7 in zip("bcde", (128, 160, 160, 192), strict=True):
            x = InceptionC(channels_7x7, name=f"Mixed_6{letter}")(x, train)
        if auxiliary is not None:
            head = InceptionAux(self.num_classes, name="AuxLogits")
            # In evaluation it runs for its parameters only, even if the images are too small.
            size = (1, 17, 17, x.shape[-1])
            auxiliary["aux_logits"] = head(x if train else jnp.zeros(size, x.dtype), train)
        x = InceptionD(name="Mixed_7a")(x, train)
        for letter in "bc":
            x = InceptionE(name=f"Mixed_7{letter}")(x, train)
        return x

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', 2048]`` to ``[N, num_classes]``."""
        x = Dropout(self.dropout)(flatten(adaptive_avg_pool(x, 1)), train)
        if pre_logits or self.num_classes == 0:
            return x
        return Linear(self.num_classes, kernel_init=_initial_kernel, name="fc")(x)


inception_v3 = Builder("inception_v3", Inception3, "Inception v3")
