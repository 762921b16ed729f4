"""regnet_x_3_2gf (Radosavovic et al. 2020).

Trained with the recipe "regnet_medium" of jaxcnn/training/recipes: 100 epochs of batches of 512
images, 64 on each of 8 devices. Its source: torchvision, references/classification/README.md,
RegNet, medium models.

It is reported to reach 78.364% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/regnet_x_3_2gf.py:cifar10``."""
    return open_config("regnet_x_3_2gf", dataset)
