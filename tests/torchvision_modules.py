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
