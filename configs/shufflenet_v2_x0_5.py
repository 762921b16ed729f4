"""shufflenet_v2_x0_5 (Ma et al. 2018).

Trained with the recipe "shufflenet" of jaxcnn/training/recipes: 240 epochs of batches of 1,024
images, 256 on each of 4 devices. Its source: Ma et al. 2018, section 4: the settings of Zhang et
al. 2018 (ShuffleNet), section 4.

torchvision's weights IMAGENET1K_V1 reach 60.552% top-1 on ImageNet; they are ported, and the recipe
is the paper's.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/shufflenet_v2_x0_5.py:cifar10``."""
    return open_config("shufflenet_v2_x0_5", dataset)
