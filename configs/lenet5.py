"""lenet5: LeCun et al. 1998, with today's SGD."""

from ml_collections import config_dict

from jaxcnn.training.recipes import recipe


def get_config(dataset: str = "mnist") -> config_dict.ConfigDict:
    """The config for a dataset: ``--config configs/lenet5.py:fashion_mnist``."""
    config = recipe("lenet5", dataset)
    config.learning_rate = 0.02  # without batch norm it bears less than a ResNet
    return config
