"""resnext101_32x8d (Xie et al. 2016).

Trained with the recipe "resnext101" of jaxcnn/training/recipes: 100 epochs of batches of 1,024
images, 16 on each of 64 devices. Its source: torchvision, references/classification/README.md,
ResNext: the batch and rate of the published weights.

It is reported to reach 79.312% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/resnext101_32x8d.py:cifar10``."""
    return open_config("resnext101_32x8d", dataset)
