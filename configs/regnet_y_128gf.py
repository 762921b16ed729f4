"""regnet_y_128gf (Radosavovic et al. 2020).

Trained with the recipe "swag" of jaxcnn/training/recipes: 8 epochs of batches of 512 images, 8
on each of 64 devices. Its source: facebookresearch/SWAG, issues 8 and 9.

It is reported to reach 88.228% top-1 on ImageNet: torchvision's weights IMAGENET1K_SWAG_E2E_V1. The
recipe is a fine-tuning: start from SWAG's trunk with --config.init_from=IMAGENET1K_SWAG_LINEAR_V1.
How to train the network from random weights is not published.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/regnet_y_128gf.py:cifar10``."""
    return open_config("regnet_y_128gf", dataset)
