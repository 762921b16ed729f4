"""regnet_x_16gf (Radosavovic et al. 2020).

Trained with the recipe "reference" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/regnet_x_16gf.py:cifar10``."""
    return open_config("regnet_x_16gf", dataset)
