"""squeezenet1_0 (Iandola et al. 2016).

Trained with the recipe "squeezenet" of jaxcnn/training/recipes: 100 epochs of batches of 128
images. Its source: torchvision, pull request 49.

It is reported to reach 58.092% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1. The paper's
own recipe is another.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/squeezenet1_0.py:cifar10``."""
    return open_config("squeezenet1_0", dataset)
