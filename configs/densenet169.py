"""densenet169 (Huang et al. 2017).

Trained with the recipe "densenet" of jaxcnn/training/recipes: 90 epochs of batches of 256
images, 64 on each of 4 devices. Its source: Huang et al. 2017, section 4.2, and fb.resnet.torch,
datasets/imagenet.lua.

torchvision's weights IMAGENET1K_V1 reach 75.6% top-1 on ImageNet; they are ported, and the recipe
is the paper's.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/densenet169.py:cifar10``."""
    return open_config("densenet169", dataset)
