"""googlenet_original (Szegedy et al. 2014).

Trained with the recipe "googlenet_original" of jaxcnn/training/recipes: 250 epochs of batches of
32 images. Its source: Szegedy et al. 2014, section 6; Caffe, models/bvlc_googlenet.

No accuracy on ImageNet is reported for it: there are no published weights.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/googlenet_original.py:cifar10``."""
    return open_config("googlenet_original", dataset)
