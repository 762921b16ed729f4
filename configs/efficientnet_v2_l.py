"""efficientnet_v2_l: Tan and Le 2021, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/efficientnet_v2_l.py:cifar10``."""
    return recipe("efficientnet_v2_l", dataset)
