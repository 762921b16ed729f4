"""resnext50_32x4d (Xie et al. 2016).

Trained with the recipe "resnext50" of jaxcnn/training/recipes: 100 epochs of batches of 256
images, 32 on each of 8 devices. Its source: torchvision, references/classification/README.md,
ResNext.

It is reported to reach 77.618% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/resnext50_32x4d.py:cifar10``."""
    return open_config("resnext50_32x4d", dataset)
