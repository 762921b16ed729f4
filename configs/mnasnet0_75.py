"""mnasnet0_75 (Tan et al. 2019).

Trained with the recipe "new_mnasnet" of jaxcnn/training/recipes: 600 epochs of batches of 1,024
images, 128 on each of 8 devices. Its source: torchvision, pull request 6019.

It is reported to reach 71.18% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/mnasnet0_75.py:cifar10``."""
    return open_config("mnasnet0_75", dataset)
