"""wide_resnet50_2 (Zagoruyko and Komodakis 2016).

Trained with the recipe "reference" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/wide_resnet50_2.py:cifar10``."""
    return open_config("wide_resnet50_2", dataset)
