"""shufflenet_v2_x1_5 (Ma et al. 2018).

Trained with the recipe "new_shufflenet" of jaxcnn/training/recipes: 600 epochs of batches of
1,024 images, 128 on each of 8 devices. Its source: torchvision,
references/classification/README.md, ShuffleNet V2.

It is reported to reach 72.996% top-1 on ImageNet: torchvision's weights IMAGENET1K_V1.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/shufflenet_v2_x1_5.py:cifar10``."""
    return open_config("shufflenet_v2_x1_5", dataset)
