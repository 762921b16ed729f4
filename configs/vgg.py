"""vgg (Simonyan and Zisserman 2014).

Trained with the recipe "without_norm" of jaxcnn/training/recipes: 90 epochs of batches of 256
images, 32 on each of 8 devices. Its source: torchvision, references/classification/README.md,
AlexNet and VGG.

No accuracy on ImageNet is reported for it: there are no published weights.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/vgg.py:cifar10``."""
    return open_config("vgg", dataset)
