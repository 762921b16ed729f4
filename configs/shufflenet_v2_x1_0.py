"""shufflenet_v2_x1_0: Ma et al. 2018, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/shufflenet_v2_x1_0.py:cifar10``."""
    return recipe("shufflenet_v2_x1_0", dataset)
