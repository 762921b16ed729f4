"""anynet (Radosavovic et al. 2020).

Trained with the recipe "anynet" of jaxcnn/training/recipes: 100 epochs of batches of 1,024
images, 128 on each of 8 devices. Its source: torchvision, references/classification/README.md,
RegNet, small models.

No accuracy on ImageNet is reported for it: there are no published weights.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/anynet.py:cifar10``."""
    return open_config("anynet", dataset)
