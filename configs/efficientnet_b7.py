"""efficientnet_b7 (Tan and Le 2019).

Trained with the recipe "efficientnet_b7" of jaxcnn/training/recipes: 350 epochs of batches of
4,096 images. Its source: Tan and Le 2019, section 5.2; tensorflow/tpu,
models/official/efficientnet.

torchvision's weights IMAGENET1K_V1 reach 84.122% top-1 on ImageNet; they are ported, and the recipe
is the paper's.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/efficientnet_b7.py:cifar10``."""
    return open_config("efficientnet_b7", dataset)
