"""mnasnet0_75: Tan et al. 2019, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/mnasnet0_75.py:cifar10``."""
    return recipe("mnasnet0_75", dataset)
