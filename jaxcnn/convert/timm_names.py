"""The names that timm has for networks that torchvision defines alike.

timm's ResNets, Inception v3 and DenseNets have torchvision's own names; its RegNets, EfficientNets,
MobileNets, ConvNeXts and VGGs are listed here. Its ports from TensorFlow (``tf_...``) pad
differently and are other networks.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jaxcnn.models.classifier import Classifier
from jaxcnn.models.convnext import ConvNeXt
from jaxcnn.models.efficientnet import EfficientNet
from jaxcnn.models.mobilenet_v2 import MobileNetV2
from jaxcnn.models.mobilenet_v3 import MobileNetV3
from jaxcnn.models.regnet import AnyNet
from jaxcnn.models.vgg import VGG

Renamer = Callable[[str], str]


def torchvision_names(values: Mapping[str, np.ndarray], model: Classifier) -> dict[str, np.ndarray]:
    """Rename the tensors of a state dict from timm; others stay as they are.

    Args:
        values: the state dict, without a prefix.
        model: the network.

    Returns:
        The tensors by torchvision's names, in torchvision's shapes. A tensor whose name is not
        one of timm's keeps it.
    """
    for family, (mark, renamer) in _FAMILIES.items():
        if isinstance(model, family) and mark in values:
            rename = renamer(values)
            return {
                new: _reshaped(new, value)
                for new, value in ((rename(name), value) for name, value in values.items())
            }
    return dict(values)


def _reshaped(name: str, value: np.ndarray) -> np.ndarray:
    """Timm has 1x1 convolutions for dense layers, and a vector for ConvNeXt's scales."""
    if name.endswith(".layer_scale"):
        return value.reshape(-1, 1, 1)
    if name.startswith("classifier.") and value.ndim == 4:
        return value.reshape(len(value), -1)
    return value


def _by_patterns(*rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> Renamer:
    """Rename by the first pattern that matches the start of a name."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            if pattern.match(name):
                return pattern.sub(replacement, name, count=1)
        return name

    return rename


# --- inverted residuals


class _Place(NamedTuple):
    """Where a tensor of a block is.

    Attributes:
        stage: number of the stage.
        index: number of the block in its stage.
        number: number of the block in the network.
        layer: number of the layer (convolution and norm, or squeeze-and-excitation) in the block.
        part: ``"0"`` for the convolution, ``"1"`` for the norm; or ``"fc1"``, ``"fc2"``.
        is_last: whether it is the last layer of the block.
        is_block: whether the block is more than one convolution and its norm.
    """

    stage: int
    index: int
    number: int
    layer: int
    part: str
    is_last: bool
    is_block: bool


_SQUEEZE = {"se.conv_reduce": "fc1", "se.conv_expand": "fc2"}
# The layers of timm's blocks in order, each a convolution and its norm, by the convolutions that
# tell them apart.
_BLOCKS = (
    ({"conv_exp"}, (("conv_exp", "bn1"), tuple(_SQUEEZE), ("conv_pwl", "bn2"))),
    (
        {"conv_pw", "conv_pwl"},
        (("conv_pw", "bn1"), ("conv_dw", "bn2"), tuple(_SQUEEZE), ("conv_pwl", "bn3")),
    ),
    ({"conv_dw"}, (("conv_dw", "bn1"), tuple(_SQUEEZE), ("conv_pw", "bn2"))),
    ({"conv"}, (("conv", "bn1"),)),
)
_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)\.(\w+)$")


def _places(names: Iterable[str]) -> dict[str, _Place]:
    """The places of the tensors of all blocks, by their names without the leaf."""
    parts: dict[tuple[int, int], set[str]] = {}
    for name in names:
        if match := _BLOCK.match(name):
            parts.setdefault((int(match[1]), int(match[2])), set()).add(match[3])
    places = {}
    for number, ((stage, index), found) in enumerate(sorted(parts.items())):
        layers = next((layers for marks, layers in _BLOCKS if marks <= found), ())
        present = [layer for layer in layers if layer[0] in found]
        for layer, names_of_layer in enumerate(present):
            is_last = layer == len(present) - 1
            for position, part in enumerate(names_of_layer):
                places[f"blocks.{stage}.{index}.{part}"] = _Place(
                    stage,
                    index,
                    number,
                    layer,
                    _SQUEEZE.get(part, str(position)),
                    is_last,
                    len(present) > 1,
                )
    return places


def _inverted_residuals(
    values: Mapping[str, np.ndarray],
    within_block: Callable[[_Place], str],
    head: Callable[[_Place], Mapping[str, str]],
) -> Renamer:
    """Rename a network of blocks.

    Args:
        values: its state dict.
        within_block: torchvision's path of what is at a place.
        head: from a place in the last block, torchvision's paths of what follows the blocks.
    """
    places = _places(values)
    layers = {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        **{path: within_block(place) for path, place in places.items()},
        **head(max(places.values())),
    }

    def rename(name: str) -> str:
        path, _, leaf = name.rpartition(".")
        return f"{layers[path]}.{leaf}" if path in layers else name

    return rename


def _head(number: int) -> Mapping[str, str]:
    """Of a network whose last convolution is the child ``features.NUMBER``."""
    last = f"features.{number}"
    return {"conv_head": f"{last}.0", "bn2": f"{last}.1", "classifier": "classifier.1"}


def _efficientnet(values: Mapping[str, np.ndarray]) -> Renamer:
    def within_block(place: _Place) -> str:
        return f"features.{place.stage + 1}.{place.index}.block.{place.layer}.{place.part}"

    return _inverted_residuals(values, within_block, lambda last: _head(last.stage + 2))


def _mobilenet_v2(values: Mapping[str, np.ndarray]) -> Renamer:
    def within_block(place: _Place) -> str:
        block = f"features.{place.number + 1}.conv"
        if place.is_last:  # the layer without activation is not nested
            return f"{block}.{place.layer + int(place.part)}"
        return f"{block}.{place.layer}.{place.part}"

    return _inverted_residuals(values, within_block, lambda last: _head(last.number + 2))


def _mobilenet_v3(values: Mapping[str, np.ndarray]) -> Renamer:
    def within_block(place: _Place) -> str:
        block = f"features.{place.number + 1}"
        if not place.is_block:  # the last convolution
            return f"{block}.{place.part}"
        return f"{block}.block.{place.layer}.{place.part}"

    head = {"conv_head": "classifier.0", "classifier": "classifier.3"}
    return _inverted_residuals(values, within_block, lambda last: head)


# --- the others

_CONVOLUTIONS = {"conv1": "f.a", "conv2": "f.b", "conv3": "f.c", "downsample": "proj"}


def _regnet_block(match: re.Match[str]) -> str:
    stage, block, layer, part = match.groups()
    block = f"trunk_output.block{stage}.block{stage}-{int(block) - 1}"
    if layer == "se":
        return f"{block}.f.se.{part}."
    return f"{block}.{_CONVOLUTIONS[layer]}.{int(part == 'bn')}."


def _regnet(values: Mapping[str, np.ndarray]) -> Renamer:
    return _by_patterns(
        (r"stem\.conv\.", "stem.0."),
        (r"stem\.bn\.", "stem.1."),
        (r"s(\d+)\.b(\d+)\.(conv[123]|downsample|se)\.(conv|bn|fc1|fc2)\.", _regnet_block),
        (r"head\.fc\.", "fc."),
    )


def _convnext(values: Mapping[str, np.ndarray]) -> Renamer:
    def downsample(match: re.Match[str]) -> str:
        return f"features.{2 * int(match[1])}."

    def block(match: re.Match[str]) -> str:
        return f"features.{2 * int(match[1]) + 1}.{match[2]}.{_CONVNEXT[match[3]]}"

    layers = "|".join(map(re.escape, _CONVNEXT))
    return _by_patterns(
        (r"stem\.", "features.0."),
        (r"stages\.(\d+)\.downsample\.", downsample),
        (rf"stages\.(\d+)\.blocks\.(\d+)\.({layers})", block),
        (r"head\.norm\.", "classifier.0."),
        (r"head\.fc\.", "classifier.2."),
    )


_CONVNEXT = {
    "gamma": "layer_scale",
    "conv_dw": "block.0",
    "norm": "block.2",
    "mlp.fc1": "block.3",
    "mlp.fc2": "block.5",
}


def _vgg(values: Mapping[str, np.ndarray]) -> Renamer:
    return _by_patterns(
        (r"pre_logits\.fc1\.", "classifier.0."),
        (r"pre_logits\.fc2\.", "classifier.3."),
        (r"head\.fc\.", "classifier.6."),
    )


# By family: a name that only timm has, and the rules.
_FAMILIES: dict[type[Classifier], tuple[str, Callable[[Mapping[str, np.ndarray]], Renamer]]] = {
    AnyNet: ("s1.b1.conv1.conv.weight", _regnet),
    ConvNeXt: ("stages.0.blocks.0.conv_dw.weight", _convnext),
    EfficientNet: ("conv_stem.weight", _efficientnet),
    MobileNetV2: ("conv_stem.weight", _mobilenet_v2),
    MobileNetV3: ("conv_stem.weight", _mobilenet_v3),
    VGG: ("pre_logits.fc1.weight", _vgg),
}
