"""lenet5 (LeCun et al. 1998).

Trained with the recipe "lenet" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "mnist") -> ConfigDict:
    """The config for a dataset: ``--config configs/lenet5.py:fashion_mnist``."""
    return open_config("lenet5", dataset)
