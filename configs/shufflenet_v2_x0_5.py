"""shufflenet_v2_x0_5 (Ma et al. 2018).

Trained with the recipe "reference" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/shufflenet_v2_x0_5.py:cifar10``."""
    return open_config("shufflenet_v2_x0_5", dataset)
