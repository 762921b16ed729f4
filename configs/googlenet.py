"""googlenet (Szegedy et al. 2014).

Trained with the recipe "googlenet" of jaxcnn/training/recipes: 250 epochs of batches of 32
images. Its source: Szegedy et al. 2014, section 6; Caffe, models/bvlc_googlenet.

torchvision's weights IMAGENET1K_V1 reach 69.778% top-1 on ImageNet; they are ported, and the recipe
is the paper's.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/googlenet.py:cifar10``."""
    return open_config("googlenet", dataset)
