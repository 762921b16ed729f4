"""ConvNeXt: Liu et al. 2022, "A ConvNet for the 2020s"."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import jax
from flax import linen as nn

from jaxcnn.errors import UserError
from jaxcnn.models.blocks import ConvNormActivation
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    GELU,
    Conv,
    Lambda,
    LayerFactory,
    LayerNorm,
    Linear,
    Module,
    Sequential,
    StochasticDepth,
    adaptive_avg_pool,
    flatten,
)
from jaxcnn.models.registry import Builder

__all__ = ["ConvNeXt", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny"]

# The paper truncates at +-2, a hundred standard deviations: no value is ever that large.
_INIT = {"kernel_init": nn.initializers.normal(0.02), "bias_init": nn.initializers.zeros}
NextConv = partial(Conv, **_INIT)
NextLinear = partial(Linear, **_INIT)
NextNorm = partial(LayerNorm, eps=1e-6)


# In torch's Sequential this index is a permutation to channels last, which we always have.
_permute = partial(Lambda, lambda x: x)


class CNBlock(Module):
    """The ConvNeXt block: a depthwise 7x7 convolution, then two dense layers (figure 4).

    The parameter ``layer_scale``, ``[C, 1, 1]``, scales each channel of the branch (section A.1;
    Touvron et al. 2021, "Going deeper with image transformers").

    Attributes:
        initial_scale: initial value of ``layer_scale``.
        stochastic_depth_prob: probability of skipping the branch in training.
    """

    initial_scale: float
    stochastic_depth_prob: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to the same shape."""
        channels = x.shape[-1]
        layers = (
            partial(NextConv, channels, 7, padding=3, groups=channels),
            _permute,
            NextNorm,
            partial(NextLinear, 4 * channels),
            GELU,
            partial(NextLinear, channels),
        )
        y = Sequential(layers, name="block")(x, train)
        init = nn.initializers.constant(self.initial_scale)
        scale = self.param("layer_scale", init, (channels, 1, 1), self._param_dtype)
        y, scale = nn.dtypes.promote_dtype(y, scale, dtype=self.dtype)
        drop = StochasticDepth(self.stochastic_depth_prob, name="stochastic_depth")
        return x + drop(scale.reshape(-1) * y, train)


class ConvNeXt(Classifier):
    """``torchvision.models.ConvNeXt``: a 4x4 stem, four stages, 2x2 convolutions between them.

    The stages have strides 4, 8, 16 and 32, relative to the image.

    Attributes:
        widths: channels of each stage.
        depths: number of blocks of each stage.
        stochastic_depth_prob: probability of skipping the last block's branch in training; it
            grows linearly from 0 at the first block.
        layer_scale: initial scale of the blocks' branches.
        norm_layer: norm of the stem, between the stages and of the head, see
            :func:`~jaxcnn.models.layers.norm_factory`; None:
            :class:`~jaxcnn.models.layers.LayerNorm` with an eps of 1e-6. The blocks always use
            the latter, as in torchvision.
    """

    first_conv: ClassVar[str] = "features.0.0"
    classifier: ClassVar[tuple[str, ...]] = ("classifier.2",)
    paper: ClassVar[str] = "Liu et al. 2022, A ConvNet for the 2020s"

    widths: Sequence[int]
    depths: Sequence[int]
    stochastic_depth_prob: float = 0.0
    layer_scale: float = 1e-6
    norm_layer: LayerFactory | None = None

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The stages."""
        return tuple(f"features.{2 * stage + 1}" for stage in range(len(self.depths)))

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / 32, W / 32, C']``, with four stages."""
        if not 0 <= self.stochastic_depth_prob <= 1:
            raise UserError(
                f"stochastic_depth_prob={self.stochastic_depth_prob} is not a probability; use a "
                "number from 0 to 1."
            )
        norm_layer = self.norm_layer or NextNorm
        last = sum(self.depths) - 1
        blocks = [
            partial(CNBlock, self.layer_scale, self.stochastic_depth_prob * block / max(last, 1))
            for block in range(last + 1)
        ]
        layers: list[LayerFactory] = []
        for index, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            if index == 0:
                patches = partial(
                    ConvNormActivation, width, 4, 4, padding=0, use_bias=True, **_INIT
                )
                layers.append(partial(patches, norm_layer=norm_layer, activation=None))
            else:
                halve = partial(NextConv, width, 2, stride=2)
                layers.append(partial(Sequential, (norm_layer, halve)))
            layers.append(partial(Sequential, blocks[:depth]))
            blocks = blocks[depth:]
        return Sequential(layers, name="features")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', C']`` to ``[N, num_classes]``."""
        layers = [self.norm_layer or NextNorm, partial(Lambda, flatten)]
        if not pre_logits and self.num_classes:
            layers.append(partial(NextLinear, self.num_classes))
        return Sequential(layers, name="classifier")(adaptive_avg_pool(x, 1), train)


def _variant(
    name: str, doc: str, widths: Sequence[int], depths: Sequence[int], stochastic_depth_prob: float
) -> Builder[ConvNeXt]:
    defaults = {"stochastic_depth_prob": stochastic_depth_prob}
    return Builder(name, ConvNeXt, doc, defaults=defaults, widths=widths, depths=depths)


convnext_tiny = _variant(
    "convnext_tiny", "ConvNeXt-T", (96, 192, 384, 768), (3, 3, 9, 3), stochastic_depth_prob=0.1
)
convnext_small = _variant(
    "convnext_small", "ConvNeXt-S", (96, 192, 384, 768), (3, 3, 27, 3), stochastic_depth_prob=0.4
)
convnext_base = _variant(
    "convnext_base", "ConvNeXt-B", (128, 256, 512, 1024), (3, 3, 27, 3), stochastic_depth_prob=0.5
)
convnext_large = _variant(
    "convnext_large", "ConvNeXt-L", (192, 384, 768, 1536), (3, 3, 27, 3), stochastic_depth_prob=0.5
)
