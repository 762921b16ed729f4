"""efficientnet_b5 (Tan and Le 2019).

Trained with the recipe "reference" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/efficientnet_b5.py:cifar10``."""
    return open_config("efficientnet_b5", dataset)
