"""efficientnet_v2_l (Tan and Le 2021).

Trained with the recipe "reference" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/efficientnet_v2_l.py:cifar10``."""
    return open_config("efficientnet_v2_l", dataset)
