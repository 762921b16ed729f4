"""nin (Lin et al. 2013).

Trained with the recipe "nin" of jaxcnn/training/recipes: 90 epochs of batches of 128 images. Its
source: Lin et al. 2013, section 4.1; Krizhevsky et al. 2012, section 5.

No accuracy on ImageNet is reported for it: there are no published weights.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/nin.py:cifar10``."""
    return open_config("nin", dataset)
