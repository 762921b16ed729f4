"""regnet_y_32gf (Radosavovic et al. 2020).

Trained with the recipe "regnet_large" of jaxcnn/training/recipes: 100 epochs of batches of 256
images, 32 on each of 8 devices. Its source: torchvision, references/classification/README.md,
RegNet, large models.

It is reported to reach 80.878% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/regnet_y_32gf.py:cifar10``."""
    return open_config("regnet_y_32gf", dataset)
