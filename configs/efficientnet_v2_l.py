"""efficientnet_v2_l (Tan and Le 2021).

Trained with the recipe "efficientnet_v2_l" of jaxcnn/training/recipes: 350 epochs of batches of
4,096 images. Its source: Tan and Le 2021, section 5.1 and table 6; google/automl, efficientnetv2.

torchvision's weights IMAGENET1K_V1 reach 85.808% top-1 on ImageNet; they are ported, and the recipe
is the paper's. The images grow from 128 to 380 pixels in four stages.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/efficientnet_v2_l.py:cifar10``."""
    return open_config("efficientnet_v2_l", dataset)
