"""efficientnet_b3: Tan and Le 2019, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/efficientnet_b3.py:cifar10``."""
    return recipe("efficientnet_b3", dataset)
