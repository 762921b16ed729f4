"""mobilenet_v3_small (Howard et al. 2019).

Trained with the recipe "mobilenet_v3" of jaxcnn/training/recipes: 600 epochs of batches of 1,024
images, 128 on each of 8 devices. Its source: torchvision, references/classification/README.md,
MobileNetV3 Large & Small.

It is reported to reach 67.668% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1. The
published weights are the average of the last three checkpoints that improved top-1 on the
validation images; no config key does that.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/mobilenet_v3_small.py:cifar10``."""
    return open_config("mobilenet_v3_small", dataset)
