"""SqueezeNet, as ``torchvision.models.squeezenet`` defines it.

Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size". Version 1.0 is the paper's. Version 1.1, by the same authors, has a smaller stem and earlier
pooling, and 2.4 times fewer multiply-adds.
"""

from collections.abc import Set
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    INITIALIZERS,
    Conv,
    Dropout,
    Lambda,
    Module,
    ReLU,
    Sequential,
    adaptive_avg_pool,
    flatten,
    max_pool,
    relu,
)
from jaxcnn.models.registry import Builder

__all__ = ["SqueezeNet", "squeezenet1_0", "squeezenet1_1"]

# Initial weights as torch.nn.init.kaiming_uniform_ with its defaults; initial biases of zero.
SqueezeConv = partial(
    Conv, kernel_init=INITIALIZERS["kaiming_uniform"], bias_init=nn.initializers.zeros
)

FIRES = 8


class _Version(NamedTuple):
    """How the versions differ (table 1): in the stem, and before which fire modules they pool."""

    stem_channels: int
    stem_kernel_size: int
    pools: Set[int]


_VERSIONS = {
    "1_0": _Version(96, 7, frozenset({0, 3, 7})),
    "1_1": _Version(64, 3, frozenset({0, 2, 4})),
}


class Fire(Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 convolutions in parallel (figure 1).

    Attributes:
        squeeze_planes: output channels of the first convolution.
        expand_planes: output channels, half of them from each of the parallel convolutions.
    """

    squeeze_planes: int
    expand_planes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H, W, expand_planes]``."""
        half = self.expand_planes // 2
        x = relu(SqueezeConv(self.squeeze_planes, 1, name="squeeze")(x))
        points = SqueezeConv(half, 1, name="expand1x1")(x)
        windows = SqueezeConv(half, 3, padding=1, name="expand3x3")(x)
        return relu(jnp.concatenate((points, windows), axis=-1))


class SqueezeNet(Classifier):
    """``torchvision.models.SqueezeNet``: a stem, eight fire modules, a convolution to the classes.

    Every second fire module expands to 128 channels more; each squeezes to an eighth of its output
    channels (section 5.1). The logits are means over the map.

    Attributes:
        version: ``"1_0"`` or ``"1_1"``.
        dropout: dropout rate of the last convolution's input.
    """

    first_conv: ClassVar[str] = "features.0"
    classifier: ClassVar[tuple[str, ...]] = ("classifier.1",)
    paper: ClassVar[str] = (
        "Iandola et al. 2016, SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and "
        "<0.5MB model size"
    )

    version: str = "1_0"
    dropout: float = 0.5

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The last fire module of each stride, and the rectifier of the stem."""
        pools = self._version().pools
        # The stem is two layers. Before each later pooling layer there are fire modules and pools.
        before = [fire + sum(pool < fire for pool in pools) + 1 for fire in sorted(pools)]
        return tuple(f"features.{index}" for index in (*before, FIRES + len(pools) + 1))

    @nn.nowrap
    def _version(self) -> _Version:
        if self.version not in _VERSIONS:
            raise UserError(
                f"Unknown SqueezeNet version {self.version!r}; {suggest(self.version, _VERSIONS)}"
            )
        return _VERSIONS[self.version]

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 16, W / 16, 512]``."""
        version = self._version()
        pool = partial(Lambda, partial(max_pool, kernel_size=3, stride=2, ceil_mode=True))
        features = [
            partial(SqueezeConv, version.stem_channels, version.stem_kernel_size, stride=2),
            ReLU,
        ]
        for fire in range(FIRES):
            expand = 128 * (1 + fire // 2)
            features += [pool] * (fire in version.pools) + [partial(Fire, expand // 8, expand)]
        return Sequential(tuple(features), name="features")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', 512]`` to ``[N, num_classes]``; before the last layer ``[N, 512]``."""
        if pre_logits or self.num_classes == 0:
            return flatten(adaptive_avg_pool(x, 1))
        layers = (
            partial(Dropout, self.dropout),
            partial(SqueezeConv, self.num_classes, 1, kernel_init=nn.initializers.normal(0.01)),
            ReLU,
            partial(Lambda, partial(adaptive_avg_pool, output_size=1)),
        )
        return flatten(Sequential(layers, name="classifier")(x, train))


_variant = partial(Builder, module=SqueezeNet)

squeezenet1_0 = _variant("squeezenet1_0", doc="SqueezeNet 1.0", version="1_0")
squeezenet1_1 = _variant("squeezenet1_1", doc="SqueezeNet 1.1", version="1_1")
