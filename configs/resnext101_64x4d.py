"""resnext101_64x4d (Xie et al. 2016).

Trained with the recipe "new_resnext" of jaxcnn/training/recipes: 600 epochs of batches of 1,024
images, 128 on each of 8 devices. Its source: torchvision, pull request 5935.

It is reported to reach 83.246% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/resnext101_64x4d.py:cifar10``."""
    return open_config("resnext101_64x4d", dataset)
