"""googlenet_original (Szegedy et al. 2014).

Trained with the recipe "without_norm" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/googlenet_original.py:cifar10``."""
    return open_config("googlenet_original", dataset)
