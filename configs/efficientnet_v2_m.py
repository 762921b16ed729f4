"""efficientnet_v2_m (Tan and Le 2021).

Trained with the recipe "efficientnet_v2_m" of jaxcnn/training/recipes: 600 epochs of batches of
1,024 images, 32 on each of 32 devices. Its source: torchvision,
references/classification/README.md, EfficientNet-V2.

It is reported to reach 85.112% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/efficientnet_v2_m.py:cifar10``."""
    return open_config("efficientnet_v2_m", dataset)
