"""AnyNet and RegNet: Radosavovic et al. 2020, "Designing network design spaces".

A network of the AnyNet design space (section 3.1, figure 3) has a stem, a body of stages, and a
head; each stage has its own depth, width, group width and bottleneck ratio. RegNets (section 3.3)
are those whose widths follow a quantized linear rule: :func:`regnet_stages`. Their blocks are the X
block or, with squeeze-and-excitation, the Y block (section 4). :class:`AnyNet` builds them all.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
from flax import linen as nn

from jaxcnn.errors import UserError
from jaxcnn.models.blocks import (
    Activation,
    ConvNormActivation,
    SqueezeExcitation,
    make_divisible,
)
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    BatchNorm,
    LayerFactory,
    Linear,
    Module,
    adaptive_avg_pool,
    flatten,
)
from jaxcnn.models.registry import Builder

__all__ = [
    "AnyNet",
    "anynet",
    "regnet_stages",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_x_8gf",
    "regnet_x_16gf",
    "regnet_x_32gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_8gf",
    "regnet_y_16gf",
    "regnet_y_32gf",
    "regnet_y_128gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
]

# Widths are rounded to multiples of this.
QUANTUM = 8


class Stages(NamedTuple):
    """Depth, width and group width of each stage of a RegNet."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_widths: tuple[int, ...]


def regnet_stages(
    depth: int,
    w_0: int,
    w_a: float,
    w_m: float,
    group_width: int,
    bottleneck_ratio: float = 1.0,
) -> Stages:
    """The stages of a RegNet by the quantized linear rule (section 3.3, equations 2 to 4).

    The width of block j, ``w_0 + w_a * j``, is rounded to the nearest ``w_0 * w_m ** s`` with an
    integer s (nearest on a logarithmic scale), then to a multiple of 8. Consecutive blocks of the
    same width form a stage. Finally the bottlenecks are rounded to a multiple of the group width.

    Args:
        depth: total number of blocks (the paper's d).
        w_0: initial width, a multiple of 8.
        w_a: slope of the widths.
        w_m: ratio between the widths of consecutive stages, more than 1.
        group_width: channels per group (the paper's g), fewer where a bottleneck is narrower.
        bottleneck_ratio: ratio of a block's width to that of its bottleneck (the paper's b).

    Raises:
        UserError: for numbers outside these ranges.

    Example::

        >>> regnet_stages(depth=22, w_0=24, w_a=24.48, w_m=2.54, group_width=16)
        Stages(depths=(1, 2, 7, 12), widths=(32, 64, 160, 400), group_widths=(16, 16, 16, 16))
    """
    if depth < 1 or w_0 < 1 or w_0 % QUANTUM or w_a < 0 or w_m <= 1:
        raise UserError(
            f"A RegNet needs depth >= 1, w_0 a positive multiple of {QUANTUM}, w_a >= 0 and "
            f"w_m > 1; got depth={depth}, w_0={w_0}, w_a={w_a} and w_m={w_m}."
        )
    if group_width < 1 or bottleneck_ratio <= 0:
        raise UserError(
            "A RegNet needs group_width >= 1 and bottleneck_ratio > 0; got "
            f"group_width={group_width} and bottleneck_ratio={bottleneck_ratio}."
        )
    exponents = [round(math.log((w_0 + w_a * j) / w_0, w_m)) for j in range(depth)]
    block_widths = [round(w_0 * w_m**s / QUANTUM) * QUANTUM for s in exponents]
    runs = [(width, len(list(run))) for width, run in itertools.groupby(block_widths)]
    bottlenecks = [int(width / bottleneck_ratio) for width, _ in runs]
    if min(bottlenecks) < 1:
        raise UserError(
            f"bottleneck_ratio={bottleneck_ratio} leaves a stage of this RegNet without channels "
            "in its bottleneck; use a smaller one."
        )
    group_widths = [min(group_width, bottleneck) for bottleneck in bottlenecks]
    widths = [
        int(make_divisible(bottleneck, group) * bottleneck_ratio)
        for bottleneck, group in zip(bottlenecks, group_widths, strict=True)
    ]
    return Stages(tuple(depth for _, depth in runs), tuple(widths), tuple(group_widths))


class Chain(Module):
    """``Sequential`` with names in place of numbers.

    Attributes:
        layers: pairs of name and factory, which is called as ``factory(name=...)``.
    """

    layers: Sequence[tuple[str, LayerFactory]]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Apply the layers in order."""
        for name, layer in self.layers:
            x = layer(name=name)(x, train)
        return x


class XBlock(Module):
    """The X block: a residual bottleneck with a grouped convolution (figure 4).

    With ``se_ratio`` the Y block: squeeze-and-excitation after that convolution (section 4).

    Attributes:
        width: output channels.
        stride: of the 3x3 convolution and of the shortcut.
        group_width: channels per group of the 3x3 convolution.
        bottleneck_ratio: ratio of ``width`` to the channels of the 3x3 convolution.
        se_ratio: ratio of the channels in squeeze-and-excitation to the block's input channels;
            None or 0: no squeeze-and-excitation.
        norm_layer: factory of the norms.
        activation: after each convolution, and after the addition.
        conv_bias: whether the convolutions have biases, which start at zero.
    """

    width: int
    stride: int = 1
    group_width: int = 1
    bottleneck_ratio: float = 1.0
    se_ratio: float | None = None
    norm_layer: LayerFactory = BatchNorm
    activation: Activation = nn.relu
    conv_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H / stride, W / stride, width]``."""
        path = ".".join(self.path)
        bottleneck = round(self.width / self.bottleneck_ratio)
        groups, rest = divmod(bottleneck, self.group_width)
        if rest or not groups:
            raise UserError(
                f"Block {path!r} has a bottleneck of {bottleneck} channels (width {self.width}, "
                f"bottleneck ratio {self.bottleneck_ratio}), which is not divisible by the group "
                f"width, {self.group_width}; use a group width that divides it."
            )
        conv = partial(
            ConvNormActivation,
            norm_layer=self.norm_layer,
            activation=self.activation,
            use_bias=self.conv_bias,
        )
        project = partial(conv, self.width, 1, activation=None)
        layers: list[tuple[str, LayerFactory]] = [
            ("a", partial(conv, bottleneck, 1)),
            ("b", partial(conv, bottleneck, 3, self.stride, groups=groups)),
            ("c", project),
        ]
        if self.se_ratio:
            squeezed = round(self.se_ratio * x.shape[-1])
            if squeezed < 1:
                raise UserError(
                    f"Block {path!r} with se_ratio={self.se_ratio} would squeeze its "
                    f"{x.shape[-1]} input channels to {squeezed}; use a larger se_ratio."
                )
            # Biases keep torch's default.
            excite = partial(
                SqueezeExcitation, squeezed, activation=self.activation, bias_init=None
            )
            layers.insert(2, ("se", excite))
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.width:
            shortcut = project(stride=self.stride, name="proj")(x, train)
        return self.activation(shortcut + Chain(layers, name="f")(x, train))


class AnyNet(Classifier):
    """A network of the AnyNet design space, which includes ``torchvision.models.RegNet``.

    The stem halves the image; each stage has blocks of one width, the first with the stage's
    stride; the head is pooling and one dense layer. Sequences have one number per stage.

    Attributes:
        depths: number of blocks.
        widths: channels of the blocks.
        group_widths: channels per group of the 3x3 convolutions.
        bottleneck_ratios: ratios of the widths to the channels of the 3x3 convolutions (as in the
            paper; torchvision's ``bottleneck_multiplier`` is the inverse); None: 1 in every stage.
        strides: of the first block; None: 2 in every stage.
        se_ratio: ratio of the channels in squeeze-and-excitation to a block's input channels;
            None: no squeeze-and-excitation.
        stem_width: channels of the stem.
        stem_type: factory of the stem, called as ``stem_type(stem_width, norm_layer=...,
            activation=..., name=...)``; None: a 3x3 convolution of stride 2, norm, activation.
        block_type: factory of the blocks, called with the keyword arguments of :class:`XBlock`;
            None: :class:`XBlock`.
        norm_layer: see :func:`~jaxcnn.models.layers.norm_factory`; None:
            :class:`~jaxcnn.models.layers.BatchNorm`.
        activation: None: ``flax.linen.relu``.
        conv_bias: whether the convolutions of the default stem and blocks have biases, as in
            textbooks; they start at zero. torchvision's have none.
    """

    first_conv: ClassVar[str] = "stem.0"
    classifier: ClassVar[tuple[str, ...]] = ("fc",)
    paper: ClassVar[str] = "Radosavovic et al. 2020, Designing network design spaces"

    depths: Sequence[int]
    widths: Sequence[int]
    group_widths: Sequence[int]
    bottleneck_ratios: Sequence[float] | None = None
    strides: Sequence[int] | None = None
    se_ratio: float | None = None
    stem_width: int = 32
    stem_type: LayerFactory | None = None
    block_type: LayerFactory | None = None
    norm_layer: LayerFactory | None = None
    activation: Activation | None = None
    conv_bias: bool = False

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The stem and the stages."""
        stages = range(1, len(self.depths) + 1)
        return ("stem", *(f"trunk_output.block{index}" for index in stages))

    @nn.compact
    def forward_features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Map ``[N, H, W, C]`` to ``[N, H', W', widths[-1]]``."""
        stem = self.stem_type or partial(
            ConvNormActivation, kernel_size=3, stride=2, use_bias=self.conv_bias
        )
        common = {
            "norm_layer": self.norm_layer or BatchNorm,
            "activation": self.activation or nn.relu,
        }
        block = self.block_type or partial(XBlock, conv_bias=self.conv_bias)
        block = partial(block, se_ratio=self.se_ratio, **common)

        x = stem(self.stem_width, name="stem", **common)(x, train)
        body = [(f"block{i}", self._stage(i, block, *s)) for i, s in enumerate(self._stages(), 1)]
        return Chain(body, name="trunk_output")(x, train)

    @nn.compact
    def forward_head(
        self, x: jax.Array, train: bool = False, pre_logits: bool = False
    ) -> jax.Array:
        """Map ``[N, H', W', C']`` to ``[N, num_classes]``."""
        x = flatten(adaptive_avg_pool(x, 1))
        if pre_logits or self.num_classes == 0:
            return x
        normal, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
        return Linear(self.num_classes, kernel_init=normal, bias_init=zeros, name="fc")(x)

    def _stages(self) -> list[tuple[Any, ...]]:
        """Depth, width, group width, bottleneck ratio and stride of each stage, checked."""
        ones, twos = (1,) * len(self.depths), (2,) * len(self.depths)
        numbers = {
            "depths": self.depths,
            "widths": self.widths,
            "group_widths": self.group_widths,
            "bottleneck_ratios": ones if self.bottleneck_ratios is None else self.bottleneck_ratios,
            "strides": twos if self.strides is None else self.strides,
        }
        if len({len(values) for values in numbers.values()}) > 1 or not self.depths:
            lengths = ", ".join(f"{len(values)} {name}" for name, values in numbers.items())
            raise UserError(f"An AnyNet needs one number of each per stage; got {lengths}.")
        for name, values in numbers.items():
            least = 0 if name == "bottleneck_ratios" else 1
            if any(value < least or value == 0 for value in values):
                raise UserError(
                    f"An AnyNet's {name} must be {'at least 1' if least else 'more than 0'}; "
                    f"got {tuple(values)}."
                )
        return list(zip(*numbers.values(), strict=True))

    @staticmethod
    def _stage(
        index: int,
        block: LayerFactory,
        depth: int,
        width: int,
        group: int,
        ratio: float,
        stride: int,
    ) -> LayerFactory:
        """The blocks of a stage, named ``block1-0``, ``block1-1``, ... as in torchvision."""
        block = partial(block, width=width, group_width=group, bottleneck_ratio=ratio)
        strides = (stride,) + (1,) * (depth - 1)
        blocks = [(f"block{index}-{i}", partial(block, stride=s)) for i, s in enumerate(strides)]
        return partial(Chain, blocks)


def _regnet(name: str, doc: str, se_ratio: float | None = None, **rule: Any) -> Builder[AnyNet]:
    stages = regnet_stages(**rule)
    ones, twos = (1,) * len(stages.depths), (2,) * len(stages.depths)
    fixed = {"bottleneck_ratios": ones, "strides": twos, "se_ratio": se_ratio, **stages._asdict()}
    return Builder(name, AnyNet, doc, **fixed)


_x, _y = _regnet, partial(_regnet, se_ratio=0.25)

# Depth, w_0, w_a, w_m and group width: the paper's figures 15 and 16.
regnet_x_400mf = _x(
    "regnet_x_400mf", "RegNetX-400MF", depth=22, w_0=24, w_a=24.48, w_m=2.54, group_width=16
)
regnet_x_800mf = _x(
    "regnet_x_800mf", "RegNetX-800MF", depth=16, w_0=56, w_a=35.73, w_m=2.28, group_width=16
)
regnet_x_1_6gf = _x(
    "regnet_x_1_6gf", "RegNetX-1.6GF", depth=18, w_0=80, w_a=34.01, w_m=2.25, group_width=24
)
regnet_x_3_2gf = _x(
    "regnet_x_3_2gf", "RegNetX-3.2GF", depth=25, w_0=88, w_a=26.31, w_m=2.25, group_width=48
)
regnet_x_8gf = _x(
    "regnet_x_8gf", "RegNetX-8.0GF", depth=23, w_0=80, w_a=49.56, w_m=2.88, group_width=120
)
regnet_x_16gf = _x(
    "regnet_x_16gf", "RegNetX-16GF", depth=22, w_0=216, w_a=55.59, w_m=2.1, group_width=128
)
regnet_x_32gf = _x(
    "regnet_x_32gf", "RegNetX-32GF", depth=23, w_0=320, w_a=69.86, w_m=2.0, group_width=168
)
regnet_y_400mf = _y(
    "regnet_y_400mf", "RegNetY-400MF", depth=16, w_0=48, w_a=27.89, w_m=2.09, group_width=8
)
regnet_y_800mf = _y(
    "regnet_y_800mf", "RegNetY-800MF", depth=14, w_0=56, w_a=38.84, w_m=2.4, group_width=16
)
regnet_y_1_6gf = _y(
    "regnet_y_1_6gf", "RegNetY-1.6GF", depth=27, w_0=48, w_a=20.71, w_m=2.65, group_width=24
)
regnet_y_3_2gf = _y(
    "regnet_y_3_2gf", "RegNetY-3.2GF", depth=21, w_0=80, w_a=42.63, w_m=2.66, group_width=24
)
regnet_y_8gf = _y(
    "regnet_y_8gf", "RegNetY-8.0GF", depth=17, w_0=192, w_a=76.82, w_m=2.19, group_width=56
)
regnet_y_16gf = _y(
    "regnet_y_16gf", "RegNetY-16GF", depth=18, w_0=200, w_a=106.23, w_m=2.48, group_width=112
)
regnet_y_32gf = _y(
    "regnet_y_32gf", "RegNetY-32GF", depth=20, w_0=232, w_a=115.89, w_m=2.53, group_width=232
)
regnet_y_128gf = _y(
    "regnet_y_128gf", "RegNetY-128GF", depth=27, w_0=456, w_a=160.83, w_m=2.52, group_width=264
)

# By default the smallest RegNetX.
anynet = Builder(
    "anynet",
    AnyNet,
    "A network of the AnyNet design space",
    parameters=5_495_976,
    multiply_adds=413_812_608,
    defaults={key: regnet_x_400mf.fixed[key] for key in Stages._fields},
)
