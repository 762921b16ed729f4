"""resnext50_32x4d (Xie et al. 2016).

Trained with the recipe "reference" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/resnext50_32x4d.py:cifar10``."""
    return open_config("resnext50_32x4d", dataset)
