"""vgg19_bn (Simonyan and Zisserman 2014).

Trained with the recipe "reference" of jaxcnn/training/recipes.py.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/vgg19_bn.py:cifar10``."""
    return open_config("vgg19_bn", dataset)
