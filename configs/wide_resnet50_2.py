"""wide_resnet50_2 (Zagoruyko and Komodakis 2016).

Trained with the recipe "wide_resnet" of jaxcnn/training/recipes: 256 epochs of batches of 256
images, 32 on each of 8 devices. Its source: torchvision, pull request 912.

It is reported to reach 78.468% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1. The
published run restarted its cosine; when, is not said.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/wide_resnet50_2.py:cifar10``."""
    return open_config("wide_resnet50_2", dataset)
