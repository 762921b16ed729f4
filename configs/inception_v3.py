"""inception_v3: Szegedy et al. 2015, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/inception_v3.py:cifar10``."""
    return recipe("inception_v3", dataset)
