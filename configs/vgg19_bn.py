"""vgg19_bn: Simonyan and Zisserman 2014, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/vgg19_bn.py:cifar10``."""
    return recipe("vgg19_bn", dataset)
