"""convnext_small (Liu et al. 2022).

Trained with the recipe "convnext_small" of jaxcnn/training/recipes: 600 epochs of batches of
1,024 images, 64 on each of 16 devices. Its source: torchvision,
references/classification/README.md, ConvNeXt.

It is reported to reach 83.616% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/convnext_small.py:cifar10``."""
    return open_config("convnext_small", dataset)
