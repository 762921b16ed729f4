"""wide_resnet101_2: torchvision's reference recipe on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/wide_resnet101_2.py:cifar10``."""
    return recipe("wide_resnet101_2", dataset)
