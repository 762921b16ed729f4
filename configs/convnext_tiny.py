"""convnext_tiny (Liu et al. 2022).

Trained with the recipe "reference" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/convnext_tiny.py:cifar10``."""
    return open_config("convnext_tiny", dataset)
