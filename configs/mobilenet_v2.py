"""mobilenet_v2 (Sandler et al. 2018).

Trained with the recipe "mobilenet_v2" of jaxcnn/training/recipes: 300 epochs of batches of 256
images, 32 on each of 8 devices. Its source: torchvision, references/classification/README.md,
MobileNetV2.

It is reported to reach 71.878% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/mobilenet_v2.py:cifar10``."""
    return open_config("mobilenet_v2", dataset)
