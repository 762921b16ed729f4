"""convnext_small: Liu et al. 2022, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/convnext_small.py:cifar10``."""
    return recipe("convnext_small", dataset)
