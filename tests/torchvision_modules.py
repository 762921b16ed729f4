"""torchvision's networks where their weights do not matter."""

from typing import Any
from unittest import mock

import torch
import torchvision
from torchvision.models.regnet import BlockParams


def module_without_values(name: str) -> torch.nn.Module:
    """torchvision's, with names and shapes only."""
    computed = BlockParams.from_init_params

    def with_values(**kwargs: Any) -> BlockParams:  # RegNet's stages come out of tensors
        with torch.device("cpu"):
            return computed(**kwargs)

    with torch.device("meta"), mock.patch.object(BlockParams, "from_init_params", with_values):
        return getattr(torchvision.models, name)()


def varied_shufflenet(images: torch.Tensor) -> torch.nn.Module:
    """A ShuffleNet with other classes for different images, and probabilities far from equal.

    Args:
        images: on which it tells them apart, ``[N, 3, H, W]``.
    """
    torch.manual_seed(0)
    module = torchvision.models.shufflenet_v2_x0_5()
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.9
        for _ in range(3):
            module(images)
        module.eval()
        logits = module(images)
        module.fc.bias -= logits.mean(0)
        module.fc.weight *= 3 / logits.std(0).mean()
        module.fc.bias *= 3 / logits.std(0).mean()
    return module
