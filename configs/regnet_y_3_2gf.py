"""regnet_y_3_2gf: Radosavovic et al. 2020, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/regnet_y_3_2gf.py:cifar10``."""
    return recipe("regnet_y_3_2gf", dataset)
