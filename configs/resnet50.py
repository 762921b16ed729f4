"""resnet50 (He et al. 2015).

Trained with the recipe "reference" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/resnet50.py:cifar10``."""
    return open_config("resnet50", dataset)
