"""densenet169: Huang et al. 2017, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/densenet169.py:cifar10``."""
    return recipe("densenet169", dataset)
