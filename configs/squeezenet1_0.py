"""squeezenet1_0: Iandola et al. 2016, on ImageNet, or what suits another dataset."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/squeezenet1_0.py:cifar10``."""
    return recipe("squeezenet1_0", dataset)
