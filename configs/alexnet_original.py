"""alexnet_original (Krizhevsky et al. 2012).

Trained with the recipe "alexnet_original" of jaxcnn/training/recipes: 90 epochs of batches of
128 images. Its source: Krizhevsky et al. 2012, sections 4 and 5.

The paper reports 59.3% top-1 on ImageNet. Inputs are of about -128 to 128, less the mean image. The
textbooks' forms are built by arguments: docs/networks.md.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/alexnet_original.py:cifar10``."""
    return open_config("alexnet_original", dataset)
