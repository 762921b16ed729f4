"""efficientnet_b1 (Tan and Le 2019).

Trained with the recipe "efficientnet_b1" of jaxcnn/training/recipes: 350 epochs of batches of
4,096 images. Its source: Tan and Le 2019, section 5.2; tensorflow/tpu,
models/official/efficientnet.

torchvision's weights IMAGENET1K_V1 reach 78.642% top-1 on ImageNet; they are ported, and the recipe
is the paper's. Those weights are timm's, of another recipe: see docs/recipes.md.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/efficientnet_b1.py:cifar10``."""
    return open_config("efficientnet_b1", dataset)
